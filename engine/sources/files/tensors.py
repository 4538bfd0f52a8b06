"""Reading tensors from untrusted files: headers first, no unpickling but of tensors, and sizes checked before reading.

Headers are read from any file object that can seek, local or remote. Weights are read from local files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from saematch.sources.files.checks import Piece
from saematch.sources.files.npz import npz_headers, npz_tensors
from saematch.sources.files.safetensors import safetensors_headers, safetensors_tensors
from saematch.sources.files.torch_zip import torch_headers, torch_tensors
from saematch.storage.reading import POINTER_BYTES, parsing, refuse_pointer


class _Reader(NamedTuple):
    headers: Callable[[BinaryIO, str], dict[str, Any]]
    tensors: Callable[[Path, Mapping[str, Any], Mapping[str, Piece]], dict[str, Any]]


_TORCH = _Reader(torch_headers, torch_tensors)
_READERS = {
    ".npz": _Reader(npz_headers, npz_tensors),
    ".safetensors": _Reader(safetensors_headers, safetensors_tensors),
    ".pt": _TORCH,
    ".pth": _TORCH,
}
SUFFIXES = tuple(_READERS)


def read_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Read the headers of a file: name -> tensor without data, on torch's meta device.

    A file of torch may also hold numbers, names and small dictionaries of these, which are returned unchanged.

    Args:
        file: the file, at its beginning.
        shown: the name of the file in messages; its suffix selects the reader, which is that of torch by default.

    Raises:
        MatchError: if the file is damaged, or its sizes do not fit each other.
    """
    with parsing(shown):  # a parser of damaged or hostile bytes may raise anything, and so may its decompressor
        refuse_pointer(file.read(POINTER_BYTES), shown)
        file.seek(0)
        return _READERS.get(Path(shown).suffix, _TORCH).headers(file, shown)


def read_tensors(path: Path, shown: str | None = None, pieces: Mapping[str, Piece] | None = None) -> dict[str, Any]:
    """Read a file, with values, on the CPU: all that `read_headers` returns, or the given pieces of it by their keys.

    Tensors are in float64 if they are stored so, and else in float32. Raises `MatchError`.
    """
    shown = shown or str(path)
    with parsing(shown):
        with path.open("rb") as file:
            headers = read_headers(file, shown)
        if pieces is None:
            pieces = {name: Piece(name) for name in headers}
        with torch.device("cpu"):  # safetensors makes slices on the default device, which the host program may set
            return _READERS.get(path.suffix, _TORCH).tensors(path, headers, pieces)
