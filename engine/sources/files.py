"""Tensors out of strangers' files: headers first, nothing unpickled but tensors, sizes checked before memory is taken.

What is read from a header needs a file that can be sought, here or far away; weights are read from files that are here.
"""

from __future__ import annotations

import hashlib
import json
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from saematch.errors import MatchError, first_line, refuse_out_of_memory
from saematch.sources.pointers import POINTER_BYTES, refuse_pointer

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "BOOL": torch.bool, "float64": torch.float64, "float32": torch.float32,
    "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32,
    "bool": torch.bool,
}  # fmt: skip
_MOST_JSON_BYTES = 4 * 2**20  # of a configuration, or of a header
_MOST_PICKLE_BYTES = 2**20  # of a dictionary of tensors, without their values
_MOST_MEMBERS = _MOST_TUPLES = 10_000  # a tensor has a few tuples; what is nested deeper than Python bears has more
_MOST_HEADER_BYTES = 2**16  # of one array's
_LONGEST_REASON = 200  # letters of what a parser says
# What a pickle may name. Its globals are looked at before it is opened: even a harmless one can ask for much memory.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch Size|"
    r"torch\._utils _rebuild_(tensor_v2|tensor|parameter)|torch (float64|float32|float16|bfloat16|int64|int32|bool)"
)
_MOST_EXPANSION = 50  # float weights hardly compress; a member that grows more than this is no weights
_BLOCK_BYTES = 2**24  # of what is widened at a time
SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")


def headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    """Name -> tensor without data (on torch's meta device) of a `.npz`, `.safetensors`, `.pt` or `.pth` file.

    In the latter, what is no tensor (a number, a name, a small dictionary of these) is there as it is. `shown` names
    the file in messages, and its suffix decides. Raises `MatchError`.
    """
    read = {".npz": _npz_headers, ".safetensors": _safetensors_headers}.get(Path(shown).suffix, _torch_headers)
    try:
        refuse_pointer(file.read(POINTER_BYTES), shown)
        file.seek(0)
        return read(file, shown)
    except MatchError:
        raise
    except Exception as error:  # whatever a parser of damaged or hostile bytes may raise, down to its decompressor
        raise damaged(shown, error) from error


def tensors(path: Path, shown: str | None = None) -> dict[str, Any]:
    """What `headers` names, with values: in float32, or float64 where it was stored so. Raises `MatchError`."""
    shown = shown or str(path)
    try:
        with path.open("rb") as file:
            found = headers(file, shown)
        with torch.device("cpu"):  # whatever the host program's default is: safetensors makes slices there
            return _READERS.get(path.suffix, _torch_tensors)(path, found)
    except MatchError:
        raise
    except Exception as error:  # as in `headers`
        raise damaged(shown, error) from error


def widened(value: Any) -> Any:
    """A tensor as `tensors` gives it; anything else as it is."""
    narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(torch.float32) if narrow else value


def read_json(path: Path, shown: str | None = None, most: int = _MOST_JSON_BYTES) -> Any:
    """A JSON file of at most so many bytes. Raises `MatchError`, with `shown` if that is its name."""
    shown = shown or str(path)
    try:
        if path.stat().st_size > most:
            raise MatchError(f"{shown}: {path.stat().st_size} bytes of JSON, more than the {most} accepted")
        content = path.read_bytes()
        refuse_pointer(content, shown)
        return json.loads(content.decode())
    except MatchError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(shown, error) from error


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(shown: str, error: Exception) -> MatchError:
    """The error for a file that some parser refused. Raises `MemoryError` if the file is not to blame."""
    refuse_out_of_memory(error, shown)
    if isinstance(error, FileNotFoundError):
        return MatchError(f"{shown}: no such file")
    reason = first_line(error)[:_LONGEST_REASON]
    remedy = "the file may be truncated or not what its name says"
    if any("\udc80" <= letter <= "\udcff" for letter in shown):  # what Python makes of bytes that are no UTF-8
        remedy = "its path is not valid UTF-8, by which the library that reads tensors opens no file: rename it"
    return MatchError(f"{shown}: cannot be read ({reason}); {remedy}")


def _npz_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    found = {}
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        for member in _members(archive, shown, size):
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
            found[name] = _header(shown, name, shape, dtype.name)
            if start + found[name].nbytes != member.file_size:
                raise MatchError(f"{shown}: {name} is not as large as its shape {shape} says")
    return found


def _npz_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in found}
    native = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays.items()}
    return {name: widened(torch.from_numpy(a)) for name, a in native.items()}


def _safetensors_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MOST_JSON_BYTES, size - 8):
        raise MatchError(f"{shown}: cannot be read (no safetensors header); the file may be truncated")
    entries = json.loads(file.read(length))
    about = entries.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise MatchError(f"{shown}: its __metadata__ is no dictionary of texts: not as safetensors writes it")
    if len(entries) > _MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(entries)} tensors in it, more than any SAE has")
    found = {name: _header(shown, name, entry["shape"], entry["dtype"]) for name, entry in entries.items()}
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


def _safetensors_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
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


def _torch_headers(file: BinaryIO, shown: str) -> dict[str, Any]:
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
        _header(shown, name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        total += value.nbytes
    if total > size:
        raise MatchError(f"{shown}: its tensors claim {total} bytes, and the file has {size}")
    return found


def _check_records(archive: zipfile.ZipFile, shown: str, size: int) -> tuple[Counter[int], dict[str, bytes]]:
    """How many storages of which size are in a file of torch's, and those that are a number or two by their key.

    Raises `MatchError` for what torch does not write, before any of it is unpickled.
    """
    sizes: Counter[int] = Counter()
    numbers: dict[str, bytes] = {}
    members = _members(archive, shown, size)
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


def _torch_tensors(path: Path, _: Mapping[str, Any]) -> dict[str, Any]:
    found = _weights_only(str(path), path, map_location="cpu", mmap=True)
    without = [name for name, value in found.items() if isinstance(value, Tensor) and value.is_meta]
    if without:
        raise MatchError(f"{path}: {without[0]} is a tensor without data (of torch's meta device)")
    copied = {name: value.clone() if isinstance(value, Tensor) else value for name, value in found.items()}
    return {name: widened(value) for name, value in copied.items()}


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


_READERS: dict[str, Callable[[Path, Mapping[str, Any]], dict[str, Any]]] = {
    ".npz": _npz_tensors, ".safetensors": _safetensors_tensors,
}  # fmt: skip


def _members(archive: zipfile.ZipFile, shown: str, size: int) -> list[zipfile.ZipInfo]:
    """The files in an archive of so many bytes, which is never unpacked to disk."""
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise MatchError(f"{shown}: {len(members)} files in it, more than any SAE has")
    if len({member.filename.casefold() for member in members}) < len(members):
        raise MatchError(f"{shown}: two files of one name in it")
    if sum(member.compress_size for member in members) > size:
        raise MatchError(f"{shown}: the files in it claim more than it has: they overlap")
    packed = [each.filename for each in members if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    if packed:
        raise MatchError(f"{shown}: {packed[0]} is compressed in a way that neither numpy nor torch writes")
    return members


def _header(shown: str, name: str, shape: Sequence[int], dtype: str) -> Tensor:
    if dtype not in _DTYPES:
        raise MatchError(f"{shown}: {name} is stored as {dtype}; expected float16, bfloat16, float32 or float64")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise MatchError(f"{shown}: {name} claims the shape {tuple(shape)}")
    return torch.empty(tuple(shape), dtype=_DTYPES[dtype], device="meta")
