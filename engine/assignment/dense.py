"""The optimum of a small problem from the float64 costs of all its pairs, which are stored, and its proof.

The optimum and its prices are those of `solve_dense`. One more reading of the costs bounds the minimum of each row at
these prices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from saematch.assignment.certificate import Solution
from saematch.assignment.jonker_volgenant import LANES, fill_lanes, solve_dense
from saematch.cost import Cost, Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats


def solve_all_pairs(cost: Cost, unmatched: Unmatched) -> Solution:
    """Return the optimum of all pairs, of which there must be a matching that the problem allows."""
    cost.exact_pairs += math.prod(cost.shape)
    permutation, prices = solve_dense(cost.all_values, unmatched.rows, unmatched.columns)
    errors = cost.block_errors(unmatched.bound_price_error(prices))
    minima, apart, own = np.empty((3, cost.shape[0]))
    memory = np.empty((2, cost.shape[1])), np.empty(LANES)
    _bound_rows(cost.all_values, prices, permutation, *errors, minima, apart, own, *memory)
    apart = _rounded_down(apart)
    proved = np.minimum(apart, _rounded_down(own))
    return Solution(permutation, prices, minima, proved, apart, rounds=1, edges=math.prod(cost.shape))


def _rounded_down(values: Floats) -> Floats:
    return np.where(np.isinf(values), values, np.nextafter(values, -np.inf))


@compiled
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
    of_row: Any,
    least: Any,
) -> None:
    """Fill `minima` with min_j M_ij - v_j, and the others with lower bounds for M_ij - v_j, but for one rounding.

    `own` bounds the pair of each row, inf for an unmatched row; `apart` bounds all its other pairs. The errors are
    those of `BlockErrors`. `of_row` is memory for two numbers of each column, and `least` for one of each lane.
    """
    values, lower = of_row[0], of_row[1]
    for i in range(len(costs)):
        row, factor = costs[i], of_rows[i]
        for j in range(len(values)):
            values[j], size = row[j] - prices[j], abs(row[j])
            error = factor * of_columns[j] + constant[j] + share * (size if size < np.inf else 0.0)
            lower[j] = values[j] - error
        minima[i] = least[fill_lanes(values, least)]
        # The partner of the row, and all other columns.
        own[i] = np.inf
        if permutation[i] >= 0:
            own[i], lower[permutation[i]] = lower[permutation[i]], np.inf
        apart[i] = least[fill_lanes(lower, least)]
