"""`.safetensors` files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.files.checks import MOST_MEMBERS, tensor_header, widened

_MOST_JSON_BYTES = 4 * 2**20  # of a header
_BLOCK_BYTES = 2**24  # of what is widened at a time


def safetensors_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Name -> tensor without data, from the headers of the file alone. Raises `MatchError`."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MOST_JSON_BYTES, size - 8):
        raise MatchError(f"{shown}: cannot be read (no safetensors header); the file may be truncated")
    entries = json.loads(file.read(length))
    about = entries.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise MatchError(f"{shown}: its __metadata__ is no dictionary of texts: not as safetensors writes it")
    if len(entries) > MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(entries)} tensors in it, more than any SAE has")
    found = {name: tensor_header(shown, name, entry["shape"], entry["dtype"]) for name, entry in entries.items()}
    ends = 0  # tensors lie one after the other, without gaps
    for (start, end), name in sorted((tuple(entry["data_offsets"]), name) for name, entry in entries.items()):
        if type(start) is not int or start != ends or end - start != found[name].nbytes:
            raise MatchError(
                f"{shown}: {name} is not where, or not as large as, its shape {tuple(found[name].shape)} says"
            )
        ends = end
    if 8 + length + ends != size:
        raise MatchError(
            f"{shown}: cannot be read ({size} bytes, its header says {8 + length + ends}); the file may be truncated"
        )
    return found


def safetensors_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> tensor with its values, of a file whose headers were checked. Raises `MatchError`."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: _sliced(file, name, header) for name, header in found.items()}


def _sliced(file: Any, name: str, header: Tensor) -> Tensor:
    """A tensor, widened a slice of rows at a time, so that its narrow form is never there as a whole."""
    wanted = widened(header).dtype
    if wanted == header.dtype or not header.numel() or not header.ndim:
        stored: Tensor = file.get_tensor(name)
        return stored.to(wanted)
    out, part = torch.empty(header.shape, dtype=wanted, device="cpu"), file.get_slice(name)
    step = max(1, _BLOCK_BYTES // max(1, header.nbytes // len(header)))
    for row in range(0, len(header), step):
        out[row : row + step] = part[row : row + step]
    return out
