"""Small problems, which are solved and proved on all pairs."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import saematch as sm
from contracts import assert_proved_optimal, cheapest, costs_of_all_pairs, doubled
from problems import nasty
from saematch.assignment import column_generation
from saematch.assignment.dense import solve_all_pairs
from saematch.assignment.jonker_volgenant import solve_dense
from saematch.cost import DistanceCost, MatrixCost, UnmatchedCost
from saematch.numeric import threads

R = np.random.default_rng


def assert_dense_optimum(costs, row_costs, column_costs):
    """Compare the matching with SciPy's on the matrix of doubled size, and the bound of the prices with its cost."""
    permutation, prices = solve_dense(costs, row_costs, column_costs)
    rows = np.nonzero(permutation >= 0)[0]
    columns = permutation[rows]
    assert len(set(columns)) == len(rows)
    n, m = costs.shape
    whole = doubled(costs)
    whole[np.arange(n), m + np.arange(n)], whole[n + np.arange(m), np.arange(m)] = row_costs, column_costs
    optimum = cheapest(whole)[1]
    free = np.delete(np.arange(m), columns)
    assert (prices <= column_costs).all()
    assert (prices[free] == column_costs[free]).all()
    size = 1e-13 * (1 + np.abs(costs[np.isfinite(costs)]).sum())
    paid = costs[rows, columns].sum() + row_costs[permutation < 0].sum() + column_costs[free].sum()
    assert paid == pytest.approx(optimum, abs=size)
    bound = np.minimum((costs - prices).min(axis=1), row_costs).sum() + prices.sum()
    assert bound == pytest.approx(optimum, abs=size)


@settings(max_examples=300)
@given(st.data())
def test_the_dense_optimum_is_scipys(data):
    n, m = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    numbers = st.integers(0, 3).map(float) | st.floats(-100, 100, width=32)
    costs = data.draw(hnp.arrays(np.float64, (n, m), elements=numbers))
    alone = [data.draw(hnp.arrays(np.float64, size, elements=numbers)) for size in (n, m)]
    if data.draw(st.booleans()):  # features of both sides may be unmatched, and pairs may be forbidden
        costs[data.draw(hnp.arrays(bool, (n, m)))] = np.inf
    else:
        alone = [alone[0] if n > m else np.full(n, np.inf), alone[1] if m > n else np.full(m, np.inf)]
    assert_dense_optimum(costs, *alone)


@pytest.mark.parametrize("forbidden", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["random", "ties", "decades", "products", "constant"])
@pytest.mark.parametrize("shape", [(64, 64), (65, 65), (150, 150), (40, 130), (130, 40)])
def test_the_dense_optimum_is_scipys_beyond_one_block(shape, kind, forbidden):
    r = R(0)
    n, m = shape
    costs = {
        "random": r.random(shape),
        "ties": r.integers(0, 4, shape).astype(float),
        "decades": 10.0 ** r.uniform(-8, 8, shape),
        "products": np.outer(np.arange(n), np.arange(m)).astype(float),
        "constant": np.ones(shape),
    }[kind]
    allowed = np.arange(min(shape))
    costs[r.random(shape) < forbidden] = np.inf
    costs[allowed, allowed] = 7.0
    needed = [np.full(size, np.inf if size <= other else 0.0) for size, other in ((n, m), (m, n))]
    assert_dense_optimum(costs, *needed)
    assert_dense_optimum(costs, np.full(n, 0.1), r.random(m))


def exact_values(cost):
    """Return M of all pairs as fractions, from the float64 numbers that define it."""
    scale = Fraction(cost.scale)
    if isinstance(cost, MatrixCost):
        p, q = ([Fraction(value) for value in constant] for constant in (cost.row_constant, cost.column_constant))
        return [
            [(Fraction(float(c)) - p[i] - q[j]) * scale if np.isfinite(c) else None for j, c in enumerate(row)]
            for i, row in enumerate(cost._matrix)
        ]
    x, y = (
        [
            [Fraction(float(value)) - Fraction(c) for value, c in zip(row, side.centre, strict=True)]
            for row in side.rows.float64()
        ]
        for side in (cost._x, cost._y)
    )
    products = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in y] for one in x]
    return [[-2 * scale * (abs(value) if cost._up_to_sign else value) for value in row] for row in products]


