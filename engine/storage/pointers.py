"""Files that have to be changed or fetched before they can be read, such as the pointers that Git LFS leaves."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from saematch.errors import MatchError

_POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = len(_POINTER)  # that tell whether a file is one


class Unusable(MatchError):
    """The refusal of a file that seems to hold an SAE, and has to be changed or fetched before it can be read."""


def refuse_pointer(content: bytes, shown: str) -> None:
    """Raise `Unusable` for what Git leaves in place of a large file where Git LFS is not installed."""
    if content.startswith(_POINTER):
        raise Unusable(
            f"{shown}: is not the file but a pointer of Git LFS to it; fetch it with git lfs pull, or get the "
            "repository with hf download"
        )


def refuse_pointer_at(path: Path) -> None:
    """`refuse_pointer` for a file that something else reads, which says what else is wrong with it."""
    with suppress(OSError), path.open("rb") as file:
        refuse_pointer(file.read(len(_POINTER)), str(path))
