import lap
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from saematch.assignment.auction import EPSILON, auction, scaled_auction
from saematch.assignment.feasible import make_feasible
from saematch.assignment.sparse import repaired, solve_sparse


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
        prices = scaled_auction(starts, columns, costs, prices)
    permutation, prices = solve_sparse(starts, columns, costs, prices)
    rows, best = linear_sum_assignment(np.where(np.isfinite(dense), dense, 1e9))
    every = np.arange(len(dense))
    assert dense[every, permutation].sum() == pytest.approx(dense[rows, best].sum(), abs=1e-9 * np.abs(costs).sum())
    reduced = dense - prices
    assert (reduced[every, permutation] - reduced.min(axis=1) <= 1e-13 * np.abs(costs).max()).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", ["nothing", "optimum of fewer edges"])
def test_an_auction_comes_within_epsilon_of_the_optimum(seed, start):
    n = 300
    dense, *graph = sparse_problem(n, seed, degree=12)
    permutation, prices = np.full(n, -1), np.random.default_rng(seed).standard_normal(n)
    if start != "nothing":
        permutation, prices = solve_sparse(*graph, prices)
        r = np.random.default_rng(seed)
        dense[r.integers(0, n, n), r.integers(0, n, n)] = -1 - r.random(n)
    starts, columns, costs = csr(dense)
    given = permutation.copy(), prices.copy()
    answer = auction(starts, columns, costs, permutation, prices, n)
    np.testing.assert_array_equal(given[0], permutation)
    np.testing.assert_array_equal(given[1], prices)
    assert answer is not None
    found, prices, released = answer
    if start != "nothing":  # new edges have broken some pairs
        assert auction(starts, columns, costs, *given, released - 1) is None
        assert 0 < released < n
    assert sorted(found) == list(range(n))
    epsilon = EPSILON * np.median(np.abs(costs - np.median(costs)))
    reduced = dense - prices
    excess = reduced[np.arange(n), found] - reduced.min(axis=1)
    assert (excess <= epsilon + 1e-13 * np.abs(costs).max()).all()
    optimum = linear_sum_assignment(np.where(np.isfinite(dense), dense, 1e9))[1]
    assert dense[np.arange(n), found].sum() <= dense[np.arange(n), optimum].sum() + n * epsilon + 1e-12
    np.testing.assert_array_equal(solve_sparse(starts, columns, costs, prices, found)[0], optimum)


def test_an_auction_ends_without_an_answer_where_equal_features_outbid_each_other():
    """Of two blocks of equal costs, one has a row too many, the other a column: neither side can give way."""
    n = 50
    dense = np.ones((n, n))
    dense[: n // 2 + 1, : n // 2] = dense[n // 2 + 1 :, n // 2 :] = 0.0
    assert auction(*csr(dense), np.full(n, -1), np.zeros(n), n) is None
    permutation, _ = solve_sparse(*csr(dense), scaled_auction(*csr(dense), np.zeros(n)))
    assert dense[np.arange(n), permutation].sum() == 1


@pytest.mark.parametrize("seed", range(20))
def test_settling_a_wrong_permutation_finds_the_optimum(seed):
    dense, starts, columns, costs = sparse_problem(30, seed, degree=30)
    wrong = linear_sum_assignment(np.where(np.isfinite(dense), -dense, 1e9))[1]  # the most expensive of all
    paid, owner = dense[np.arange(30), wrong].copy(), np.argsort(wrong)
    make_feasible(starts, columns, costs, wrong, owner, paid, np.zeros(30))
    best = linear_sum_assignment(np.where(np.isfinite(dense), dense, 1e9))[1]
    np.testing.assert_array_equal(wrong, best)
    np.testing.assert_array_equal(owner, np.argsort(best))
    np.testing.assert_array_equal(paid, dense[np.arange(30), best])


@st.composite
def sparse_problems(draw):
    """Draw a sparse problem of whole costs, in which float64 rounds nothing: with ties, of similar or mixed sizes."""
    n = draw(st.integers(1, 12))
    number = st.one_of(st.integers(-3, 3), st.integers(-(2**40), 2**40), st.just(5))
    dense = np.full((n, n), np.inf)
    edges = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=6 * n))
    for i, j in [*enumerate(draw(st.permutations(range(n)))), *edges]:
        dense[i, j] = draw(number)
    return dense