COSTS = {
    "rows": lambda r: DistanceCost(*r.standard_normal((2, 9, 4)), torch.device("cpu")),
    "fewer rows": lambda r: DistanceCost(r.standard_normal((5, 4)), r.standard_normal((9, 4)), torch.device("cpu")),
    "an outlier": lambda r: DistanceCost(
        r.standard_normal((9, 4)) * np.where(np.arange(9) == 3, 1e8, 1)[:, None],
        r.standard_normal((9, 4)),
        torch.device("cpu"),
    ),
    "up to sign": lambda r: DistanceCost(*r.standard_normal((2, 9, 4)), torch.device("cpu"), up_to_sign=True),
    "costs": lambda r: MatrixCost(r.standard_normal((9, 9))),
    "small whole numbers": lambda r: MatrixCost(r.integers(0, 4, (9, 7)).astype(float)),
    "decades": lambda r: MatrixCost(10.0 ** r.uniform(-9, 9, (9, 9))),
    "forbidden pairs": lambda r: MatrixCost(np.where(r.random((9, 12)) < 0.3, np.inf, r.standard_normal((9, 12)))),
}


@pytest.mark.parametrize("max_cost", [None, 1.0])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", COSTS)
def test_no_rounding_breaks_the_bounds_of_a_row(kind, seed, max_cost):
    cost = COSTS[kind](R(seed))
    solution = solve_all_pairs(cost, UnmatchedCost(cost, max_cost).for_search())
    ceiling = Fraction(float(cost.below_ceiling(np.array([1e300]))[0]))
    for i, row in enumerate(exact_values(cost)):
        reduced = {
            j: min(value, ceiling) - Fraction(solution.prices[j]) for j, value in enumerate(row) if value is not None
        }
        assert Fraction(solution.proved[i]) <= min(reduced.values())
        others = [value for j, value in reduced.items() if j != solution.permutation[i]]
        assert np.isinf(solution.others[i]) if not others else Fraction(solution.others[i]) <= min(others)


@pytest.mark.parametrize("quantile", [None, 0.05, 0.5])
@pytest.mark.parametrize("sizes", [(60, 60), (40, 60), (60, 40)])
@pytest.mark.parametrize("name", [name for name in nasty() if name != "empty"])
def test_max_cost_in_small_problems(name, sizes, quantile):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    max_cost = quantile and 1.001 * float(np.quantile(costs_of_all_pairs(x, y), quantile))
    beyond = quantile and name in ("outlier source", "outlier target", "outliers on both sides", "one column", "a hub")
    matching = sm.assign(x, y, max_cost=max_cost)
    assert_proved_optimal(matching, x, y, max_cost, bool(beyond))
    assert matching.certified == sm.assign(y, x, max_cost=max_cost).certified


@pytest.mark.parametrize("metric", ["squared_distance", "cosine", "absolute_cosine"])
@pytest.mark.parametrize("size", [100, 300])
def test_passes_give_the_same_answers(monkeypatch, size, metric):
    x, y = R(0).standard_normal((2, size, 20))
    dense = sm.assign(x, y, metric=metric)
    monkeypatch.setattr(column_generation, "DENSE", 0)
    passes = sm.assign(x, y, metric=metric)
    assert dense.certified
    assert passes.certified
    assert (dense.stats["rounds"], dense.stats["products"], dense.stats["precision"]) == (1, 0, "float64")
    assert torch.equal(dense.perm, passes.perm)


@pytest.mark.parametrize("metric", ["squared_distance", "absolute_cosine"])
def test_no_bit_depends_on_the_number_of_threads(monkeypatch, metric):
    """A run that is resumed by another number of threads writes the same bytes, and so does a list of problems."""
    x, y = R(0).standard_normal((2, 600, 500))
    answers, before = [], torch.get_num_threads()
    for number in (1, 2, 5):
        monkeypatch.setattr(threads, "processors", lambda number=number: number)
        torch.set_num_threads(number)
        try:
            answers += [sm.assign(x, y, metric=metric), *sm.assign([x, x], [y, y], metric=metric)]
            assert torch.get_num_threads() == number
        finally:
            torch.set_num_threads(before)
    assert len({(one.gap, one.rounding_error, one.gain, one.random_cost) for one in answers}) == 1
    assert len({(one.perm.numpy().tobytes(), one.prices.numpy().tobytes()) for one in answers}) == 1


@pytest.mark.parametrize("size", [60, 200])
def test_what_float64_leaves_open_is_refined(size):
    """Beside one ordinary row, float64 leaves few digits to rows that are 1e20 times smaller."""
    x, y = 1e-20 * R(0).standard_normal((2, size, 5))
    x[3] *= 1e20
    found = sm.assign(x, y)
    assert found.certified
    assert {"dense optimum", "refinement"} <= set(found.stats["stages"])


def test_progress_tells_of_the_round():
    news = []
    found = sm.assign(*R(0).standard_normal((2, 50, 5)), progress=news.append)
    assert [(one.number, one.edges, one.certificate) for one in news] == [(1, 2500, found.certificate)]
