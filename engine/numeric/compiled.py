"""Numba as this package uses it: compiled on first use, cached on disk where a disk allows it, free of the GIL."""

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

from saematch.errors import is_out_of_memory
from saematch.resources import refuse_little_room
from saematch.text import first_line

# The first loop that is compiled makes numba load SciPy's BLAS, where SciPy is installed. Its start takes some buffers
# of 33 MB, and where it gets none tries for ever: it is loaded before memory is taken for anything else.
refuse_little_room(2**27)
from numba.np import arraymath  # noqa: E402, F401

Function = TypeVar("Function", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

_LLVM_LOCK = ffi.lib._lock._lock


def _hold() -> None:
    """Wait until no thread compiles: a forked child inherits locks without the threads that release them.

    A thread may wait for either lock while it holds the other.
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
    """Compile a loop with IEEE arithmetic in the order written."""
    return _compiled(function, fastmath=False)


def compiled_sums(function: Function) -> Function:
    """Compile a loop whose floating-point sums may be reordered, so that they vectorise.

    The order is fixed for a machine, whatever the number of threads; rounding bounds must hold for any order.
    """
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: Function, **options: Any) -> Function:
    dispatcher = numba.njit(nogil=True, **options)(function)
    with suppress(RuntimeError, OSError):  # no folder to cache in: neither the package's nor the user's can be written
        dispatcher._cache = _Cache(function)
    return cast(Function, dispatcher)


class _Cache(FunctionCache):
    """Numba's cache, which is never an obstacle: if it cannot be read or written, functions are compiled again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever unpickling damaged bytes may raise
            _log.info("%s: cannot be read (%s)", self.cache_path, first_line(error))
            if not isinstance(error, OSError | SystemError) and not is_out_of_memory(error):  # else the files are whole
                with suppress(Exception):
                    self.flush()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, a quota, a folder that has become read-only
            _log.info("%s: cannot be written (%s)", self.cache_path, first_line(error))


class _CheckedFile(IndexDataCacheFile):
    """Numba's files, whose code is known by a hash: it may be cut short, zeros after a power cut, or of another key.

    Machine code that is not what was saved would end the process instead of raising an error. It is of another key
    where two processes have written one index.
    """

    def save(self, key: Any, data: Any) -> None:
        content = self._dump(data)
        super().save(key, (_hash(key, content), content))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        if found is None:
            return None
        expected, content = found
        if expected != _hash(key, content):
            raise ValueError("its content is not what was saved")
        return pickle.loads(content)


def _hash(key: Any, content: bytes) -> str:
    return hashlib.sha256(repr(key).encode() + content).hexdigest()
