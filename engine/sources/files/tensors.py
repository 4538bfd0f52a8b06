"""Tensors out of untrusted files: headers first, nothing unpickled but tensors, sizes checked before memory is taken.

What is read from a header needs a file that can be sought, here or far away; weights are read from files that are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from saematch.sources.files.npz import npz_headers, npz_tensors
from saematch.sources.files.safetensors import safetensors_headers, safetensors_tensors
from saematch.sources.files.torch_zip import torch_headers, torch_tensors
from saematch.storage.reading import POINTER_BYTES, parsing, refuse_pointer

SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")
_READERS: dict[str, Callable[[Path, Mapping[str, Any]], dict[str, Any]]] = {
    ".npz": npz_tensors,
    ".safetensors": safetensors_tensors,
}


def headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Name -> tensor without data (on torch's meta device) of a `.npz`, `.safetensors`, `.pt` or `.pth` file.

    In the latter, what is no tensor (a number, a name, a small dictionary of these) is there as it is. `shown` names
    the file in messages, and its suffix decides. Raises `MatchError`.
    """
    read = {".npz": npz_headers, ".safetensors": safetensors_headers}.get(Path(shown).suffix, torch_headers)
    with parsing(shown):  # a parser of damaged or hostile bytes may raise anything, and so may its decompressor
        refuse_pointer(file.read(POINTER_BYTES), shown)
        file.seek(0)
        return read(file, shown)


def tensors(path: Path, shown: str | None = None) -> dict[str, Any]:
    """What `headers` names, with values: in float32, or float64 where it was stored so. Raises `MatchError`."""
    shown = shown or str(path)
    with parsing(shown):
        with path.open("rb") as file:
            found = headers(file, shown)
        with torch.device("cpu"):  # whatever the host program's default is: safetensors makes slices there
            return _READERS.get(path.suffix, torch_tensors)(path, found)
