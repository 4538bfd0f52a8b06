"""Feature rows: the chosen parts of every feature of an SAE in one vector, folded and weighted, in float64."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.errors import MatchError
from saematch.numeric.cosines import unit_rows
from saematch.numeric.loops import fold_rows
from saematch.numeric.numbers import checked_number
from saematch.numeric.rounding import Floats, Rows
from saematch.numeric.threads import ThreadPool, torch_threads
from saematch.options import Part
from saematch.sae.autoencoder import SAE, Scale

PARTS: tuple[Part, ...] = get_args(Part)


@torch_threads()
def feature_rows(
    sae: SAE, parts: Sequence[Part] = PARTS, weights: Mapping[Part, float] | None = None, fold: Scale = "threshold"
) -> NDArray[np.float64]:
    """Return the feature rows `(F, K)` of an SAE, on the CPU; `K` is 2 d + 1 with all parts.

    Row i of the folded SAE is `[sqrt(w_enc) enc_i | sqrt(w_b) b_i | sqrt(w_dec) dec_i]`, so that the squared distance
    of two rows is the weighted sum of squared distances over the parts.

    Args:
        sae: the SAE.
        parts: the parts that rows consist of; they stand in their fixed order.
        weights: the weight w of each part, 1 by default.
        fold: the fold, see `SAE.fold`.

    Raises:
        MatchError: for unknown or repeated parts, weights that are not positive, NaN in the SAE, or an impossible fold.

    Examples:
        >>> import saematch as sm
        >>> sae = sm.load_layers("sample")[8]
        >>> feature_rows(sae).shape, feature_rows(sae, ["decoder"]).shape
        ((1024, 1153), (1024, 576))
    """
    parts, weights = check_parts(parts, weights)
    s = sae.check_finite().scale(fold, torch.float64).detach().cpu().numpy()
    # Each part fills its columns of all rows; threads share the rows.
    rows = np.empty((sae.F, sum(1 if part == "bias" else sae.d for part in parts)))
    unfolded = {"encoder": sae.W_enc.T, "bias": sae.b_enc[:, None], "decoder": sae.W_dec}
    with ThreadPool(rows.size) as pool:
        left = 0
        for part in parts:
            values, factor = _compiled_array(unfolded[part]), math.sqrt(weights[part])
            columns = rows[:, left : left + values.shape[1]]
            pool.run(
                partial(fold_rows, values[share], s[share], part == "decoder", factor, columns[share])
                for share in pool.split(len(rows))
            )
            left += values.shape[1]
    return rows


def direction_rows(rows: Rows, widths: Sequence[int], weights: Sequence[float]) -> Floats:
    """Return rows whose squared distance is 1 - similarity, `(F, K + 2)`.

    The similarity of two rows is the mean of the cosines of their parts, by weight. Each part is scaled to a length
    that depends on its weight alone, so that all rows have the squared norm 1 / 2. A part that is 0 has no direction,
    and its similarity to everything is 0: its length goes to the first of two more columns, or to the second one for
    the target of a pair, see `as_targets`.

    Args:
        rows: the rows `(F, K)`, which are not changed.
        widths: the number of columns of each part, K in all.
        weights: the weight of each part.

    >>> direction_rows(np.array([[3.0, 4.0], [0.0, 0.0]]), [2], [1.0]).round(3)
    array([[0.424, 0.566, 0.   , 0.   ],
           [0.   , 0.   , 0.707, 0.   ]])
    """
    out = np.zeros((len(rows), rows.shape[1] + 2))
    missing, left = np.zeros(len(rows)), 0
    for width, weight in zip(widths, weights, strict=True):
        columns, share = slice(left, left + width), weight / (2 * math.fsum(weights))
        out[:, columns] = unit_rows(rows[:, columns]) * math.sqrt(share)
        missing += np.where(out[:, columns].any(axis=1), 0.0, share)
        left += width
    out[:, left] = np.sqrt(missing)
    return out


def as_targets(rows: Floats) -> Floats:
    """Return `direction_rows` as the target of a pair; a copy, if any part has no direction."""
    if without_direction(rows) == 0:
        return rows
    targets = rows.copy()
    targets[:, -1], targets[:, -2] = rows[:, -2], 0.0
    return targets


def without_direction(rows: Rows) -> int:
    """Return how many `direction_rows` have a part without a direction."""
    return int((rows[:, -2:] != 0).any(axis=1).sum())


def _compiled_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array on the CPU, in one of the two number types that loops are compiled for."""
    tensor = tensor.detach().cpu()
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
