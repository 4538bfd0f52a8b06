"""What the first prices are worth: the whole solve from an auction's, soft-min sweeps', dual repair's, and from none.

Run by `make bench`. The later rounds start from the prices at hand; with the auction, as it ships, they bid again.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from assignment import CPU, hard_pair, real_pair
from record import append
from synthetic import layer_pair

from saematch.assignment import graph, solve
from saematch.cost import DistanceCost

WORKLOADS = {
    "real SAEs": real_pair,
    "hard synthetic, 4,096": lambda: layer_pair(4_096, 576, survive=0.1, noise=1.0),
    "hard synthetic": hard_pair,
}


@pytest.fixture(scope="module", params=WORKLOADS)
def problem(request):
    """A cost whose products are stored, so that every pass but the first is cheap."""
    x, y = WORKLOADS[request.param]()
    cost = DistanceCost(x, y, CPU, memory=2**33)
    solve(cost, cost.free(np.inf, np.inf))
    return request.param, cost, x.shape[1]


def soft_min_sweeps(cost):
    """Prices and potentials in turn, as smooth minima over all pairs, while the temperature falls."""
    prices, potentials = cost.by_cost()
    deviation = float(np.std(cost.block(np.arange(64), np.arange(cost.shape[1]))))
    for temperature in deviation * 0.5 ** np.arange(2, 10):
        _, prices = cost.soft_minima(prices, potentials, temperature)
        potentials, _ = cost.soft_minima(prices, potentials, temperature)
    return prices


def dual_repair(cost):
    """Prices and potentials in turn, as minima over all pairs: feasible, and higher with every step."""
    prices, potentials = cost.by_cost()
    every, nothing = np.arange(cost.shape[0]), np.zeros(cost.shape[1])
    for _ in range(4):
        potentials = cost.scan(every, prices, nothing, potentials, 1, np.inf).floors[:, 0]
        scan = cost.scan(every, prices, nothing, potentials, 1, np.inf)
        prices = prices + scan.column_floors[:, 0]
    return prices


STARTS = {"none": None, "soft-min sweeps": soft_min_sweeps, "dual repair": dual_repair, "auction": None}


@pytest.mark.parametrize("start", STARTS)
def test_first_prices(problem, start, monkeypatch):
    name, cost, width = problem
    began = time.perf_counter()
    if start != "auction":
        first = [] if STARTS[start] is None else [STARTS[start](cost)]
        monkeypatch.setattr(graph, "auction", lambda *given: first.pop() if first else given[3])
    solution = solve(cost, cost.free(np.inf, np.inf))
    seconds = time.perf_counter() - began
    assert solution.grade(cost, cost.free(np.inf, np.inf), solution.permutation).certified
    sizes = {"F_A": cost.shape[0], "F_B": cost.shape[1], "K": width}
    append(f"{name}: all but the product, first prices by {start}", sizes, [seconds], rounds=solution.rounds)
