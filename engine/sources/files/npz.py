"""The reader of `.npz` files, as `numpy.savez` writes them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.numeric.threads import ThreadPool
from saematch.sources.files.checks import Piece, archive_members, tensor_header, widened

_MOST_HEADER_BYTES = 2**16  # of one array
_MOST_EXPANSION = 50  # float weights hardly compress: a file that grows more than this cannot hold weights
_LENGTHS_AT = 26  # where the header of a file in an archive has the lengths of the name and the extra field after it
_CHUNK_BYTES = 2**18  # that are read at a time, so that their checksum is computed while they are in the cache


class _Array(NamedTuple):
    """An array of an archive: its file in there, and what the header of that file says.

    Attributes:
        member: the file.
        start: the number of bytes before the values.
        shape: the shape.
        by_columns: whether the values stand in the order of Fortran.
        dtype: the number type, which may be of another byte order than that of this machine.
    """

    member: zipfile.ZipInfo
    start: int
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


def npz_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Read the headers: name -> tensor without data. Raises `MatchError`."""
    return {
        name: tensor_header(shown, name, array.shape, array.dtype.name) for name, array in _arrays(file, shown).items()
    }


def npz_tensors(path: Path, headers: Mapping[str, Any], pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Read pieces of a file whose headers were checked: key of the piece -> tensor. Raises `MatchError`."""
    with path.open("rb") as file:
        arrays = _arrays(file, str(path))
    with ThreadPool(sum(header.numel() for header in headers.values())) as pool:
        tensors = pool.run(partial(_read, path, array) for array in arrays.values())
    read = dict(zip(arrays, tensors, strict=True))
    return {key: piece.of(read[piece.name]) for key, piece in pieces.items()}


def _arrays(file: BinaryIO, shown: str) -> dict[str, _Array]:
    """Read and check the headers of all arrays of an archive. Raises `MatchError`."""
    arrays = {}
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        for member in archive_members(archive, shown, size):
            name = member.filename.removesuffix(".npy")
            if member.file_size > _MOST_EXPANSION * max(1, member.compress_size):
                raise MatchError(f"{shown}: {name} expands {_MOST_EXPANSION}-fold or more, which weights never do")
            # The length of the header, after the magic string and version: 2 bytes in version 1.0, then 4.
            with archive.open(member) as inside:
                preamble = inside.read(12)
            width = 2 if preamble[6:8] == b"\x01\x00" else 4
            if int.from_bytes(preamble[8 : 8 + width], "little") > _MOST_HEADER_BYTES:
                raise MatchError(f"{shown}: {name} has a header of more than {_MOST_HEADER_BYTES} bytes")
            # The header itself, which numpy parses without running code.
            with archive.open(member) as inside:
                first = np.lib.format.read_magic(inside) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, by_columns, dtype = read(inside)
                arrays[name] = _Array(member, inside.tell(), shape, by_columns, dtype)
            if dtype.hasobject:
                raise MatchError(
                    f"{shown}: {name} is a pickled object; it is not opened, because unpickling runs code. "
                    "Save plain float arrays with numpy.savez"
                )
            # The values must fill the rest of the file exactly: then they take no more memory than the file says.
            if arrays[name].start + tensor_header(shown, name, shape, dtype.name).nbytes != member.file_size:
                raise MatchError(f"{shown}: {name} is not as large as its shape {shape} says")
    return arrays


def _read(path: Path, array: _Array) -> Tensor:
    """Read an array into memory of its own, and compare it with its checksum."""
    out = np.empty(array.shape, array.dtype, order="F" if array.by_columns else "C")
    content = out.ravel(order="K").view(np.uint8).data
    with _opened(path, array.member) as file:
        checksum = zlib.crc32(file.read(array.start))
        for at in range(0, len(content), _CHUNK_BYTES):
            chunk = content[at : at + _CHUNK_BYTES]
            if file.readinto(chunk) < len(chunk):
                raise EOFError(f"{array.member.filename!r} ends too early")
            checksum = zlib.crc32(chunk, checksum)
    if checksum != array.member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {array.member.filename!r}")
    tensor: Tensor = widened(torch.from_numpy(out.astype(array.dtype.newbyteorder("="), copy=False)))
    return tensor


@contextmanager
def _opened(path: Path, member: zipfile.ZipInfo) -> Iterator[Any]:
    """Open a file of an archive. If it is not compressed, it is read from the archive directly, without a copy."""
    with path.open("rb") as file:
        if member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size:
            file.seek(member.header_offset + _LENGTHS_AT)
            file.seek(sum(struct.unpack("<HH", file.read(4))), SEEK_CUR)
            yield file
        else:
            with zipfile.ZipFile(file) as archive, archive.open(member) as inside:
                yield inside
