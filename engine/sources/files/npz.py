"""`.npz` files, as `numpy.savez` writes them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from saematch.errors import MatchError
from saematch.sources.files.checks import archive_members, tensor_header, widened

_MOST_HEADER_BYTES = 2**16  # of one array's
_MOST_EXPANSION = 50  # float weights hardly compress; a member that grows more than this is no weights


def npz_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Name -> tensor without data, from the headers of the file alone. Raises `MatchError`."""
    found = {}
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        for member in archive_members(archive, shown, size):
            name = member.filename.removesuffix(".npy")
            if member.file_size > _MOST_EXPANSION * max(1, member.compress_size):
                raise MatchError(f"{shown}: {name} expands {_MOST_EXPANSION}-fold or more: these are no weights")
            with archive.open(member) as inside:
                preamble = inside.read(12)
            width = 2 if preamble[6:8] == b"\x01\x00" else 4
            if int.from_bytes(preamble[8 : 8 + width], "little") > _MOST_HEADER_BYTES:
                raise MatchError(f"{shown}: {name} has a header of more than {_MOST_HEADER_BYTES} bytes")
            with archive.open(member) as inside:
                first = np.lib.format.read_magic(inside) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(inside)
                start = inside.tell()
            if dtype.hasobject:
                raise MatchError(
                    f"{shown}: {name} is a pickled object; it is not opened, since unpickling runs code. "
                    "Save plain float arrays with numpy.savez"
                )
            found[name] = tensor_header(shown, name, shape, dtype.name)
            if start + found[name].nbytes != member.file_size:
                raise MatchError(f"{shown}: {name} is not as large as its shape {shape} says")
    return found


def npz_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> tensor with its values, of a file whose headers were checked. Raises `MatchError`."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in found}
    native = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays.items()}
    return {name: widened(torch.from_numpy(a)) for name, a in native.items()}
