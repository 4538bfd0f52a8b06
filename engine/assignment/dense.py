"""The optimum of a small problem from the float64 costs of all its pairs, which are stored, and its proof.

The optimum and its prices are those of `solve_dense`. One more reading of the costs bounds the minimum of each row at
these prices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from saematch.assignment.certificate import Solution
from saematch.assignment.jonker_volgenant import solve_dense
from saematch.cost import Cost, Unmatched
from saematch.numeric.compiled import compiled_minima
from saematch.numeric.rounding import Floats


def solve_all_pairs(cost: Cost, unmatched: Unmatched) -> Solution:
    """Return the optimum of all pairs, of which there must be a matching that the problem allows."""
    cost.exact_pairs += math.prod(cost.shape)
    permutation, prices = solve_dense(cost.all_values, unmatched.rows, unmatched.columns)
    errors = cost.block_errors(unmatched.bound_price_error(prices))
    minima, apart, own = np.empty((3, cost.shape[0]))
    _bound_rows(cost.all_values, prices, permutation, *errors, minima, apart, own)
    apart = _rounded_down(apart)
    proved = np.minimum(apart, _rounded_down(own))
    return Solution(permutation, prices, minima, proved, apart, rounds=1, edges=math.prod(cost.shape))


def _rounded_down(values: Floats) -> Floats:
    return np.where(np.isinf(values), values, np.nextafter(values, -np.inf))


@compiled_minima
def _bound_rows(
    costs: Any,
    prices: Any,
    permutation: Any,
    of_rows: Any,
    of_columns: Any,
    constant: Any,
    share: Any,
    minima: Any,
    apart: Any,
    own: Any,
) -> None:
    """Fill `minima` with min_j M_ij - v_j, and the others with lower bounds for M_ij - v_j, but for one rounding.

    `own` bounds the pair of each row, inf for an unmatched row; `apart` bounds all its other pairs. The errors are
    those of `BlockErrors`.
    """
    for i in range(len(costs)):
        least, lowest, lowest_own = np.inf, np.inf, np.inf
        # The columns before the partner of the row, the partner, and the columns after it.
        j = permutation[i]
        for start, stop in ((0, max(j, 0)), (max(j, 0), j + 1), (j + 1, len(prices))):
            part, low, of_row = slice(start, stop), np.inf, of_rows[i]
            row, own_prices, factors, terms = costs[i, part], prices[part], of_columns[part], constant[part]
            for k in range(len(row)):
                value, size = row[k] - own_prices[k], abs(row[k])
                lower = value - (of_row * factors[k] + terms[k] + share * (size if size < np.inf else 0.0))
                least = value if value < least else least
                low = lower if lower < low else low
            if start == j:
                lowest_own = low
            else:
                lowest = min(lowest, low)
        minima[i], apart[i], own[i] = least, lowest, lowest_own
