"""What every reader of an untrusted file checks, and the limits that it keeps to."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "BOOL": torch.bool, "float64": torch.float64, "float32": torch.float32,
    "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32,
    "bool": torch.bool,
}  # fmt: skip
MOST_MEMBERS = 10_000  # of an archive, or tensors of a file


def archive_members(archive: zipfile.ZipFile, shown: str, size: int) -> list[zipfile.ZipInfo]:
    """The files in an archive of so many bytes, which is never unpacked to disk."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(members)} files in it, more than any SAE has")
    if len({member.filename.casefold() for member in members}) < len(members):
        raise MatchError(f"{shown}: two files of one name in it")
    if sum(member.compress_size for member in members) > size:
        raise MatchError(f"{shown}: the files in it claim more than it has: they overlap")
    packed = [each.filename for each in members if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    if packed:
        raise MatchError(f"{shown}: {packed[0]} is compressed in a way that neither numpy nor torch writes")
    return members


def tensor_header(shown: str, name: str, shape: Sequence[int], dtype: str) -> Tensor:
    """A tensor without data, of a shape and number type that weights may have. Raises `MatchError`."""
    if dtype not in _DTYPES:
        raise MatchError(f"{shown}: {name} is stored as {dtype}; expected float16, bfloat16, float32 or float64")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise MatchError(f"{shown}: {name} claims the shape {tuple(shape)}")
    return torch.empty(tuple(shape), dtype=_DTYPES[dtype], device="meta")


def widened(value: Any) -> Any:
    """A tensor as `tensors` gives it; anything else as it is."""
    narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(torch.float32) if narrow else value
