"""The reader of `.pt` and `.pth` files, the zip archives that `torch.save` writes.

Such an archive has one pickle, `data.pkl`, which names the tensors and their shapes, and one file for each storage, the
block of values that one or more tensors share. A pickle may run code and ask for any amount of memory, so it is checked
before torch opens it, and torch opens it with its unpickler for weights, which makes tensors and plain values only.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.files.checks import Piece, archive_members, room_for, tensor_header

_MOST_PICKLE_BYTES = 2**20  # of a dictionary of tensors, without their values
_MOST_TUPLES = 10_000  # a tensor has a few tuples; a pickle that is nested deeper than Python can unpickle has more
# The globals that a pickle may name. They are checked first: even a harmless global can be asked for much memory.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch Size|"
    r"torch\._utils _rebuild_(tensor_v2|tensor|parameter)|torch (float64|float32|float16|bfloat16|int64|int32|bool)"
)
# Operations of pickles that torch.save never writes: they call objects, or name globals in ways that are not checked.
_FORBIDDEN = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID")
_NUMBER_BYTES = 8  # a storage of at most so many bytes may be a number, such as k, whose value headers give


def torch_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Read the headers: name -> tensor without data; numbers in tensors without dimensions have their value.

    Raises `MatchError`.
    """
    # The archive is checked as bytes, before anything of it is unpickled.
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
        raise MatchError(
            f"{shown}: cannot be read (no archive as torch.save writes it since version 1.6); the file may be "
            "truncated, or is older: load it where you trust it, and save it again"
        )
    with zipfile.ZipFile(file) as archive:
        storages, numbers = _check_records(archive, shown, size)
    # Tensors on the meta device take no memory, and no values are read for them.
    file.seek(0)
    headers = _load_weights_only(shown, file, map_location="meta")
    # Each storage that the tensors use must be in the archive: a file of that size, which no other storage uses.
    total, keys = 0, dict[int, str]()  # torch numbers the storages in the order of their first tensors
    for name, value in headers.items():
        if not isinstance(value, Tensor):
            continue
        storage = value.untyped_storage()
        if storage._cdata not in keys:
            storages[storage.nbytes()] -= 1
        if value.numel() and (storages[storage.nbytes()] < 0 or value.nbytes > storage.nbytes()):
            raise MatchError(f"{shown}: {name} claims the shape {tuple(value.shape)}, more than is stored of it")
        key = keys.setdefault(storage._cdata, str(len(keys)))
        if value.ndim == 0 and len(numbers.get(key, b"")) == value.element_size():
            headers[name] = torch.frombuffer(bytearray(numbers[key]), dtype=value.dtype)[0]
        tensor_header(shown, name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        total += value.nbytes
    # Tensors that share one storage would each take its size when they are copied.
    if total > size:
        raise MatchError(f"{shown}: its tensors claim {total} bytes, and the file has {size}")
    return headers


def torch_tensors(path: Path, _: Mapping[str, Any], pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """Read pieces of a file whose headers were checked: key of the piece -> tensor or value. Raises `MatchError`."""
    stored = _load_weights_only(str(path), path, map_location="cpu", mmap=True)
    without = [name for name, value in stored.items() if isinstance(value, Tensor) and value.is_meta]
    if without:
        raise MatchError(f"{path}: {without[0]} is a tensor without data (of torch's meta device)")
    return {key: _copied(stored[piece.name], piece) for key, piece in pieces.items()}


def _copied(value: Any, piece: Piece) -> Any:
    """Return a piece of a tensor in memory of its own, and any other value unchanged."""
    if not isinstance(value, Tensor):
        return value
    found = piece.of(value)
    return room_for(found).copy_(found)


def _check_records(archive: zipfile.ZipFile, shown: str, size: int) -> tuple[Counter[int], dict[str, bytes]]:
    """Check an archive before any of it is unpickled.

    Returns:
        How many storages of each size in bytes the archive holds, and the bytes of the smallest storages by their key.

    Raises:
        MatchError: for an archive that `torch.save` does not write.
    """
    sizes: Counter[int] = Counter()
    numbers: dict[str, bytes] = {}
    members = archive_members(archive, shown, size)
    # Torch finds the pickle whatever the case of its letters, so two spellings are two pickles.
    pickles = [member.filename for member in members if member.filename.lower().rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise MatchError(f"{shown}: does not have the one data.pkl that torch.save writes; it is not opened")
    # Torch never compresses, and a storage of at most 8 bytes is read at once: it may be a number.
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise MatchError(f"{shown}: {member.filename} is compressed, or larger than the file, unlike torch's")
        if member.filename == pickles[0]:
            if member.file_size > _MOST_PICKLE_BYTES:
                raise MatchError(
                    f"{shown}: {member.filename} has {member.file_size} bytes, too many for a dictionary of tensors"
                )
            _check_pickle(archive.read(member), shown)
        if "/data/" in member.filename:
            sizes[member.file_size] += 1
            if member.file_size <= _NUMBER_BYTES:
                numbers[member.filename.rpartition("/")[2]] = archive.read(member)
    return sizes, numbers


def _load_weights_only(shown: str, file: Any, **options: Any) -> dict[str, Any]:
    """Load a dictionary with torch's unpickler for weights. Raises `MatchError` for anything but a dictionary."""
    stored = torch.load(file, weights_only=True, **options)
    if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored):
        raise MatchError(f"{shown}: holds a {type(stored).__name__}; expected a dictionary of named tensors")
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in stored.items()}


def _check_pickle(content: bytes, shown: str) -> None:
    """Raise `MatchError` for a pickle that is more than a dictionary of tensors and plain values."""
    tuples = 0
    for operation, argument, _ in pickletools.genops(content):
        tuples += operation.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES:
            raise MatchError(f"{shown}: more than {_MOST_TUPLES} tuples in its pickle, too many for tensors")
        if operation.name in _FORBIDDEN:
            raise MatchError(f"{shown}: its pickle is not as torch.save writes it ({operation.name}); it is not opened")
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            raise MatchError(
                f"{shown}: its pickle names {str(argument)[:60].replace(' ', '.')!r}, which is not a tensor; it is not "
                "opened, because unpickling runs code"
            )
