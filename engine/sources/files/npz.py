"""The reader of `.npz` files, as `numpy.savez` writes them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from saematch.errors import MatchError
from saematch.sources.files.checks import archive_members, tensor_header, widened

_MOST_HEADER_BYTES = 2**16  # of one array
_MOST_EXPANSION = 50  # float weights hardly compress: a file that grows more than this cannot hold weights


def npz_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Read the headers: name -> tensor without data. Raises `MatchError`."""
    headers = {}
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
                shape, _, dtype = read(inside)
                start = inside.tell()
            if dtype.hasobject:
                raise MatchError(
                    f"{shown}: {name} is a pickled object; it is not opened, because unpickling runs code. "
                    "Save plain float arrays with numpy.savez"
                )
            # The values must fill the rest of the file exactly: then numpy takes no more memory than the file says.
            headers[name] = tensor_header(shown, name, shape, dtype.name)
            if start + headers[name].nbytes != member.file_size:
                raise MatchError(f"{shown}: {name} is not as large as its shape {shape} says")
    return headers


def npz_tensors(path: Path, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Read the tensors of a file whose headers were checked: name -> tensor. Raises `MatchError`."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in headers}
    native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    return {name: widened(torch.from_numpy(array)) for name, array in native.items()}
