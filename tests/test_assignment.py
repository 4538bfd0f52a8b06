import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import saematch as sm
from contracts import assert_proved_optimal, cheapest, costs_of_all_pairs, smallest_swap
from problems import nasty, noisy_copy
from saematch.assignment.ties import in_order

pytestmark = pytest.mark.through_passes


@pytest.mark.parametrize("name", nasty())
def test_nasty_problems_are_solved_and_proved(name):
    x, y = nasty()[name]
    assert_proved_optimal(sm.assign(x, y), x, y)


@pytest.mark.through_passes(False)
@pytest.mark.parametrize("sizes", [(60, 60), (35, 60), (60, 35)])
@pytest.mark.parametrize("name", nasty())
def test_small_problems_take_all_pairs_in_one_round(name, sizes):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    matching = sm.assign(x, y)
    assert_proved_optimal(matching, x, y)
    assert matching.stats["edges"] in (0, len(x) * len(y))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_problems_are_solved_and_proved(data):
    n, m, width = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30)), data.draw(st.integers(1, 5))
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))
    x, y = (data.draw(hnp.arrays(np.float64, (size, width), elements=numbers)) for size in (n, m))
    max_cost = data.draw(st.none() | st.floats(0, 500, allow_subnormal=False))
    assert_proved_optimal(sm.assign(x, y, max_cost=max_cost), x, y, max_cost, beyond_float64=max_cost is not None)


@pytest.mark.parametrize("sizes", [(40, 60), (60, 40), (1, 60), (60, 1), (0, 60), (60, 0)])
@pytest.mark.parametrize("name", nasty())
def test_the_smaller_side_is_fully_matched(name, sizes):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    assert_proved_optimal(sm.assign(x, y), x, y)


@pytest.mark.parametrize("quantile", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [(60, 60), (40, 60), (60, 40)])
@pytest.mark.parametrize("name", [name for name in nasty() if name != "empty"])
def test_no_pair_is_dearer_than_max_cost(name, sizes, quantile):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    max_cost = 1.001 * float(np.quantile(costs_of_all_pairs(x, y), quantile))
    # A limit equal to an outlier's cost, or a billionth of the others, cannot be told from it in float64.
    beyond = name in ("outlier source", "outlier target", "outliers on both sides", "one column", "a hub")
    assert_proved_optimal(sm.assign(x, y, max_cost=max_cost), x, y, max_cost, beyond)


def test_max_cost_of_nothing_and_of_everything():
    x, y = nasty()["random"]
    nothing = sm.assign(x, y, max_cost=0)
    assert nothing.perm.tolist() == [-1] * 60
    assert nothing.unmatched_targets.tolist() == list(range(60))
    assert (nothing.certified, nothing.objective) == (True, 0.0)
    assert torch.equal(sm.assign(x, y, max_cost=1e6).perm, sm.assign(x, y).perm)


def test_sides_can_be_exchanged():
    x, y = nasty()["random"][0][:35], nasty()["random"][1]
    for max_cost in (None, 15.0):
        there, back = sm.assign(x, y, max_cost=max_cost), sm.assign(y, x, max_cost=max_cost)
        assert torch.equal(there.inverse().perm, back.perm)
        assert there.objective == pytest.approx(back.objective, rel=1e-13)


def test_partial_and_rectangular_answers_of_others_are_graded():
    x, y = nasty()["random"][0][:35], nasty()["random"][1]
    for max_cost in (None, 15.0):
        best = sm.assign(x, y, max_cost=max_cost)
        assert sm.certify(x, y, best.perm, max_cost=max_cost).certified
        worse = best.perm.clone()
        worse[0] = best.unmatched_targets[0]
        graded = sm.certify(x, y, worse, max_cost=max_cost)
        assert graded.status == "suboptimal"
        assert graded.gap == pytest.approx(graded.objective - best.objective, rel=1e-9)
    assert sm.certify(x, y, np.full(35, -1), max_cost=1e-6).certified
    assert not sm.certify(x, y, np.arange(35), max_cost=1e-6).certified  # though matching can gain nothing there


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_planted_permutation_is_recovered_and_its_transpose_is_not(noise):
    x, y, planted = noisy_copy(300, 40, noise)
    found = sm.assign(x, y)
    np.testing.assert_array_equal(found.perm, planted)
    assert not (planted == np.argsort(planted)).all()
    transposed = sm.certify(x, y, np.argsort(planted))
    assert not transposed.certified
    assert transposed.status == "suboptimal"


