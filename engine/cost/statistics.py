"""A robust measure of how much the costs of pairs differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from saematch.numeric.rounding import UNIT_64, lower_quantile

if TYPE_CHECKING:
    from saematch.cost.base import Cost

_SAMPLE = 64  # rows and columns: the median of so many pairs is known within a few percent


def typical_difference(cost: Cost) -> float:
    """Return how much the costs of pairs typically differ, in the units of M; 0.0 if all pairs are equal.

    The value is computed from a sample of pairs, as the smaller of two medians:

    1. The median of |M|. It is not affected by what the costs of a row or of a column have in common.
    2. The median distance of C from the median of C. It is not affected by an outlier in every row and column.

    Values that are no larger than rounding are left out of both: equal costs need not be equal to the last bit.
    """
    # The sample: M, p and q, and bounds for the errors of M and of C * scale.
    rows, columns = (np.arange(n) * size // n for size, n in ((size, min(size, _SAMPLE)) for size in cost.shape))
    M, error = cost.block_with_error(rows, columns, np.zeros(cost.shape[1]))
    p, q = cost.row_constant[rows][:, None] * cost.scale, cost.column_constant[columns] * cost.scale
    sizes, costs = np.abs(M), M + p + q
    rounding = error + 4 * UNIT_64 * (sizes + np.abs(p) + np.abs(q))

    # Forbidden pairs do not count.
    allowed = np.isfinite(costs)
    if not allowed.any():
        return 0.0
    chosen = slice(None) if allowed.all() else allowed.ravel()
    sizes, error, costs, rounding = (values.ravel()[chosen] for values in (sizes, error, costs, rounding))

    # The two medians.
    distances = np.abs(costs - lower_quantile(costs, 0.5))
    sizes = sizes[sizes > 2 * error]
    distances = distances[distances > 2 * (rounding + lower_quantile(rounding, 0.5))]
    return min((lower_quantile(values, 0.5) for values in (sizes, distances) if len(values)), default=0.0)
