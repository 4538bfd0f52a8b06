"""Feature rows: the chosen parts of every feature of an SAE in one vector, folded and weighted, in float64."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.errors import MatchError
from saematch.numeric.compiled import compiled
from saematch.numeric.cosines import normalise
from saematch.numeric.numbers import checked_number
from saematch.numeric.rows import Rows
from saematch.numeric.threads import ThreadPool, torch_threads
from saematch.options import Part
from saematch.sae.autoencoder import SAE, Scale

_SQUARE = 64  # entries per side of a square of which both the source and its transpose fit into the cache
PARTS: tuple[Part, ...] = get_args(Part)


def feature_rows(
    sae: SAE, parts: Sequence[Part] = PARTS, weights: Mapping[Part, float] | None = None, fold: Scale = "threshold"
) -> NDArray[np.float64]:
    """Return the feature rows `(F, K)` of an SAE as one matrix, see `folded_rows`.

    Examples:
        >>> import saematch as sm
        >>> sae = sm.load_layers("sample")[8]
        >>> feature_rows(sae).shape, feature_rows(sae, ["decoder"]).shape
        ((1024, 1153), (1024, 576))
    """
    return folded_rows(sae, parts, weights, fold).float64()


@torch_threads()
def folded_rows(
    sae: SAE, parts: Sequence[Part] = PARTS, weights: Mapping[Part, float] | None = None, fold: Scale = "threshold"
) -> Rows:
    """Return the feature rows `(F, K)` of an SAE, on the CPU; `K` is 2 d + 1 with all parts.

    Row i of the folded SAE is `[sqrt(w_enc) enc_i | sqrt(w_b) b_i | sqrt(w_dec) dec_i]`, so that the squared distance
    of two rows is the weighted sum of squared distances over the parts. The weights are kept as the SAE has them,
    float16 and bfloat16 as float32, and are folded whenever a row is needed.

    Args:
        sae: the SAE.
        parts: the parts that rows consist of; they stand in their fixed order.
        weights: the weight w of each part, 1 by default.
        fold: the fold, see `SAE.fold`.

    Raises:
        MatchError: for unknown or repeated parts, weights that are not positive, NaN in a part, or an impossible fold.
    """
    parts, weights = check_parts(parts, weights)
    scale = sae.scale(fold, torch.float64).detach().cpu().numpy()
    unfolded = {"encoder": sae.W_enc.T, "bias": sae.b_enc[:, None], "decoder": sae.W_dec}
    stored = [_compiled_array(unfolded[part]) for part in parts]
    ends = np.cumsum([values.shape[1] for values in stored])
    rows = Rows(
        np.empty((sae.F, ends[-1]), dtype=np.result_type(*stored)),
        ends,
        np.array([part == "decoder" for part in parts]),
        np.tile(scale, (len(parts), 1)),
        np.array([math.sqrt(weights[part]) for part in parts]),
    )
    # Each part fills its columns of all rows; threads share the rows.
    with ThreadPool(rows.size) as pool:
        for values, end in zip(stored, ends, strict=True):
            columns = rows.values[:, end - values.shape[1] : end]
            if values.strides[1] == values.itemsize:
                pool.run(partial(np.copyto, columns[share], values[share]) for share in pool.split(len(rows)))
            else:
                turned = np.ascontiguousarray(values.T)
                pool.run(
                    partial(_transpose, turned, columns, share.start, share.stop) for share in pool.split(len(rows))
                )
    if not np.isfinite(rows.square).all():
        sae.check_finite()
    return rows


@compiled
def _transpose(values: Any, out: Any, first: Any, last: Any) -> None:
    """Fill the rows of `out` from `first` to `last` with columns of `values`, through squares of entries."""
    for top in range(first, last, _SQUARE):
        for left in range(0, len(values), _SQUARE):
            square = values[left : left + _SQUARE, top : min(top + _SQUARE, last)]
            filled = out[top : min(top + _SQUARE, last), left : left + _SQUARE]
            for i in range(filled.shape[0]):
                for k in range(filled.shape[1]):
                    filled[i, k] = square[k, i]


def direction_rows(rows: Rows, widths: Sequence[int], weights: Sequence[float]) -> Rows:
    """Return rows whose squared distance is 1 - similarity, `(F, K + 2)`.

    The similarity of two rows is the mean of the cosines of their parts, by weight. Each part is scaled to a length
    that depends on its weight alone, so that all rows have the squared norm 1 / 2. A part that is 0 has no direction,
    and its similarity to everything is 0: its length goes to the first of two more columns, or to the second one for
    the target of a pair, see `as_targets`.

    Args:
        rows: the rows `(F, K)`, as they are stored.
        widths: the number of columns of each part, K in all.
        weights: the weight of each part.

    >>> direction_rows(Rows.of(np.array([[3.0, 4.0], [0.0, 0.0]])), [2], [1.0]).float64().round(3)
    array([[0.424, 0.566, 0.   , 0.   ],
           [0.   , 0.   , 0.707, 0.   ]])
    """
    ends = np.cumsum(widths)
    values = np.ones((len(rows), rows.width + 2), dtype=rows.values.dtype)
    values[:, : ends[-1]] = rows.values
    norms, missing = np.ones((len(widths), len(rows))), np.zeros(len(rows))
    shares = [weight / (2 * math.fsum(weights)) for weight in weights]
    for part, (end, width, share) in enumerate(zip(ends, widths, shares, strict=True)):
        sizes = normalise(values[:, end - width : end])
        missing[sizes == 0] += share
        norms[part, sizes > 0] = sizes[sizes > 0]
    return Rows(
        values,
        np.append(ends, [ends[-1] + 1, ends[-1] + 2]),
        np.append(np.zeros(len(ends), np.bool_), [True, True]),
        np.concatenate([norms, np.sqrt(missing)[None], np.zeros((1, len(rows)))]),
        np.append(np.sqrt(shares), [1.0, 1.0]),
    )


def as_targets(rows: Rows) -> Rows:
    """Return `direction_rows` as the target of a pair."""
    return replace(rows, scales=np.concatenate([rows.scales[:-2], rows.scales[:-3:-1]]))


def without_direction(rows: Rows) -> int:
    """Return how many `direction_rows` have a part without a direction."""
    return int((rows.scales[-2:] != 0).any(axis=0).sum())


def _compiled_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the CPU, in one of the two number types that loops are compiled for."""
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.double()).numpy()


