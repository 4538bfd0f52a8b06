"""`.pt` and `.pth` files, the archives that `torch.save` writes."""

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
from saematch.sources.files.checks import archive_members, tensor_header, widened

_MOST_PICKLE_BYTES = 2**20  # of a dictionary of tensors, without their values
_MOST_TUPLES = 10_000  # a tensor has a few tuples; what is nested deeper than Python bears has more
# What a pickle may name. Its globals are looked at before it is opened: even a harmless one can ask for much memory.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch Size|"
    r"torch\._utils _rebuild_(tensor_v2|tensor|parameter)|torch (float64|float32|float16|bfloat16|int64|int32|bool)"
)


def torch_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Torch never compresses, and its unpickler for weights makes tensors and plain values only."""
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
        raise MatchError(
            f"{shown}: cannot be read (no archive as torch.save writes it since version 1.6); the file may be "
            "truncated, or is older: load it where you trust it, and save it again"
        )
    with zipfile.ZipFile(file) as archive:
        stored, numbers = _check_records(archive, shown, size)
    file.seek(0)
    found = _weights_only(shown, file, map_location="meta")  # reads no values
    total, keys = 0, dict[int, str]()  # torch numbers storages in the order in which it meets them
    for name, value in found.items():
        if not isinstance(value, Tensor):
            continue
        storage = value.untyped_storage()
        if storage._cdata not in keys:
            stored[storage.nbytes()] -= 1
        if value.numel() and (stored[storage.nbytes()] < 0 or value.nbytes > storage.nbytes()):
            raise MatchError(f"{shown}: {name} claims the shape {tuple(value.shape)}, more than is stored of it")
        key = keys.setdefault(storage._cdata, str(len(keys)))
        if value.ndim == 0 and len(numbers.get(key, b"")) == value.element_size():
            found[name] = torch.frombuffer(bytearray(numbers[key]), dtype=value.dtype)[0]
        tensor_header(shown, name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        total += value.nbytes
    if total > size:
        raise MatchError(f"{shown}: its tensors claim {total} bytes, and the file has {size}")
    return found


def torch_tensors(path: Path, _: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> tensor with its values, of a file whose headers were checked. Raises `MatchError`."""
    found = _weights_only(str(path), path, map_location="cpu", mmap=True)
    without = [name for name, value in found.items() if isinstance(value, Tensor) and value.is_meta]
    if without:
        raise MatchError(f"{path}: {without[0]} is a tensor without data (of torch's meta device)")
    copied = {name: value.clone() if isinstance(value, Tensor) else value for name, value in found.items()}
    return {name: widened(value) for name, value in copied.items()}


def _check_records(archive: zipfile.ZipFile, shown: str, size: int) -> tuple[Counter[int], dict[str, bytes]]:
    """How many storages of which size are in a file of torch's, and those that are a number or two by their key.

    Raises `MatchError` for what torch does not write, before any of it is unpickled.
    """
    sizes: Counter[int] = Counter()
    numbers: dict[str, bytes] = {}
    members = archive_members(archive, shown, size)
    # Torch finds it whatever the case of its letters.
    pickles = [each.filename for each in members if each.filename.lower().rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise MatchError(f"{shown}: has not the one data.pkl that torch.save writes; it is not opened")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise MatchError(f"{shown}: {member.filename} is compressed, or larger than the file: not torch's")
        if member.filename == pickles[0]:
            if member.file_size > _MOST_PICKLE_BYTES:
                raise MatchError(f"{shown}: {member.filename} has {member.file_size} bytes: no dictionary of tensors")
            _check_pickle(archive.read(member), shown)
        if "/data/" in member.filename:
            sizes[member.file_size] += 1
            if member.file_size <= 8:
                numbers[member.filename.rpartition("/")[2]] = archive.read(member)
    return sizes, numbers


def _weights_only(shown: str, file: Any, **options: Any) -> dict[str, Any]:
    found = torch.load(file, weights_only=True, **options)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise MatchError(f"{shown}: holds a {type(found).__name__}; expected a dictionary of named tensors")
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in found.items()}


def _check_pickle(content: bytes, shown: str) -> None:
    """Raise `MatchError` for a pickle that is more than a dictionary of tensors and plain values."""
    tuples = 0
    for operation, argument, _ in pickletools.genops(content):
        tuples += operation.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES:
            raise MatchError(f"{shown}: more than {_MOST_TUPLES} tuples in its pickle: no dictionary of tensors")
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"):
            raise MatchError(f"{shown}: its pickle is not as torch.save writes it ({operation.name}); it is not opened")
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            raise MatchError(
                f"{shown}: its pickle names {str(argument)[:60].replace(' ', '.')!r}, which is no tensor; it is not "
                "opened, since unpickling runs code"
            )
