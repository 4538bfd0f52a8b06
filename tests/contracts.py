"""What every answer must satisfy, whoever computed it and however nasty the problem."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linear_sum_assignment

from tolerance import OPTIMUM


def costs_of_all_pairs(x, y):
    """The float64 cost matrix, as sums of squared differences."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.stack([((row - y) ** 2).sum(axis=1) for row in x]) if len(x) else np.zeros((0, len(y)))


def cheapest(costs):
    """SciPy's optimum: permutation and cost."""
    rows, columns = linear_sum_assignment(costs)
    return columns, math.fsum(costs[rows, columns])


def assert_proved_optimal(matching, x, y):
    """The permutation is one, its cost is SciPy's optimum, and the proof can be done again from the prices alone."""
    costs = costs_of_all_pairs(x, y)
    n = len(costs)
    _, optimum = cheapest(costs)
    perm = matching.perm.numpy()
    assert sorted(perm) == list(range(n))
    np.testing.assert_allclose(matching.pair_cost.numpy(), costs[np.arange(n), perm], rtol=1e-12)
    scale = (costs.sum() / n if n else 0.0) - optimum
    rounding = 1e-13 * costs.sum()  # of the oracle itself, which adds up constants that the proof never sees
    assert matching.certified
    assert matching.status == "optimal"
    assert matching.objective == matching.cost == math.fsum(matching.pair_cost.tolist())
    assert abs(matching.cost - optimum) <= OPTIMUM * scale + rounding
    assert matching.lower_bound <= optimum + rounding
    assert matching.gap >= 0 <= matching.error
    prices = matching.prices.numpy()
    dual = math.fsum((costs - prices).min(axis=1)) + math.fsum(prices) if n else 0.0
    assert dual <= optimum + rounding
    assert optimum - dual <= OPTIMUM * scale + rounding
