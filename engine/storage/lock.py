"""One writer of a run folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from saematch.errors import MatchError, refusals


@contextlib.contextmanager
def locked(path: Path, what: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which names this process, or refuse and name the one that does.

    The lock is the operating system's: it ends with the process that holds it, however that ends, so none is ever
    stale. `shared` is for several that keep out of each other's way and together keep out everyone else; `wait` waits
    for the other process instead.

    Raises:
        MatchError: if another process holds it.
    """
    with _opened(path) as file:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MatchError(f"{what}: {_owner(file)} is writing it; wait for it or choose another folder") from error
        except OSError as error:
            warnings.warn(
                f"{path}: this file system has no locks ({error.strerror}); see to it that nobody else writes here",
                stacklevel=2,
            )
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(me).encode(), 0)
        yield


_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked process shares the lock, and would hold it on when its parent is gone."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    with refusals("cannot be written", path, OSError):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(file)
    try:
        yield file
    finally:
        if file in _held:
            _held.remove(file)
            os.close(file)


def _owner(file: int) -> str:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {int(owner['pid'])} on {owner['host']!s}, since {owner['since']!s},"
    except (ValueError, KeyError, TypeError):
        return "another process"
