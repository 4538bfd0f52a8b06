"""A robust measure of how much the costs of pairs differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from saematch.numeric.rounding import UNIT_64, lower_quantile

if TYPE_CHECKING:
    from saematch.cost.base import Cost

_SAMPLE = 1024  # pairs, whose median is near that of all pairs
_GOLDEN = (math.sqrt(5) - 1) / 2  # the fractional parts of its multiples spread evenly


def typical_difference(cost: Cost) -> float:
    """Return how much the costs of pairs typically differ, in the units of M; 0.0 if all pairs are equal.

    The value is computed from a sample of pairs, as the smaller of two medians:

    1. The median of |M|. It is not affected by what the costs of a row or of a column have in common.
    2. The median distance of C from the median of C. It is not affected by an outlier in every row and column.

    Values that are no larger than rounding are left out of both: equal costs need not be equal to the last bit.
    """
    # The sample: M, p and q. Forbidden pairs do not count.
    count = math.prod(cost.shape)
    places = np.arange(count) if count <= _SAMPLE else (np.arange(_SAMPLE) * _GOLDEN % 1 * count).astype(np.int64)
    rows, columns = np.divmod(places, cost.shape[1])
    M = cost.below_ceiling(cost.exact(rows, columns))
    allowed = np.isfinite(M)
    if not allowed.any():
        return 0.0
    M, rows, columns = M[allowed], rows[allowed], columns[allowed]
    p, q = cost.row_constant[rows] * cost.scale, cost.column_constant[columns] * cost.scale
    sizes, costs = np.abs(M), M + p + q

    # Bounds for the errors that M has in a `block`, and for those of C * scale.
    error = cost.block_errors(np.zeros(cost.shape[1])).of_pairs(M, rows, columns)
    rounding = error + 4 * UNIT_64 * (sizes + np.abs(p) + np.abs(q))

    # The two medians.
    distances = np.abs(costs - lower_quantile(costs, 0.5))
    sizes = sizes[sizes > 2 * error]
    distances = distances[distances > 2 * (rounding + lower_quantile(rounding, 0.5))]
    return min((lower_quantile(values, 0.5) for values in (sizes, distances) if len(values)), default=0.0)
