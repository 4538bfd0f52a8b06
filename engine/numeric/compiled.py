"""Numba as this package uses it: compiled on first use, cached on disk if possible, and without the GIL."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
from llvmlite.binding import ffi
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.compiler_lock import global_compiler_lock
from typing_extensions import override

from saematch.errors import is_out_of_memory
from saematch.resources import refuse_little_room
from saematch.text import first_line

# If SciPy is installed, the first compiled loop makes numba load SciPy's BLAS. That library allocates some buffers of
# 33 MB when it starts, and tries for ever if it gets none. It is therefore loaded here, before other memory is used.
refuse_little_room(2**27)
from numba.np import arraymath  # noqa: E402, F401

Function = TypeVar("Function", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

_LLVM_LOCK = ffi.lib._lock._lock


def _hold() -> None:
    """Wait until no thread compiles, and keep others from compiling while this process forks.

    A forked child inherits locks without the threads that would release them. A thread may wait for either of the two
    locks while it holds the other, so that this function never waits for the second lock without releasing the first.
    """
    while True:
        global_compiler_lock.acquire()
        if _LLVM_LOCK.acquire(timeout=0.01):
            return
        global_compiler_lock.release()


def _release() -> None:
    _LLVM_LOCK.release()
    global_compiler_lock.release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)


def compiled(function: Function) -> Function:
    """Compile a loop with IEEE arithmetic, in the order in which operations are written."""
    return _compiled(function, fastmath=False)


def compiled_sums(function: Function) -> Function:
    """Compile a loop whose floating-point sums may be reordered, so that they vectorise.

    The order is fixed for a machine, whatever the number of threads. Rounding bounds must hold for any order.
    """
    return _compiled(function, fastmath={"reassoc", "contract"})


def compiled_minima(function: Function) -> Function:
    """Compile a loop whose minima vectorise, in IEEE arithmetic and in order. No number in it may be NaN."""
    return _compiled(function, fastmath={"nnan", "nsz"})


def _compiled(function: Function, **options: Any) -> Function:
    dispatcher = numba.njit(nogil=True, **options)(function)
    with suppress(RuntimeError, OSError):  # neither the package's folder nor the user's cache folder can be written
        dispatcher._cache = _Cache(function)
    return cast(Function, dispatcher)


class _Cache(FunctionCache):
    """Numba's cache, except that functions are compiled again if it cannot be read or written."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, stamp)

    @override
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling damaged bytes may raise anything
            _log.info("%s: cannot be read (%s)", self.cache_path, first_line(error))
            # Damaged files are removed. After errors of the system, or if memory ran out, the files may be intact.
            if not isinstance(error, OSError | SystemError) and not is_out_of_memory(error):
                with suppress(Exception):
                    self.flush()
        return None

    @override
    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # such as a full disk, a quota, or a folder that has become read-only
            _log.info("%s: cannot be written (%s)", self.cache_path, first_line(error))


class _CheckedFile(IndexDataCacheFile):
    """Numba's cache files, with a hash of each function's machine code and key.

    Running damaged machine code would end the process instead of raising an error. Code can be truncated, be zeros
    after a power cut, or belong to another key if two processes have written one index.
    """

    @override
    def save(self, key: Any, data: Any) -> None:
        content = self._dump(data)
        super().save(key, (_hash(key, content), content))

    @override
    def load(self, key: Any) -> Any:
        entry = super().load(key)
        if entry is None:
            return None
        expected, content = entry
        if expected != _hash(key, content):
            raise ValueError("its content is not what was saved")
        return pickle.loads(content)


def _hash(key: Any, content: bytes) -> str:
    return hashlib.sha256(repr(key).encode() + content).hexdigest()