def check_parts(
    parts: Sequence[Part], weights: Mapping[Part, float] | None
) -> tuple[tuple[Part, ...], dict[Part, float]]:
    """Return the parts in their fixed order, and a weight for each part, 1 by default. Raises `MatchError`.

    >>> check_parts(["decoder", "encoder"], {"decoder": 2})
    (('encoder', 'decoder'), {'encoder': 1.0, 'decoder': 2.0})
    """
    # The parts: a sequence of names, or one name.
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise MatchError(f"parts {parts!r} must be some of {PARTS}, each once")
    if not isinstance(weights, Mapping | None):
        raise MatchError(f"weights {weights!r} must be a mapping of parts to numbers")
    given = (parts,) if isinstance(parts, str) else tuple(parts)
    if not given or len(set(given)) < len(given) or not set(given) <= set(PARTS):
        raise MatchError(f"parts {given} must be some of {PARTS}, each once")
    ordered = tuple(part for part in PARTS if part in given)
    # The weights: at most one for each part.
    extra = set(weights or ()) - set(ordered)
    if extra:
        raise MatchError(f"weights are given for {sorted(extra)}, which is not among the parts {ordered}")
    full = {part: (weights or {}).get(part, 1.0) for part in ordered}
    for part, weight in full.items():
        wrong = f"the weight of {part} is {weight!r:.40}; weights must be finite and positive"
        full[part] = checked_number(weight, 0, sys.float_info.max, wrong, above=True)
    return ordered, full
