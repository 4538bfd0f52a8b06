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
from saematch.numeric.loops import fold_rows
from saematch.numeric.numbers import checked_number
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
