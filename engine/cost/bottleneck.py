"""Matchings of the whole smaller side of a given matrix: without forbidden pairs, and with a small largest M."""

from __future__ import annotations

import lap
import numpy as np

from saematch.cost.reduced_matrix import ReducedMatrix
from saematch.errors import MatchError
from saematch.numeric.rounding import Indices


def bottleneck_matching(reduced: ReducedMatrix) -> Indices:
    """Return a matching of the smaller side that has as few forbidden pairs as possible.

    If costs differ widely, a bisection over powers of two also makes the largest M of the matching at most twice the
    smallest that is possible.
    """
    low, high = -1074, 1024
    best = _matching_below(reduced, np.inf)
    is_wide = reduced.is_wide
    while is_wide and high - low > 1:
        middle = (low + high) // 2
        matching = _matching_below(reduced, 2.0**middle)
        if (reduced.of_matching(matching) <= 2.0**middle).all():
            best, high = matching, middle
        else:
            low = middle
    return best


def _matching_below(reduced: ReducedMatrix, limit: float) -> Indices:
    """Return a matching of the smaller side with as few pairs as possible that are forbidden or have a larger M.

    An M is larger if it exceeds `limit`, in units of the cost.
    """
    above = np.empty(reduced.shape)
    for places, rows in reduced.blocks(np.arange(reduced.shape[0])):
        block = reduced.whole_rows(rows)
        above[places] = (block / reduced.scale > limit) | np.isinf(block)
    matching: Indices = lap.lapjv(above, extend_cost=True)[1].astype(np.int64)
    return matching


def refuse_forbidden(reduced: ReducedMatrix, permutation: Indices) -> None:
    """Raise `MatchError` if a matching with as few forbidden pairs as possible has one, and name a feature of it."""
    matrix = reduced.matrix
    smaller_is_rows = matrix.shape[0] <= matrix.shape[1]
    side, other = ("row", "column") if smaller_is_rows else ("column", "row")
    matched = np.nonzero(permutation >= 0)[0]
    refused = matched[np.isinf(matrix[matched, permutation[matched]])]
    if not len(refused):
        return
    feature = int(refused[0] if smaller_is_rows else permutation[refused[0]])
    allowed = int(np.isfinite(matrix[feature] if smaller_is_rows else matrix[:, feature]).sum())
    if allowed:
        reason = f"the {allowed} {other}s that it may have are all needed by others"
    else:
        reason = "all of its costs are infinite"
    raise MatchError(
        f"cost: {side} {feature} cannot be matched: {reason}; allow more pairs, or give max_cost, under which features "
        "may be unmatched"
    )
