"""The reader of `.safetensors` files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.files.checks import MOST_MEMBERS, Piece, room_for, row_blocks, selected, tensor_header

_MOST_HEADER_BYTES = 4 * 2**20
_BLOCK_BYTES = 2**24  # of the rows that are widened at a time


def safetensors_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Read the header: name -> tensor without data. Raises `MatchError`."""
    # The file begins with the length of its header, in 8 bytes.
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MOST_HEADER_BYTES, size - 8):
        raise MatchError(f"{shown}: cannot be read (no safetensors header); the file may be truncated")
    # The header is JSON: an entry for each tensor, and perhaps a dictionary of texts.
    entries = json.loads(file.read(length))
    about = entries.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise MatchError(f"{shown}: its __metadata__ is not a dictionary of texts, as safetensors writes it")
    if len(entries) > MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(entries)} tensors in it, more than any SAE has")
    headers = {name: tensor_header(shown, name, entry["shape"], entry["dtype"]) for name, entry in entries.items()}
    # The tensors follow one after the other, without gaps, and fill the file.
    expected_start = 0
    for (start, end), name in sorted((tuple(entry["data_offsets"]), name) for name, entry in entries.items()):
        if type(start) is not int or start != expected_start or end - start != headers[name].nbytes:
            shape = tuple(headers[name].shape)
            raise MatchError(f"{shown}: {name} does not have the position or the size that its shape {shape} implies")
        expected_start = end
    if 8 + length + expected_start != size:
        raise MatchError(
            f"{shown}: cannot be read ({size} bytes, its header says {8 + length + expected_start}); the file may be "
            "truncated"
        )
    return headers


def safetensors_tensors(path: Path, headers: Mapping[str, Any], pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Read pieces of a file whose headers were checked: key of the piece -> tensor. Raises `MatchError`."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return {key: _widened_in_blocks(file, piece, headers[piece.name]) for key, piece in pieces.items()}


def _widened_in_blocks(file: Any, piece: Piece, header: Tensor) -> Tensor:
    """Read a piece of a tensor and widen it a block of rows at a time, so that memory never holds all of it twice.

    The values are copied, because a file that is written over would change tensors that are mapped to it.
    """
    out = room_for(selected(header, piece.at))
    if not out.numel() or not out.ndim:
        return out.copy_(piece.of(file.get_tensor(piece.name)))
    stored = file.get_slice(piece.name)
    for rows, key in row_blocks(header, piece.at, _BLOCK_BYTES):
        out[rows] = stored[key]
    return out
