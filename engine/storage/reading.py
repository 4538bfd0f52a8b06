"""Reading files of unknown origin: their hashes, and the refusals of files that cannot be read as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.errors import MatchError, refusals

_POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = len(_POINTER)  # enough of a file to recognise a pointer


class Unusable(MatchError):
    """The refusal of a file that seems to hold an SAE, and must be changed or downloaded before it can be read."""


def refuse_pointer(content: bytes, shown: str) -> None:
    """Raise `Unusable` if this is the pointer that Git leaves in place of a large file without Git LFS."""
    if content.startswith(_POINTER):
        raise Unusable(
            f"{shown}: is not the file but a pointer of Git LFS to it; fetch it with git lfs pull, or get the "
            "repository with hf download"
        )


def refuse_pointer_at(path: Path) -> None:
    """Call `refuse_pointer` for a file that another reader opens; that reader reports all other errors."""
    with suppress(OSError), path.open("rb") as file:
        refuse_pointer(file.read(POINTER_BYTES), str(path))


@contextmanager
def parsing(shown: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an exception of a parser of the file `shown` into a `MatchError`; `kinds` are those of `refusals`."""
    remedy = "the file may be truncated or not what its name says"
    if any("\udc80" <= letter <= "\udcff" for letter in shown):  # how Python represents bytes that are not UTF-8
        remedy = "its path is not valid UTF-8, and the library that reads tensors opens no such file: rename it"
    with refusals("cannot be read", shown, *kinds, remedy=remedy):
        try:
            yield
        except FileNotFoundError as error:
            raise MatchError(f"{shown}: no such file") from error


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes in hexadecimal. Raises `MatchError` if the file cannot be read."""
    with refusals("cannot be read", path, OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_array(path: Path) -> NDArray[Any]:
    """Return the memory-mapped array of a `.npy` file, which is never unpickled, and takes no memory for a false size.

    Raises `OSError`, `ValueError` or `EOFError` if the file holds anything else.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of arrays, as .npz files are")
    return array


def mapped_array(path: Path, axes: int, kinds: str) -> NDArray[Any]:
    """Return a memory-mapped array of a `.npy` file, which is never unpickled.

    Raises `MatchError` unless it has the number of axes, and one of the kinds of numbers.
    """
    refuse_pointer_at(path)
    if not path.exists():
        raise MatchError(f"{path}: no such file")
    with refusals("not an array that can be read", path, OSError, ValueError, EOFError):
        array = stored_array(path)
    if array.ndim != axes or array.dtype.kind not in kinds:
        expected = {2: "(tokens, d) of floating-point numbers", 1: "(tokens,) of integers"}[axes]
        raise MatchError(f"{path}: {array.dtype} {array.shape}; expected {expected}")
    return array
