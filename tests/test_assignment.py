import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import saematch as sm
from contracts import assert_proved_optimal, cheapest, costs_of_all_pairs
from problems import nasty, noisy_copy
from saematch.assignment.ties import in_order


@pytest.mark.parametrize("name", nasty())
def test_nasty_problems_are_solved_and_proved(name):
    x, y = nasty()[name]
    assert_proved_optimal(sm.assign(x, y), x, y)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_problems_are_solved_and_proved(data):
    n, width = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 5))
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))
    rows = hnp.arrays(np.float64, (n, width), elements=numbers)
    x, y = data.draw(rows), data.draw(rows)
    assert_proved_optimal(sm.assign(x, y), x, y)


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


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_exchanging_identical_rows_does_not_change_the_representative(n, row_kinds, column_kinds, random):
    rows = np.array([random.randrange(row_kinds) for _ in range(n)])
    columns = np.array([random.randrange(column_kinds) for _ in range(n)])
    perm = np.array(random.sample(range(n), n))
    other = perm.copy()
    for _ in range(20):
        i, j = random.randrange(n), random.randrange(n)
        if rows[i] == rows[j] or columns[other[i]] == columns[other[j]]:
            other[[i, j]] = other[[j, i]]
    chosen = in_order(perm, rows, columns)
    np.testing.assert_array_equal(np.sort(chosen), np.arange(n))
    np.testing.assert_array_equal(chosen, in_order(other, rows, columns))


def smallest_swap(costs, perm):
    """The permutation with the exchange of two partners that costs least, and what it costs."""
    matched = costs[:, perm]
    excess = matched + matched.T - np.diag(matched)[:, None] - np.diag(matched)[None]
    np.fill_diagonal(excess, np.inf)
    i, j = np.unravel_index(excess.argmin(), excess.shape)
    swapped = perm.copy()
    swapped[[i, j]] = swapped[[j, i]]
    return swapped, excess[i, j]


@pytest.mark.parametrize("name", ["random", "giant source", "a hub", "far from the origin", "shuffled copy"])
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
    assert graded.lower_bound == pytest.approx(graded.objective - excess, abs=1e-9 * graded.scale)


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
