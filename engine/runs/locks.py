"""Access to the folder of a run: whether it can be written, and which process writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from saematch.errors import MatchError, refusals
from saematch.storage.folders import Folder, LocalFolder, folder_at
from saematch.storage.lock import locked


def check_target(where: str | os.PathLike[str]) -> None:
    """Raise `MatchError` unless a run can be written to a folder: it is new, or empty, or has a run."""
    folder = folder_at(where)
    if not isinstance(folder, LocalFolder):
        folder.names()
        return
    with refusals("cannot be written", where, OSError):
        above = next(parent for parent in (folder.path, *folder.path.absolute().parents) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise MatchError(f"{where}: cannot be written; {above} is {'read-only' if above.is_dir() else 'a file'}")
        others = [] if not folder.path.exists() else [name for name in os.listdir(folder.path) if name[0] != "."]
    if others and "run.json" not in others:
        raise MatchError(f"{where}: the folder holds other files; choose an empty or a new one")


def lock_run(where: str | os.PathLike[str], shard: tuple[int, int] | None = None) -> AbstractContextManager[object]:
    """Keep other processes from writing to a run.

    Several shards of a run may be written at the same time, but each shard by one process only, and not together with
    the whole run. A store that a URL leads to has no locks.

    Raises:
        MatchError: if another process writes to the run, naming the process; or if the folder cannot be written.
    """
    folder = folder_at(where)
    if not isinstance(folder, LocalFolder):
        return nullcontext()
    with refusals("cannot be written", where, OSError):
        folder.path.mkdir(parents=True, exist_ok=True)
    if shard is None:
        return locked(folder.path / ".lock", str(where))
    return _locked_shard(folder.path, shard)


def lock_start(folder: Folder) -> AbstractContextManager[object]:
    """Let one process at a time start a run, so that of several shards one starts it, and the others find it."""
    if not isinstance(folder, LocalFolder):
        return nullcontext()
    return locked(folder.path / ".lock-start", str(folder), wait=True)


@contextmanager
def _locked_shard(path: Path, shard: tuple[int, int]) -> Iterator[None]:
    number, total = shard
    with (
        locked(path / ".lock", str(path), shared=True),
        locked(path / f".lock-{number}-of-{total}", f"{path}, shard {number}/{total}"),
    ):
        yield