def test_smallest_mse_is_largest_inner_product():
    x, y = nasty()["random"]
    columns, _ = cheapest(-(x @ y.T))
    np.testing.assert_array_equal(sm.assign(x, y).perm, columns)


def test_constant_cost_gives_the_identity():
    np.testing.assert_array_equal(sm.assign(np.ones((30, 4)), np.zeros((30, 4))).perm, np.arange(30))


def test_identical_rows_are_matched_in_ascending_order():
    r = np.random.default_rng(0)
    x, y = r.standard_normal((6, 5)).repeat(4, axis=0), r.standard_normal((8, 5)).repeat(3, axis=0)
    shuffle_x, shuffle_y = r.permutation(24), r.permutation(24)
    x, y = x[shuffle_x], y[shuffle_y]
    perm = sm.assign(x, y).perm.numpy()
    for group in range(6):
        rows = np.nonzero(shuffle_x // 4 == group)[0]
        for target_group in range(8):
            inside = perm[rows][shuffle_y[perm[rows]] // 3 == target_group]
            assert (np.diff(inside) > 0).all()


@pytest.mark.parametrize("max_cost", [None, 20.0])
def test_a_large_group_of_identical_rows_takes_no_more_rounds_than_others(max_cost):
    """Every column must list other rows of the group, or the group would be matched with a few columns per round."""
    r = np.random.default_rng(0)
    x, y = r.standard_normal((2, 600, 12))
    x[::2] = 0
    for pair in ((x, y), (y, x)):
        answer = sm.assign(*pair, max_cost=max_cost)
        assert answer.certified
        assert answer.stats["rounds"] <= 5


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_exchanging_identical_rows_does_not_change_the_representative(n, row_kinds, column_kinds, random):
    rows = np.array([random.randrange(row_kinds) for _ in range(n)])
    columns = np.array([random.randrange(column_kinds) for _ in range(n)])
    perm = np.array(random.sample(range(n), n))
    perm[[random.random() < 0.3 for _ in range(n)]] = -1
    other = perm.copy()
    for _ in range(20):
        i, j = random.randrange(n), random.randrange(n)
        if rows[i] == rows[j] or (other[i] >= 0 <= other[j] and columns[other[i]] == columns[other[j]]):
            other[[i, j]] = other[[j, i]]
    chosen = in_order(perm, rows, columns)
    assert (chosen < 0).sum() == (perm < 0).sum()
    assert len(set(chosen[chosen >= 0])) == (perm >= 0).sum()
    np.testing.assert_array_equal(chosen, in_order(other, rows, columns))


@pytest.mark.parametrize("name", ["random", "outlier source", "a hub", "far from the origin", "shuffled copy"])
def test_the_cheapest_wrong_swap_is_rejected_with_its_true_excess(name):
    x, y = nasty()[name]
    costs = costs_of_all_pairs(x, y)
    optimal, _ = cheapest(costs)
    assert sm.certify(x, y, optimal).certified
    swapped, excess = smallest_swap(costs, optimal)
    graded = sm.certify(x, y, swapped)
    assert not graded.certified
    assert graded.status == "suboptimal"
    assert graded.gap == pytest.approx(excess, rel=1e-6)
    assert graded.lower_bound == pytest.approx(
        graded.objective - excess, abs=1e-9 * graded.gain + 1e-13 * graded.objective
    )


@pytest.mark.parametrize("size", [1e4, 1e6])
def test_an_outlier_on_both_sides_hides_nothing(size):
    """Compared with the outlier's cost, the cost of any order of the other features is within 1e-9 of the optimum."""
    x, y, planted = noisy_copy(400, 20, 0.3)
    x[0] *= size / np.linalg.norm(x[0])
    y[planted[0]] = x[0]
    assert_proved_optimal(sm.assign(x, y), x, y)
    others = np.append(planted[:1], np.roll(planted[1:], 1))
    graded = sm.certify(x, y, others)
    assert not graded.certified
    assert graded.status == "suboptimal"
    unlike = -y
    unlike[planted[0]] = x[0]
    assert not sm.assign(x, unlike, max_rounds=1).certified


@pytest.mark.parametrize("seed", range(100))
def test_a_side_of_equal_rows_is_certified_whatever_its_numbers(seed):
    r = np.random.default_rng(seed)
    n, width = r.integers(2, 40), r.integers(1, 6)
    constant, other = np.repeat(r.standard_normal((1, width)), n, axis=0), r.standard_normal((n, width))
    for x, y in ((constant, other), (other, constant)):
        matching = sm.assign(x, y)
        assert matching.certified
        assert matching.perm.tolist() == list(range(n))


@pytest.mark.parametrize("seed", range(60))
def test_ties_that_float64_cannot_tell_apart_are_certified(seed):
    """With thirds, and rows of very different size, reduced costs of exactly zero are computed as single roundings."""
    r = np.random.default_rng(seed)
    thirds = r.integers(0, 3, (2, 29, 1)) / 3
    assert sm.assign(*thirds).certified
    sizes = np.exp(r.normal(0, 2 + seed % 5, (2, 60, 1)))
    assert sm.assign(*(r.standard_normal((2, 60, 4)) * sizes)).certified


def test_limits_return_the_best_so_far_with_a_true_gap():
    x, y = np.random.default_rng(0).standard_normal((2, 400, 16))
    best = sm.assign(x, y)
    stopped = sm.assign(x, y, max_rounds=1)
    assert stopped.status == "round_limit"
    assert not stopped.certified
    assert stopped.lower_bound <= best.cost <= stopped.cost
    assert stopped.gap >= stopped.cost - best.cost
    assert sm.assign(x, y, time_limit=1e-9).status == "time_limit"
    with pytest.raises(sm.NotCertified, match="round_limit") as caught:
        sm.assign(x, y, max_rounds=1, strict=True)
    np.testing.assert_array_equal(caught.value.matching.perm, stopped.perm)


def test_progress_tells_of_every_pass():
    news = []
    x, y = np.random.default_rng(0).standard_normal((2, 200, 16))
    rounds = sm.assign(x, y, progress=news.append).stats["rounds"]
    assert [one.number for one in news] == list(range(1, rounds + 1))
    assert news[-1].certificate.certified


def half_zero(rows):
    return np.where(np.arange(len(rows))[:, None] < len(rows) // 2, 0.0, rows)


def lower_on_a_permutation(values):
    cost = np.ones((800, 800))
    cost[np.arange(800), np.random.default_rng(0).permutation(800)] = values
    return {"cost": cost}


@pytest.mark.through_passes
@pytest.mark.parametrize(
    "problem",
    [
        dict(zip("xy", map(half_zero, np.random.default_rng(0).standard_normal((2, 1000, 8))), strict=True)),
        lower_on_a_permutation(0.0),
        lower_on_a_permutation(0.25),
        lower_on_a_permutation(np.random.default_rng(1).random(800)),
    ],
    ids=["half of both sides zero", "zeros among ones", "quarters among ones", "random values among ones"],
)
def test_ties_take_few_rounds(problem):
    m = sm.assign(**problem)
    assert m.certified
    assert m.stats["rounds"] <= 5