def csr(dense):
    rows, columns = np.nonzero(np.isfinite(dense))
    return np.searchsorted(rows, np.arange(len(dense) + 1)), columns, dense[rows, columns]


def assert_exact_optimum(dense, permutation, prices):
    """Assert a permutation of edges, and that prices without any rounding prove that it is optimal."""
    assert sorted(permutation) == list(range(len(dense)))
    reduced = dense - prices
    own = reduced[np.arange(len(dense)), permutation]
    assert np.isfinite(own).all()
    np.testing.assert_array_equal(own, reduced.min(axis=1))


@settings(max_examples=400)
@given(sparse_problems(), st.data())
def test_whole_costs_are_proved_without_any_rounding(dense, data):
    n = len(dense)
    prices = np.array(data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=n, max_size=n)), dtype=float)
    permutation, prices = solve_sparse(*csr(dense), prices)
    assert_exact_optimum(dense, permutation, prices)
    starts, columns, costs = csr(dense - dense[np.isfinite(dense)].min())
    if costs.max() < 1e5:  # lapmod takes 1e6 for infinity
        total, *_ = lap.lapmod(n, costs, starts.astype(np.int32), columns.astype(np.int32))
        assert dense[np.arange(n), permutation].sum() == total + n * dense[np.isfinite(dense)].min()


@settings(max_examples=400)
@given(sparse_problems(), st.data())
def test_new_edges_repair_only_what_they_break(dense, data):
    """An optimum that was proved before edges are added is repaired to one that is proved afterwards."""
    n = len(dense)
    permutation, prices = solve_sparse(*csr(dense), np.zeros(n))
    more = dense.copy()
    for _ in range(data.draw(st.integers(0, 2 * n))):
        i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
        if np.isinf(more[i, j]):
            more[i, j] = data.draw(st.integers(-5, 5))
    given = permutation.copy(), prices.copy()
    answer = repaired(*csr(more), permutation, prices)
    np.testing.assert_array_equal(given[0], permutation)
    np.testing.assert_array_equal(given[1], prices)
    if answer is not None:
        assert_exact_optimum(more, *answer)
    unbroken = (more - prices).min(axis=1) == (more - prices)[np.arange(n), permutation]
    if unbroken.sum() >= n - 1:  # a search for one path leads through each row once at most
        assert answer is not None
    if unbroken.all():
        np.testing.assert_array_equal(answer[0], permutation)
        np.testing.assert_array_equal(answer[1], prices)


def test_repair_gives_up_where_many_long_paths_would_be_needed():
    """All rows but the last prefer one column of another block: each path leads through most rows."""
    n = 200
    dense = np.full((n, n), np.inf)
    dense[np.arange(n), np.arange(n)] = 0
    dense[np.arange(n - 1), np.arange(1, n)] = 0  # a chain of ties
    permutation, prices = solve_sparse(*csr(dense), np.zeros(n))
    dense[:, 0] = np.where(np.arange(n) == 0, 0, -1.0 - np.arange(n))
    assert repaired(*csr(dense), permutation, prices) is None
    assert_exact_optimum(dense, *solve_sparse(*csr(dense), prices))


@pytest.mark.parametrize("prices", [0.0, 1e9, 1e300])
@pytest.mark.parametrize("size", [0.0, 1e-300, 1.0, 1e150])
def test_an_auction_returns_finite_prices_whatever_the_sizes(prices, size):
    _, starts, columns, costs = sparse_problem(40, 0)
    given = prices * np.random.default_rng(0).standard_normal(40)
    found = scaled_auction(starts, columns, 1.0 + size * costs, given)
    assert np.isfinite(found).all()
    answer = auction(starts, columns, 1.0 + size * costs, np.full(40, -1), given, 40)
    assert answer is None or np.isfinite(answer[1]).all()


def test_a_graph_without_a_complete_matching_is_refused():
    with pytest.raises(AssertionError, match="complete matching"):
        solve_sparse(np.array([0, 1, 2]), np.array([0, 0]), np.array([1.0, 2.0]), np.zeros(2))
