"""The checks and limits that the readers of all file types share."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saematch.errors import MatchError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "BOOL": torch.bool, "float64": torch.float64, "float32": torch.float32,
    "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32,
    "bool": torch.bool,
}  # fmt: skip
Index = tuple[int | None, ...]  # for each of the first dimensions of a tensor, the place that is taken, or None for all


class Piece(NamedTuple):
    """A piece of a stored tensor.

    Attributes:
        name: the name of the tensor in its file.
        at: the places that are taken; the whole tensor by default.
    """

    name: str
    at: Index = ()

    def header(self, stored: Any) -> Any:
        """Return the piece of a stored tensor without data; whole tensors and other values are returned unchanged."""
        return selected(stored, self.at) if isinstance(stored, Tensor) and self.at else stored

    def of(self, tensor: Tensor) -> Tensor:
        """Return the piece of a tensor with data."""
        return tensor[tuple(slice(None) if place is None else place for place in self.at)]


MOST_MEMBERS = 10_000  # files of an archive, or tensors of a file


def archive_members(archive: zipfile.ZipFile, shown: str, size: int) -> list[zipfile.ZipInfo]:
    """List the files in an archive of `size` bytes, which is never unpacked to disk.

    Raises `MatchError` for an archive with too many files, with two files of one name, with files that overlap (as in
    archives that unpack to far more than their size), or with a compression that neither numpy nor torch uses.
    """
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(members)} files in it, more than any SAE has")
    if len({member.filename.casefold() for member in members}) < len(members):
        raise MatchError(f"{shown}: two files of one name in it")
    if sum(member.compress_size for member in members) > size:
        raise MatchError(f"{shown}: the files in it claim more bytes than it has: they overlap")
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    packed = [member.filename for member in members if member.compress_type not in methods]
    if packed:
        raise MatchError(f"{shown}: {packed[0]} is compressed in a way that neither numpy nor torch writes")
    return members


def tensor_header(shown: str, name: str, shape: Sequence[int], dtype: str) -> Tensor:
    """Return a tensor without data. Raises `MatchError` for a shape or number type that weights cannot have."""
    if dtype not in _DTYPES:
        raise MatchError(f"{shown}: {name} is stored as {dtype}; expected float16, bfloat16, float32 or float64")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise MatchError(f"{shown}: {name} claims the shape {tuple(shape)}")
    return torch.empty(tuple(shape), dtype=_DTYPES[dtype], device="meta")


def widened(value: Any) -> Any:
    """Return a tensor of floats in the precision in which weights are read: float64 if stored so, else float32.

    Any other value is returned unchanged.
    """
    return value.to(_wide(value.dtype)) if isinstance(value, Tensor) else value


def room_for(stored: Tensor) -> Tensor:
    """Return an uninitialised tensor on the CPU for the values of another, in the precision of `widened`.

    Numpy allocates it: numpy asks for huge pages, which the system provides faster than as many small ones.
    """
    return torch.from_numpy(np.empty(stored.shape, str(_wide(stored.dtype)).removeprefix("torch.")))


def selected(stored: Tensor, index: Index) -> Tensor:
    """Return a tensor without data of the shape and number type that a piece of a stored tensor has."""
    kept = [size for place, size in enumerate(stored.shape) if place >= len(index) or index[place] is None]
    return torch.empty(kept, dtype=stored.dtype, device="meta")


def row_blocks(stored: Tensor, index: Index, most: int) -> Iterator[tuple[slice, tuple[int | slice, ...]]]:
    """Yield the rows of a piece of a stored tensor, in blocks of at most `most` bytes, and where they are stored."""
    part = selected(stored, index)
    key: list[int | slice] = [slice(None) if place is None else place for place in index]
    first = index.index(None) if None in index else len(index)
    key += [slice(None)] * (first == len(key))
    step = max(1, most // max(1, part.nbytes // len(part)))
    for row in range(0, len(part), step):
        key[first] = slice(row, row + step)
        yield slice(row, row + step), tuple(key)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype != torch.float64 else dtype
