"""Files of codes: safetensors with the entries of a sparse matrix, and how many features it has as JSON.

    starts      int64 (N + 1,)      the first entry of each token, and the number of entries
    features    int32 (entries,)    the active feature of each entry
    values      float32 or float64  its code
    documents   int64 (N,)          the document of each token, if it is known

The metadata has, under the key "saematch", {"schema": 1, "codes_of": F, "source": text, "made_from": inputs or null}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from saematch.errors import MatchError, refusals
from saematch.numeric.numbers import whole_number
from saematch.storage.folders import local_path, replacing
from saematch.storage.reading import refuse_pointer_at

SCHEMA = 1
_TENSORS = ("starts", "features", "values")
_NOT_OURS = "not a file of codes that saematch wrote"
_DAMAGED = (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


def save_codes(
    path: str | os.PathLike[str],
    tensors: dict[str, Any],
    features: int,
    source: str,
    overwrite: bool,
    inputs: dict[str, Any] | None,
) -> None:
    """Write a file of codes, in one step. `inputs` identifies what they were made from.

    Raises:
        MatchError: if the file cannot be written, or is there already and `overwrite` is false.
    """
    path = local_path(path)
    if os.path.lexists(path) and not overwrite:
        raise MatchError(f"{path}: is there already; choose another name, or overwrite it (overwrite=True)")
    record = {"schema": SCHEMA, "codes_of": features, "source": source, "made_from": inputs}
    with replacing(path) as aside, refusals("cannot be written", path, SafetensorError):
        save_file(
            {name: np.ascontiguousarray(values) for name, values in tensors.items()},
            aside,
            {"saematch": json.dumps(record)},
        )


def read_codes(path: Path) -> tuple[dict[str, Any], int]:
    """Return the arrays of a file of codes by name, and the number of features.

    Raises:
        MatchError: if the file cannot be read, is damaged, or holds something else.
    """
    refuse_pointer_at(path)
    if not path.is_file():
        raise MatchError(f"{path}: no such file")
    with refusals(_NOT_OURS, path, *_DAMAGED), safe_open(path, framework="np") as file:
        record = json.loads((file.metadata() or {})["saematch"])
        features = whole_number(record["codes_of"])
        if record["schema"] != SCHEMA or features is None:
            raise MatchError(f"{path}: {_NOT_OURS}, or by another version: schema {record['schema']!r:.20}")
        held = [*_TENSORS, *(["documents"] if "documents" in file.keys() else [])]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in held}
    expected = {"starts": "i8", "features": "i4", "values": ("f4", "f8"), "documents": "i8"}
    for name, array in tensors.items():
        if array.ndim != 1 or array.dtype.str[1:] not in expected[name]:
            raise MatchError(f"{path}: {name} is {array.dtype} {array.shape}; {_NOT_OURS}")
    return tensors, features


def made_from(path: Path) -> dict[str, Any] | None:
    """Return what identifies the inputs of a file of codes; None if the file does not say. Only its header is read.

    Raises:
        MatchError: if the file is none of codes.
    """
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, *_DAMAGED), safe_open(path, framework="np") as file:
        inputs = json.loads((file.metadata() or {})["saematch"]).get("made_from")
        return None if inputs is None else dict(inputs)
