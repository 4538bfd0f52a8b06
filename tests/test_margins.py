"""Margins, compared with their definition: the rise of the optimum if a feature must not have its partner."""

import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saematch as sm
from adversary.oracle import Truth
from adversary.problems import Given
from contracts import costs_of_all_pairs, doubled
from problems import nasty, noisy_copy
from saematch.assignment import graph, margins

pytestmark = pytest.mark.through_passes


def true_margins(costs, perm, max_cost):
    """Return margins, by forbidding the state of each feature in turn and solving again; inf if that is impossible."""
    n, m = costs.shape
    whole = doubled(costs, max_cost)
    rows, columns = linear_sum_assignment(whole)
    best = whole[rows, columns].sum()
    margins = np.full(n, np.inf)
    for i in range(n):
        other = whole.copy()
        other[i, perm[i] if perm[i] >= 0 else m + i] = np.inf
        try:
            rows, columns = linear_sum_assignment(other)
        except ValueError:  # nothing else is possible
            continue
        margins[i] = other[rows, columns].sum() - best
    return margins


def assert_margins(matching, costs, max_cost=None):
    """Assert that bounds are not above the true margins, exact values equal them, and ties have margin zero.

    The lowest margins must be found before others are computed, since these might help to find them.
    """
    truth = true_margins(costs, matching.perm.numpy(), max_cost)
    size = np.abs(costs[np.isfinite(costs)]).max(initial=0.0) + (max_cost or 0.0)
    rounding = 1e-12 * size * (1 + len(costs))
    bound, is_exact = matching.margins().bound.numpy(), matching.margins().is_exact.numpy()
    assert (bound >= 0).all()
    assert (bound <= truth + rounding).all()
    assert (bound[is_exact] >= truth[is_exact] - rounding).all()
    lowest, least = matching.margins().lowest(5), np.sort(truth)[:5]
    np.testing.assert_allclose(matching.margins().exact(lowest).numpy(), least, rtol=0, atol=rounding)
    np.testing.assert_allclose(truth[lowest], least, rtol=0, atol=rounding)
    exact = matching.margins().exact(range(len(costs))).numpy()
    assert (exact <= truth + rounding).all()
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(finite, np.isfinite(exact))
    assert (exact[finite] >= truth[finite] - rounding).all()
    assert matching.margins().tied[truth == 0].all()
    assert not matching.margins().tied[truth > rounding].any()


@pytest.fixture
def few_from_the_start(monkeypatch):
    """Treat problems as large ones, of which passes list few pairs, and few margins are exact from the start."""
    monkeypatch.setattr(margins, "LISTED", 2)
    monkeypatch.setattr(graph, "LONG_LIST", 2)
    monkeypatch.setattr(margins, "_SMALL", 0)
    monkeypatch.setattr(margins, "_MOST_ROWS", 40)
    monkeypatch.setattr(margins, "LOWEST", 10)


SMALL = {name: rows for name, rows in nasty(24, 5).items() if name not in ("huge", "tiny", "outliers on both sides")}


@pytest.mark.parametrize("sizes", [(24, 24), (24, 17), (17, 24)])
@pytest.mark.parametrize("name", SMALL)
def test_margins_of_nasty_problems(name, sizes):
    x, y = (rows[:size] for rows, size in zip(SMALL[name], sizes, strict=True))
    assert_margins(sm.assign(x, y), costs_of_all_pairs(x, y))


@pytest.mark.parametrize("factor", [1, 1.5, 2.9, 3.1, 1e12])
@pytest.mark.parametrize("targets", [30, 20, 40])
@pytest.mark.parametrize("shift", [0, -50])
def test_margins_where_staying_free_is_dearer_than_any_pair(factor, targets, shift):
    r = np.random.default_rng(targets)
    costs = r.integers(0, 100, (30, targets)) + float(shift)
    max_cost = factor * costs.max()
    assert_margins(sm.assign(cost=costs, max_cost=max_cost), costs, max_cost)


