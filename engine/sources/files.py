"""Tensors out of strangers' files: headers first, nothing unpickled, sizes checked before memory is taken."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saematch.errors import MatchError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16,
}  # fmt: skip
_MOST_JSON_BYTES = 64 * 2**20
_MOST_EXPANSION = 50  # float weights hardly compress; a member that grows more than this is no weights


def names(path: Path) -> set[str]:
    """The names of the tensors in a file; none if it is no archive of tensors."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {name.removesuffix(".npy") for name in archive.namelist()}
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, SafetensorError):
        return set()


def headers(path: Path) -> dict[str, Tensor]:
    """Name -> tensor without data (on torch's meta device) of a `.npz` or `.safetensors` file. Raises `MatchError`."""
    return _npz_headers(path) if path.suffix == ".npz" else _safetensors_headers(path)


def tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, in float32 (float64 where it was stored so). Raises `MatchError`."""
    found = headers(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: np.asarray(archive[name]) for name in found}
            native = {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays.items()}
            stored = {name: torch.from_numpy(a) for name, a in native.items()}
        else:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in found}
    except Exception as error:  # whatever a parser of damaged or hostile bytes may raise, down to its decompressor
        raise _damaged(path, error) from error
    return {name: t if t.dtype == torch.float64 else t.to(torch.float32) for name, t in stored.items()}


def read_json(path: Path) -> Any:
    """A JSON file of modest size. Raises `MatchError`."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise MatchError(f"{path}: {path.stat().st_size} bytes of JSON, more than the {_MOST_JSON_BYTES} accepted")
        return json.loads(path.read_text(encoding="utf-8"))
    except MatchError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_keys(path: Path, found: Mapping[str, Tensor], expected: set[str], optional: set[str] | None = None) -> None:
    """Raise `MatchError`, naming them, if a tensor is missing or one is there that the format does not know."""
    missing, extra = expected - set(found), set(found) - expected - (optional or set())
    if missing or extra:
        wrong = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        wrong += [f"holds {', '.join(sorted(extra))}, which this format does not know"] * bool(extra)
        raise MatchError(f"{path}: {' and '.join(wrong)}; expected {', '.join(sorted(expected))}")


def _npz_headers(path: Path) -> dict[str, Tensor]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    first = np.lib.format.read_magic(file) == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    start = file.tell()
                if dtype.hasobject:
                    raise MatchError(
                        f"{path}: {name} is a pickled object; it is not opened, since unpickling runs code. "
                        "Save plain float arrays with numpy.savez"
                    )
                found[name] = _header(path, name, shape, dtype.name)
                if start + found[name].nbytes != member.file_size:
                    raise MatchError(f"{path}: {name} is not as large as its shape {shape} says")
                if member.file_size > _MOST_EXPANSION * max(1, member.compress_size):
                    raise MatchError(f"{path}: {name} expands {_MOST_EXPANSION}-fold or more: these are no weights")
    except MatchError:
        raise
    except Exception as error:  # as in `tensors`
        raise _damaged(path, error) from error
    return found


def _safetensors_headers(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return {name: _header(path, name, part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    except MatchError:
        raise
    except Exception as error:  # as in `tensors`
        raise _damaged(path, error) from error


def _header(path: Path, name: str, shape: Sequence[int], dtype: str) -> Tensor:
    if dtype not in _DTYPES:
        raise MatchError(f"{path}: {name} is stored as {dtype}; expected float16, bfloat16, float32 or float64")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise MatchError(f"{path}: {name} claims the shape {tuple(shape)}")
    return torch.empty(tuple(shape), dtype=_DTYPES[dtype], device="meta")


def _damaged(path: Path, error: Exception) -> MatchError:
    if isinstance(error, FileNotFoundError):
        return MatchError(f"{path}: no such file")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MatchError(f"{path}: cannot be read ({reason}); the file may be truncated or not what its name says")
