"""A lock file, which keeps a second process from writing to the same folder."""

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
    """Hold a lock file for as long as the `with` block lasts, and write into it which process holds it.

    The lock is one of the operating system: it ends with the process that holds it, even if the process is killed, so
    that no lock is ever left behind. A file system without locks causes a warning.

    Args:
        path: the lock file, which is created if need be.
        what: the name of what is locked, for the message.
        shared: whether other processes may hold the lock too, if they also share it.
        wait: whether to wait for the other process, instead of raising an error.

    Raises:
        MatchError: if another process holds the lock, naming the process; or if the file cannot be written.
    """
    with _opened(path) as file:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MatchError(f"{what}: {_owner(file)} is writing it; wait for it or choose another folder") from error
        except OSError as error:
            remedy = "make sure that no other process writes to this folder"
            warnings.warn(f"{path}: this file system has no locks ({error.strerror}); {remedy}", stacklevel=2)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(owner).encode(), 0)
        yield


_open_files: set[int] = set()  # of the locks that this process holds


def _close_in_child() -> None:
    """Close the lock files in a forked process, which would otherwise hold the locks after its parent has ended."""
    for file in _open_files:
        os.close(file)
    _open_files.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    with refusals("cannot be written", path, OSError):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _open_files.add(file)
    try:
        yield file
    finally:
        if file in _open_files:  # not in a forked process, which has closed it
            _open_files.remove(file)
            os.close(file)


def _owner(file: int) -> str:
    """Return the process that a lock file names, for a message."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {int(owner['pid'])} on {owner['host']!s}, since {owner['since']!s},"
    except (ValueError, KeyError, TypeError):
        return "another process"
