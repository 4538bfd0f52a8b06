import threading
import time

import lap
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from saematch.assignment.auction import auction
from saematch.assignment.sparse import _make_feasible, solve_sparse


def sparse_problem(n, seed, degree=4, size=0.0):
    """Return the CSR of a random sparse problem with a complete matching and costs from exp(-size) to exp(size)."""
    r = np.random.default_rng(seed)
    dense = np.full((n, n), np.inf)
    dense[np.arange(n), r.permutation(n)] = r.standard_normal(n)
    at = r.integers(0, n, (2, n * degree))
    dense[at[0], at[1]] = r.standard_normal(n * degree)
    dense *= np.exp(size * r.standard_normal((n, 1)))
    rows, columns = np.nonzero(np.isfinite(dense))
    return dense, np.searchsorted(rows, np.arange(n + 1)), columns, dense[rows, columns]


@pytest.mark.parametrize("size", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", ["nothing", "auction"])
def test_optimum_and_prices_against_scipy(seed, size, start):
    dense, starts, columns, costs = sparse_problem(int(np.random.default_rng(seed).integers(1, 80)), seed, size=size)
    prices = np.zeros(len(dense))
    if start == "auction":
        prices = auction(starts, columns, costs, prices)
    permutation, prices = solve_sparse(starts, columns, costs, prices)
    rows, best = linear_sum_assignment(np.where(np.isfinite(dense), dense, 1e9))
    every = np.arange(len(dense))
    assert dense[every, permutation].sum() == pytest.approx(dense[rows, best].sum(), abs=1e-9 * np.abs(costs).sum())
    reduced = dense - prices
    assert (reduced[every, permutation] - reduced.min(axis=1) <= 1e-13 * np.abs(costs).max()).all()


@pytest.mark.parametrize("seed", range(20))
def test_settling_a_wrong_permutation_finds_the_optimum(seed):
    dense, starts, columns, costs = sparse_problem(30, seed, degree=30)
    wrong = linear_sum_assignment(np.where(np.isfinite(dense), -dense, 1e9))[1]  # the most expensive of all
    prices, matched = np.zeros(30), dense[np.arange(30), wrong].copy()
    _make_feasible(starts, columns, costs, matched, wrong, prices)
    best = linear_sum_assignment(np.where(np.isfinite(dense), dense, 1e9))[1]
    np.testing.assert_array_equal(wrong, best)
    np.testing.assert_array_equal(matched, dense[np.arange(30), best])


def test_lapx_lets_other_threads_run():
    """lapx lets the passes of one pair continue while the sparse problem of another pair is solved."""
    n, r = 6000, np.random.default_rng(0)
    columns = np.sort([np.append(r.choice(np.delete(np.arange(n), i), 10, replace=False), i) for i in range(n)], axis=1)
    costs, starts = r.random(n * 11) * 1000, np.arange(0, n * 11 + 1, 11)
    solver = threading.Thread(
        target=lap.lapmod, args=(n, costs, starts.astype(np.int32), columns.ravel().astype(np.int32))
    )
    began = last = time.perf_counter()
    longest = 0.0
    solver.start()
    while solver.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert longest < (last - began) / 2