def test_staying_free_can_be_the_next_best():
    for costs, max_cost, margin in (([[0, 4], [4, 0]], 5, 5), ([[5]], 5, 0), ([[5]], 6, 1)):
        matching = sm.assign(cost=costs, max_cost=max_cost)
        assert matching.margins().bound.tolist() == pytest.approx([margin] * len(costs), rel=0, abs=1e-14)
        assert matching.margins().tied.tolist() == [margin == 0] * len(costs)
        assert_margins(matching, np.array(costs, dtype=float), max_cost)


@pytest.mark.parametrize("quantile", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("name", ["random", "duplicates", "small integers", "a hub", "zero rows"])
def test_margins_of_partial_problems(name, quantile):
    x, y = SMALL[name][0], SMALL[name][1][:20]
    costs = costs_of_all_pairs(x, y)
    max_cost = float(np.quantile(costs, quantile))
    assert_margins(sm.assign(x, y, max_cost=max_cost), costs, max_cost)


@pytest.mark.parametrize("seed", range(8))
def test_margins_where_pairs_are_forbidden(seed):
    r = np.random.default_rng(seed)
    costs = r.integers(0, 30, (15, 15 + seed % 3)).astype(float)
    costs[r.random(costs.shape) < 0.5] = np.inf
    np.fill_diagonal(costs, 7.0)
    assert_margins(sm.assign(cost=costs), costs)


@pytest.mark.usefixtures("few_from_the_start")
def test_a_pair_without_alternative_has_an_infinite_margin():
    costs = np.full((5, 4), np.inf)
    costs[[0, 1, 1, 2, 2], [1, 0, 3, 1, 2]] = 0.33, 0.01, 0.17, 0.71, 0.64
    costs[[3, 4, 4, 4, 4], [1, 0, 1, 2, 3]] = 0.43, 0.43, 0.49, 0.84, 0.43
    matching = sm.assign(cost=costs)
    assert torch.isinf(matching.margins().exact([2])).all()
    assert_margins(matching, costs)


def test_margins_at_more_features_than_a_pass_lists():
    x, y = np.random.default_rng(0).standard_normal((2, 150, 6))
    matching = sm.assign(x, y)
    assert_margins(matching, costs_of_all_pairs(x, y))
    assert matching.margins().is_exact.all()
    assert not matching.margins().tied.any()


@pytest.mark.usefixtures("few_from_the_start")
@pytest.mark.parametrize(("sizes", "quantile"), [((150, 150), None), ((120, 150), None), ((150, 120), 0.1)])
def test_the_lowest_margins_of_large_problems_are_exact(sizes, quantile):
    x, y = np.random.default_rng(1).standard_normal((2, 150, 12))
    x, y = x[: sizes[0]], y[: sizes[1]]
    costs = costs_of_all_pairs(x, y)
    max_cost = None if quantile is None else float(np.quantile(costs, quantile))
    matching = sm.assign(x, y, max_cost=max_cost)
    found = matching.margins()
    ranked = np.argsort(found.bound.numpy(), kind="stable")
    assert found.is_exact[ranked[:10]].all()
    truth = true_margins(costs, matching.perm.numpy(), max_cost)
    np.testing.assert_allclose(truth[ranked[:10]], np.sort(truth)[:10], rtol=1e-9)
    assert_margins(matching, costs, max_cost)


@pytest.mark.usefixtures("few_from_the_start")
def test_without_the_work_bounds_are_said_to_be_bounds(monkeypatch):
    monkeypatch.setattr(margins, "_MOST_NUMBERS", 0)
    x, y = np.random.default_rng(1).standard_normal((2, 150, 12))
    matching = sm.assign(x, y)
    assert not matching.margins().is_exact[matching.margins().bound.argsort()[:10]].all()
    assert_margins(matching, costs_of_all_pairs(x, y))


def test_next_to_a_margin_of_few_digits_no_other_feature_is_called_tied():
    """Such a margin is computed in twice the precision; the bounds of all other features must not become worse."""
    x, y = np.random.default_rng(0).standard_normal((2, 150, 6))
    x[1] = x[0] + 1e-10
    matching = sm.assign(x, y)
    bound, exact = matching.margins().bound, matching.margins().exact(range(150))
    assert matching.margins().tied.sum() == 0
    assert sorted(matching.margins().lowest(2).tolist()) == [0, 1]
    assert 0 < exact[:2].min() < 1e-8
    torch.testing.assert_close(bound, exact, rtol=1e-9, atol=0)


def test_a_planted_match_is_firm_and_duplicates_are_tied():
    x, y, planted = noisy_copy(80, 12, 0.05)
    x[5], y[planted[5]] = x[9], y[planted[9]]
    matching = sm.assign(x, y)
    assert matching.margins().tied.nonzero()[:, 0].tolist() == [5, 9]
    firm = np.setdiff1d(np.arange(80), [5, 9])
    assert (matching.margins().bound[firm] > 1).all()


def test_margins_do_not_depend_on_the_prices_that_were_found():
    x, y = np.random.default_rng(0).standard_normal((2, 120, 8))
    direct, graded = sm.assign(x, y), sm.certify(x, y, sm.assign(x, y).perm)
    assert not torch.equal(direct.prices, graded.prices)
    torch.testing.assert_close(direct.margins().bound, graded.margins().bound, rtol=1e-6, atol=1e-9)


def test_ties_that_are_exact_only_in_decimals():
    costs = np.array([[100.5, 1.7, 2.0, 1.7], [100.3, 1.9, 1.9, 1.9], [100.3, 1.8, 2.0, 1.9], [100.3, 2.0, 1.9, 1.8]])
    assert sm.assign(cost=costs).margins().tied[[0, 2]].all()


def test_features_are_indices_or_a_mask():
    matching = sm.assign(*np.random.default_rng(0).standard_normal((2, 40, 8)))
    loose = matching.margins().bound < matching.margins().bound.median()
    exact = matching.margins().exact(range(40))
    assert torch.equal(matching.margins().exact(loose), exact[loose])
    assert matching.margins().exact([]).shape == (0,)
    torch.testing.assert_close(exact[matching.margins().lowest(50)], exact.sort().values, rtol=1e-12, atol=0)
    assert matching.margins().lowest(0).tolist() == []
    for wrong in (-1, 2.5, "3"):
        with pytest.raises(sm.MatchError, match="give the number of features"):
            matching.margins().lowest(wrong)
    for wrong in ([1.5], ["a"], [None]):
        with pytest.raises(sm.MatchError, match="give their indices, or a mask"):
            matching.margins().exact(wrong)


def test_margins_notice_that_the_inputs_changed():
    x, y = np.random.default_rng(0).standard_normal((2, 40, 8))
    matching = sm.assign(x, y)
    x[3] += 1
    with pytest.raises(sm.MatchError, match="have changed"):
        _ = matching.margins().bound


@pytest.mark.parametrize("max_cost", [None, 0.5, 3.0, 1e3])
def test_margins_notice_that_other_costs_changed(max_cost):
    costs = np.random.default_rng(0).random((60, 60))
    matching = sm.assign(cost=costs, max_cost=max_cost)
    perm = matching.perm.numpy()
    costs[7, perm[11]] = costs[11, perm[7]] = -1.0  # no pair that was made costs less, and two others do
    with pytest.raises(sm.MatchError, match="is not an optimum of the inputs as they are now: they have changed"):
        _ = matching.margins().bound


def test_margins_where_the_sides_are_far_apart():
    x, y = np.random.default_rng(0).standard_normal((2, 12, 4))
    x[:, 0] = y[:, 0] = 0
    near = sm.assign(x, y)
    far = sm.assign(x, y + np.array([1e8, 0, 0, 0]))
    torch.testing.assert_close(far.margins().exact(range(12)), near.margins().exact(range(12)), rtol=0, atol=1e-6)


def test_a_pickle_leaves_the_costs_behind():
    matching = sm.assign(*np.random.default_rng(0).standard_normal((2, 300, 50)))
    before = len(pickle.dumps(matching))
    assert (matching.margins().bound >= 0).all()
    assert len(pickle.dumps(matching)) < before + 100
    with pytest.raises(sm.MatchError, match="need the inputs"):
        _ = pickle.loads(pickle.dumps(matching)).margins().bound


def test_margins_belong_to_a_proved_optimum_and_need_the_inputs(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((2, 40, 8))
    best = sm.assign(x, y)
    with pytest.raises(sm.MatchError, match="not proved optimal"):
        _ = sm.certify(x, y, np.arange(40)).margins()
    best.save(tmp_path / "m.safetensors")
    loaded = sm.Matching.load(tmp_path / "m.safetensors")
    with pytest.raises(sm.MatchError, match="need the inputs"):
        _ = loaded.margins().tied
    torch.testing.assert_close(sm.certify(x, y, loaded).margins().bound, best.margins().bound, rtol=1e-6, atol=1e-9)
    with pytest.raises(sm.MatchError, match="feature 40 is not among"):
        best.margins().exact([3, 40])


@pytest.mark.parametrize(("shape", "max_cost"), [((40, 50), 2.5e8), ((40, 40), 1.01e8), ((40, 40), None)])
def test_margins_next_to_an_outlier_that_float32_cannot_see_past(shape, max_cost):
    costs = np.random.default_rng(0).random(shape)
    without = sm.assign(cost=costs.copy())
    costs[0, 0] = 1e8  # of a pair that no matching would make
    matching = sm.assign(cost=costs, max_cost=max_cost)
    assert matching.certified
    assert torch.equal(matching.perm, without.perm)
    rounding = 100 * np.finfo(float).eps * 2.5e8  # a margin adds up some sums with max_cost
    np.testing.assert_allclose(
        matching.margins().exact(range(1, 40)), without.margins().exact(range(1, 40)), atol=rounding
    )
    assert matching.margins().tied.sum() == 0


@pytest.mark.parametrize("offset", [1e5, 1e7, 1e8])
def test_margins_where_rows_fall_into_two_groups_far_apart(offset):
    x, y = np.random.default_rng(1).standard_normal((2, 10, 2))
    near = sm.assign(x[::2], y[::2]).margins().exact(range(5))
    x[1::2] += offset
    y[1::2] += offset
    matching = sm.assign(x, y)
    torch.testing.assert_close(matching.margins().exact(range(0, 10, 2)), near, rtol=1e-6, atol=0)
    assert not matching.margins().tied.any()


@pytest.mark.parametrize("blocking", [1e9, 1e14, 1e30])
def test_margins_among_pairs_that_are_as_good_as_forbidden(blocking):
    r = np.random.default_rng(0)
    costs = r.random((12, 12))
    costs[r.random((12, 12)) < 0.7] = blocking
    costs[np.arange(12), r.permutation(12)] = 0.5
    plain = np.where(costs == blocking, 1000.0, costs)
    exact = sm.assign(cost=costs).margins().exact(range(12)).numpy()
    truth = true_margins(plain, sm.assign(cost=plain).perm.numpy(), None)
    np.testing.assert_allclose(exact[truth < 900], truth[truth < 900], rtol=1e-9)


def test_no_exact_margin_is_above_the_true_one_under_a_max_cost_like_the_largest_cost():
    costs = np.array([[0.57, 1e16, 0.09], [1e16, 0.62, 0.02], [0.87, 0.85, 1e16]])
    matching = sm.assign(cost=costs, max_cost=1e16)
    np.testing.assert_allclose(matching.margins().exact(range(3)), 0.14, rtol=1e-12)


@pytest.mark.parametrize("offset", [1.0, 2.0**20, 2.0**32])
def test_no_margin_is_above_the_true_one_where_offsets_are_large(offset):
    """The price of an unmatched target is exactly its unmatched cost, without a rounding of the offsets."""
    x = np.array([[0, 2, 1], [0, 0, 2], [2, 0, 2], [0, 0, 1.0]]) + offset
    y = (
        np.array([[1, 0, 2], [1, 0, 0], [1, 2, 0], [1, 0, 1], [1, 1, 2], [1, 0, 1], [2, 1, 1], [2, 2, 1.0]])
        + 8 * offset
    )
    given, matching = Given(x, y), sm.assign(x, y)
    exact = Truth.of(given)
    for i, j in enumerate(matching.perm.tolist()):
        truth = exact.optimum_without(i, j) - exact.optimum
        assert matching.margins().bound[i].item() <= truth
        # Float64 serves until its rounding is a 2^-22th of a margin: a few times that, on a way of a few pairs.
        assert matching.margins().exact([i]).item() == pytest.approx(float(truth), rel=2.0**-20, abs=1e-9)
