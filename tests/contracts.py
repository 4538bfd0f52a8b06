"""The properties that every answer must have, for every method and every problem."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from tolerance import BLUR, OPTIMUM


def costs_of_all_pairs(x, y):
    """Return the float64 cost matrix, from sums of squared differences."""
    return cdist(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), "sqeuclidean")


def cheapest(costs):
    """Return SciPy's complete matching: the columns of the matched rows, in their order, and the cost."""
    rows, columns = linear_sum_assignment(costs)
    return columns, math.fsum(costs[rows, columns])


def doubled(costs, max_cost=None):
    """Return the matrix of doubled size in which a row or column can be unmatched, at a cost that may be infinite."""
    n, m = costs.shape
    row, column = (max_cost / 2,) * 2 if max_cost is not None else (0 if n > m else np.inf, 0 if m > n else np.inf)
    alone = np.full((n + m, n + m), np.inf)
    alone[:n, :m] = costs
    alone[n:, m:] = np.where(np.isfinite(costs), 0, np.inf).T
    alone[np.arange(n), m + np.arange(n)] = row
    alone[n + np.arange(m), np.arange(m)] = column
    return alone


def cheapest_partial(costs, max_cost):
    """Return SciPy's optimum if an unmatched row or column costs `max_cost / 2`, from the matrix of doubled size."""
    return cheapest(doubled(costs, max_cost))[1]


def dual_bound(costs, prices, row, column):
    """Return the lower bound that prices prove, if an unmatched row and an unmatched column cost the given amounts."""
    prices = np.minimum(prices, column)
    least = np.minimum((costs - prices).min(axis=1, initial=np.inf), row)
    return math.fsum(least) + math.fsum(prices)


def ordinary(costs):
    """Return the typical difference of costs, without row and column terms, times the number of pairs."""
    if not costs.size:
        return 0.0
    rest = costs - np.median(costs, axis=1, keepdims=True)
    return float(np.median(np.abs(rest - np.median(rest, axis=0)))) * max(costs.shape)


def assert_proved_optimal(matching, x, y, max_cost=None, beyond_float64=False):
    """Assert a one-to-one matching with SciPy's optimum, and a proof that follows from its prices alone.

    If the costs that decide are below the rounding of others (`beyond_float64`), the answer may be uncertified instead.
    """
    costs = costs_of_all_pairs(x, y)
    n, m = costs.shape
    perm = matching.perm.numpy()
    rows = np.nonzero(perm >= 0)[0]
    matched = costs[rows, perm[rows]]
    assert len(set(perm[rows])) == len(rows)
    assert sorted([*perm[rows], *matching.unmatched_targets.tolist()]) == list(range(m))
    np.testing.assert_allclose(matching.pair_cost.numpy()[rows], matched, rtol=1e-12)
    assert not matching.pair_cost.numpy()[perm < 0].any()

    reference = costs.sum() / max(n, m, 1)
    if max_cost is None:
        assert len(rows) == min(n, m)
        _, optimum = cheapest(costs)
        free = (0.0 if n > m else np.inf, 0.0 if m > n else np.inf)
        assert matching.objective == matching.cost
    else:
        assert (matched <= max_cost + 1e-13 * (max_cost + costs.max(initial=0.0))).all()
        optimum = cheapest_partial(costs, max_cost)
        free = (max_cost / 2, max_cost / 2)
        reference = min(reference + max_cost / 2 * abs(n - m), max_cost / 2 * (n + m))
        left_out = n + m - 2 * len(rows)
        assert matching.objective == matching.cost + max_cost / 2 * left_out
    assert matching.cost == math.fsum(matching.pair_cost.tolist())

    scale = max(reference - optimum, 0.0)
    # Of the oracle itself, which adds up constants that the proof never sees, and of prices, which hold them.
    rounding = 1e-13 * (costs.sum() + (n + m) * (max_cost or 0.0) + (np.asarray(y, dtype=np.float64) ** 2).sum())
    # What is ordinary can be measured in ways that differ by some factor.
    if beyond_float64 and matching.rounding_error > min(OPTIMUM * scale, BLUR * ordinary(costs) / 10):
        assert matching.status in ("unproved", "optimal")
        rounding += matching.rounding_error
    else:
        assert matching.certified
        assert matching.status == "optimal"
    assert abs(matching.objective - optimum) <= OPTIMUM * scale + rounding
    assert matching.lower_bound <= optimum + rounding
    assert matching.gap >= 0 <= matching.rounding_error
    dual = dual_bound(costs, matching.prices.numpy(), *free)
    if max_cost is not None and max_cost >= costs.max(initial=0.0):  # then all features of the smaller side are matched
        without = dual_bound(costs, matching.prices.numpy(), 0.0 if n > m else np.inf, 0.0 if m > n else np.inf)
        dual = max(dual, without + max_cost / 2 * abs(n - m))
    assert dual <= optimum + rounding
    assert optimum - dual <= OPTIMUM * scale + rounding


def smallest_swap(costs, perm):
    """Return the permutation after the cheapest exchange of two partners, and the cost of the exchange."""
    matched = costs[:, perm]
    excess = matched + matched.T - np.diag(matched)[:, None] - np.diag(matched)[None]
    np.fill_diagonal(excess, np.inf)
    i, j = np.unravel_index(excess.argmin(), excess.shape)
    swapped = perm.copy()
    swapped[[i, j]] = swapped[[j, i]]
    return swapped, excess[i, j]
