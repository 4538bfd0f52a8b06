"""Files of matchings: they are written in one step, and checked when they are read.

Their tensors are read as arrays of numpy, so that what only looks at a run need not import torch, which takes seconds.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saematch.errors import MatchError, refusals
from saematch.matching.permutation import check_indices
from saematch.matching.scalars import scalars
from saematch.storage.folders import local_path, write_whole
from saematch.storage.jsonfile import finite_or_none
from saematch.storage.reading import refuse_pointer_at

if TYPE_CHECKING:
    from saematch.matching.result import Matching

SCHEMA = 2
TENSORS = ("perm", "pair_cost", "prices")
_NOT_OURS = "not a matching that saematch wrote"
_DAMAGED = (
    OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError,
)  # fmt: skip


def save_matching(matching: Matching, path: str | os.PathLike[str]) -> None:
    """Write the file of a matching, in one step. Raises `MatchError` if it cannot be written."""
    write_whole(local_path(path), matching_bytes(matching))


def matching_bytes(matching: Matching) -> bytes:
    """Return the content of the file of a matching: its tensors, and all numbers as JSON under the key "saematch"."""
    held = [*TENSORS, *(["cosine"] if matching.cosine is not None else [])]
    tensors = {name: np.ascontiguousarray(getattr(matching, name).numpy()) for name in held}
    record = {
        "schema": SCHEMA,
        "target_features": matching.target_features,
        **scalars(matching),
        "options": matching.options,
        "evaluation_error": matching.evaluation_error,
        **({"cost_error": matching.cost_error} if matching.cost_error else {}),
        "unmatched_cost": [finite_or_none(cost) for cost in matching.unmatched_cost],
    }
    return save(tensors, {"saematch": json.dumps(record, allow_nan=False)})


def read_matching(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of the matching that a file holds, by name.

    Tensors are arrays, and `certificate` is the tuple of what a `Certificate` consists of, or None.

    Raises:
        MatchError: if the file is damaged, is not a matching, or its parts do not fit each other.
    """
    path = local_path(path)
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, *_DAMAGED):
        with safe_open(path, framework="np") as file:
            record = json.loads((file.metadata() or {})["saematch"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if record["schema"] != SCHEMA:
            raise MatchError(f"{path}: schema {record['schema']}, this version reads {SCHEMA}")
        return _checked_fields(path, record, tensors)


def _checked_fields(path: Path, record: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    # The tensors, whose sizes must fit.
    targets, status = record["target_features"], str(record["status"])
    try:
        perm = check_indices(tensors["perm"], len(tensors["perm"]), targets, many_to_one=status == "many_to_one")
    except MatchError as error:
        raise MatchError(f"{path}: {_NOT_OURS} ({error})") from error
    pair_cost, prices = (tensors[name].astype(np.float64, copy=False) for name in ("pair_cost", "prices"))
    cosine = tensors["cosine"].astype(np.float64, copy=False) if "cosine" in tensors else None
    if {values.shape for values in (perm, pair_cost, cosine) if values is not None} != {perm.shape}:
        raise MatchError(f"{path}: the sizes of pair_cost or cosine do not fit that of perm")
    if prices.shape != (targets,):
        raise MatchError(f"{path}: the size of prices does not fit the number of target features")
    # The numbers: without a gap nothing was proved. Those that may be infinite or NaN are null in JSON.
    proved = record["gap"] is not None
    names = ("gap", "rounding_error", "gain", "evaluation_error")
    gap, rounding_error, gain, evaluation_error = (float(record[name]) if proved else 0.0 for name in names)
    cost_error = float(record.get("cost_error", 0.0))  # which files of earlier versions lack
    all_finite = np.isfinite(pair_cost).all() and np.isfinite(prices).all()
    if not all_finite or not math.isfinite(gap + rounding_error + gain + evaluation_error + cost_error):
        raise MatchError(f"{path}: holds costs or prices that are NaN or infinite")
    row, column = (math.inf if cost is None else float(cost) for cost in record["unmatched_cost"])
    return {
        "perm": perm,
        "pair_cost": pair_cost,
        "target_features": targets,
        "cosine": cosine,
        "prices": prices,
        "unmatched_cost": (row, column),
        "random_cost": math.nan if record["random_cost"] is None else float(record["random_cost"]),
        "certificate": (gap, rounding_error, gain, record["certified"] is True) if proved else None,
        "evaluation_error": evaluation_error,
        "cost_error": cost_error,
        "status": status,
        "options": dict(record["options"]),
    }


def check_matching(path: Path) -> None:
    """Raise `MatchError` unless the file is complete and has the tensors of a matching. Only its header is read."""
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, OSError, SafetensorError), safe_open(path, framework="np") as file:
        missing = set(TENSORS) - set(file.keys())
    if missing:
        raise MatchError(f"{path}: {_NOT_OURS}: no {', '.join(sorted(missing))}")


class FeaturePair(NamedTuple):
    """A source feature and its target feature, either of which is -1 if the other is unmatched.

    Attributes:
        source: the number of the source feature.
        target: the number of the target feature.
        cost: the cost of the pair.
        cosine: the cosine of the decoder rows; None if it is not known.
    """

    source: int
    target: int
    cost: float
    cosine: float | None


def read_pair(path: Path, feature: int) -> FeaturePair:
    """Return the pair of one source feature.

    No other parts of the file of the matching are read. Raises `MatchError` if the file is damaged.
    """
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, OSError, SafetensorError, TypeError, ValueError, RuntimeError):
        with safe_open(path, framework="np") as file:
            held = ("perm", "pair_cost", *(["cosine"] if "cosine" in file.keys() else []))  # noqa: SIM118
            target, cost, *cosine = (file.get_slice(name)[feature : feature + 1].item() for name in held)
        return FeaturePair(feature, int(target), float(cost), finite_or_none(cosine[0]) if cosine else None)


def read_permutation(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Return the permutation that any file holds, and the options that are recorded with it, if there are any.

    A `.npy` file holds the array itself, a `.safetensors` file holds it as the tensor `perm`. The permutation is not
    checked. Raises `MatchError` if the file cannot be read.
    """
    path = local_path(path)
    refuse_pointer_at(path)
    kinds = (OSError, SafetensorError, ValueError, TypeError, AttributeError, EOFError, RecursionError)
    with refusals("no permutation can be read", path, *kinds, remedy="expected .npy, or .safetensors with perm"):
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False), {}
        with safe_open(path, framework="np") as file:
            record = json.loads((file.metadata() or {}).get("saematch", "{}"))
            return file.get_tensor("perm"), dict(record.get("options", {}))
