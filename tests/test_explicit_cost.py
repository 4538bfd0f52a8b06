"""Costs that are given as a matrix, with the same answers, proofs and limits as for rows."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

import saematch as sm
from contracts import cheapest, cheapest_partial, costs_of_all_pairs, dual_bound
from problems import nasty

pytestmark = pytest.mark.through_passes


def assert_optimal(costs, max_cost=None):
    """Assert a certified matching with SciPy's cost, or a refusal if SciPy refuses the costs, too."""
    costs = np.asarray(costs)
    try:
        optimum = cheapest(costs)[1] if max_cost is None else cheapest_partial(costs, max_cost)
    except ValueError:
        with pytest.raises(sm.MatchError, match="cannot be matched"):
            sm.assign(cost=costs)
        return None
    matching = sm.assign(cost=costs, max_cost=max_cost)
    perm = matching.perm.numpy()
    rows = np.nonzero(perm >= 0)[0]
    assert len(set(perm[rows])) == len(rows)
    assert np.isfinite(costs[rows, perm[rows]]).all()
    finite = np.abs(costs[np.isfinite(costs)]).sum() + sum(costs.shape) * (max_cost or 0.0)
    assert abs(matching.objective - optimum) <= 1e-9 * max(matching.gain, 0.0) + 1e-13 * finite
    assert matching.certified
    assert matching.lower_bound <= optimum + 1e-13 * finite
    return matching


@pytest.mark.parametrize("sizes", [(60, 60), (40, 60), (60, 40), (0, 60), (60, 0), (1, 1)])
@pytest.mark.parametrize("name", [name for name in nasty() if name != "huge"])
def test_costs_of_nasty_rows(name, sizes):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    assert_optimal(costs_of_all_pairs(x, y))


@settings(max_examples=150)
@given(st.data())
def test_random_costs_with_forbidden_pairs(data):
    shape = data.draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32), st.just(math.inf))
    costs = data.draw(hnp.arrays(np.float64, shape, elements=numbers))
    assert_optimal(costs, data.draw(st.none() | st.floats(0, 200, allow_subnormal=False)))


@pytest.mark.parametrize("seed", range(20))
def test_sparse_costs_of_all_kinds(seed):
    r = np.random.default_rng(seed)
    costs = r.standard_normal((80, 80)) * np.exp(3 * r.standard_normal((80, 1)))
    costs[r.random((80, 80)) < 0.9] = np.inf
    costs[np.arange(80), r.permutation(80)] = 5.0
    assert_optimal(costs)


@pytest.mark.parametrize("costs", [[[math.inf], [1.0]], [[math.inf, 3.0], [5.0, math.inf], [2.0, 2.0]], [[-2.0]]])
def test_what_has_one_way_only_is_proved(costs):
    assert_optimal(costs)
    assert_optimal(np.transpose(costs))


@pytest.mark.through_passes(False)
def test_small_problems_with_forbidden_pairs_need_no_pass():
    costs = np.random.default_rng(0).random((30, 30))
    costs[np.random.default_rng(1).random((30, 30)) < 0.6] = np.inf
    assert assert_optimal(costs).stats["precision"] == "float64"


def test_offsets_and_sign_change_nothing():
    r = np.random.default_rng(0)
    costs = r.integers(0, 1000, (50, 50)).astype(float)
    perm = assert_optimal(costs).perm
    shifted = assert_optimal(costs + r.integers(0, 10**6, (50, 1)) - r.integers(0, 10**6, (1, 50)))
    assert torch.equal(shifted.perm, perm)
    highest = sm.assign(cost=-costs).perm.numpy()
    np.testing.assert_array_equal(highest, linear_sum_assignment(costs, maximize=True)[1])


def test_number_types_and_layouts():
    costs = np.random.default_rng(0).integers(0, 99, (30, 40))
    answer = assert_optimal(costs).perm
    wide = np.full((60, 80), 7)
    wide[::2, ::2] = costs
    for given_as in (
        costs.astype(np.float32),
        costs.astype(np.int16),
        torch.from_numpy(costs),
        torch.from_numpy(costs).bfloat16(),
        np.asfortranarray(costs),
        wide[::2, ::2],
    ):
        assert torch.equal(sm.assign(cost=given_as).perm, answer)


def test_constant_cost_gives_the_identity_and_equal_rows_ascend():
    assert sm.assign(cost=np.ones((9, 9))).perm.tolist() == list(range(9))
    assert sm.assign(cost=np.zeros((3, 5))).perm.tolist() == [0, 1, 2]


def test_what_cannot_be_matched_is_named():
    costs = np.ones((4, 4))
    costs[2] = np.inf
    with pytest.raises(sm.MatchError, match="row 2 cannot be matched: all of its costs are infinite"):
        sm.assign(cost=costs)
    costs = np.full((4, 4), np.inf)
    costs[:, 0] = costs[0] = 1.0
    with pytest.raises(sm.MatchError, match=r"row \d cannot be matched: the 1 columns that it may have are all needed"):
        sm.assign(cost=costs)
    with pytest.raises(sm.MatchError, match=r"column \d cannot be matched"):
        sm.assign(cost=costs[:, [1, 2]])
    assert sm.assign(cost=costs, max_cost=4.0).certified


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (np.array([[1.0, np.nan]]), "1 values that are NaN or -inf .* row 0, column 1"),
        (np.array([[1.0, -np.inf]]), "NaN or -inf"),
        (np.array([[1e200]]), "beyond 1e\\+140"),
        (np.ones(3), "expected \\(sources, targets\\)"),
        (np.ones((2, 2), dtype=complex), "expected numbers"),
        ([["a"]], "expected numbers"),
    ],
)
def test_bad_costs_are_refused(costs, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.assign(cost=costs)


def test_rows_or_costs_not_both():
    rows = np.ones((2, 2))
    for arguments in ((), (rows,), (rows, None), (None, rows)):
        with pytest.raises(sm.MatchError, match="give two matrices"):
            sm.assign(*arguments)
    with pytest.raises(sm.MatchError, match="give two matrices"):
        sm.assign(rows, rows, cost=rows)


def test_forbidden_pairs_are_refused_and_inverses_keep_the_proof():
    costs = np.random.default_rng(0).random((4, 6))
    gain = sm.assign(cost=-costs)
    back = gain.inverse()
    assert (back.certified, back.lower_bound) == (True, pytest.approx(gain.lower_bound))
    assert torch.equal(back.perm, sm.assign(cost=-costs.T).perm)
    costs[0, 0] = np.inf
    with pytest.raises(sm.MatchError, match=r"perm\[0\] is 0, but this pair is forbidden"):
        sm.certify(cost=costs, perm=np.arange(4))


def test_permutations_are_graded_by_costs():
    costs = np.random.default_rng(0).standard_normal((40, 40))
    best = sm.assign(cost=costs)
    assert sm.certify(cost=costs, perm=best.perm).certified
    worse = sm.certify(cost=costs, perm=np.roll(best.perm, 1))
    assert worse.status == "suboptimal"
    assert worse.gap == pytest.approx(worse.cost - best.cost, rel=1e-9)


@pytest.mark.parametrize("max_cost", [10.0, 1e6, 1e12, 1e15, 1e18])
@pytest.mark.parametrize("huge", [np.inf, 1e16])
def test_a_huge_max_cost_hides_nothing(huge, max_cost):
    """A huge max_cost gives as many pairs as possible at the lowest cost; a worse matching is never called optimal."""
    r = np.random.default_rng(0)
    costs = r.random((6, 6))
    costs[0, 1] = costs[3, 2] = huge
    best = sm.assign(cost=costs, max_cost=max_cost)
    optimum = cheapest(np.minimum(costs, 100.0))[1]
    if best.certified:
        assert best.cost == pytest.approx(optimum, rel=1e-12)
    for _ in range(20):
        graded = sm.certify(cost=costs, perm=allowed(costs, r), max_cost=max_cost)
        assert not graded.certified or graded.cost == pytest.approx(optimum, rel=1e-12)
    assert best.certified
    partial = best.perm.clone()
    partial[[1, 4]] = -1
    graded = sm.certify(cost=costs, perm=partial, max_cost=max_cost)
    left_out = math.fsum([2 * max_cost, *(-costs[[1, 4], best.perm[[1, 4]]])])
    assert (graded.status, graded.gap) == ("suboptimal", pytest.approx(left_out, rel=1e-14))


def allowed(costs, r):
    """Return a random permutation without pairs of huge cost."""
    while True:
        perm = r.permutation(len(costs))
        if (costs[np.arange(len(costs)), perm] < 100).all():
            return perm


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (40, 40)])
@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_what_all_costs_have_in_common_costs_no_precision(shape, offset):
    costs = np.random.default_rng(0).random(shape)
    plain, moved = sm.assign(cost=costs), sm.assign(cost=costs + offset)
    assert moved.certified
    assert moved.rounding_error < 1e-12
    assert torch.equal(plain.perm, moved.perm)
    proved = dual_bound(costs + offset, moved.prices.numpy(), *moved.unmatched_cost)
    assert proved == pytest.approx(moved.cost, rel=1e-14)


G = 1e17


@pytest.mark.parametrize(
    ("costs", "max_cost"),
    [
        ([[math.inf, 0.12, G, 0.8]], G),
        ([[0.36, 0.65, G, G], [0.71, 0.63, 0.63, 0.82], [G, 0.54, G, G], [G, 0.27, 0.78, 0.08]], None),
        ([[0.46, 1e16, 0.0], [0.52, 1e14, 0.09], [0.47, 0.97, 1e10]], 1e14),
        ([[1e14 + 0.9, 0.06], [1e14 + 0.69, 0.76], [1e14 + 0.6, math.inf], [1e14 + 0.5, 0.52]], None),
    ],
)
def test_huge_costs_in_every_row_hide_nothing(costs, max_cost):
    """An answer that is called optimal is within a thousandth of the typical difference between pairs."""
    costs = np.array(costs)
    cheap = np.where(costs >= 1e10, 1000.0, costs)  # the amount of a huge cost does not matter
    best = cheapest(cheap)[1] if max_cost is None else cheapest_partial(cheap, 2000.0)
    for order in itertools.permutations(range(max(costs.shape)), len(costs)):
        perm = np.where(np.array(order) < costs.shape[1], order, -1)
        rows = np.nonzero(perm >= 0)[0]
        if np.isinf(costs[rows, perm[rows]]).any() or (max_cost is None and len(rows) < min(costs.shape)):
            continue
        graded = sm.certify(cost=costs, perm=perm, max_cost=max_cost)
        if graded.certified:
            alone = sum(costs.shape) - 2 * len(rows)
            paid = cheap[rows, perm[rows]].sum() + (0 if max_cost is None else 1000.0 * alone)
            assert paid <= best + 1e-3


def test_a_bound_is_not_too_high_with_a_huge_max_cost():
    costs = np.array([[0.38, 0.02, 0.34], [0.31, 0.55, 0.63], [0.16, 0.5, 0.91]])
    graded = sm.certify(cost=costs, perm=[-1, -1, -1], max_cost=1e14)
    assert graded.status == "suboptimal"
    assert graded.lower_bound <= cheapest(costs)[1]


@pytest.mark.parametrize("max_cost", [1e3, 1e15, 1e30, 1e100])
def test_margins_with_forbidden_pairs_and_a_huge_max_cost(max_cost):
    matching = sm.assign(cost=[[0.0, 0.5, math.inf]], max_cost=max_cost)
    assert matching.margins().exact([0]).tolist() == [pytest.approx(0.5, rel=1e-9)]
    assert matching.margins().bound.tolist() == [pytest.approx(0.5, rel=1e-9)]
    assert not matching.margins().tied.any()
    single = np.array([[0.0, 0.5, math.inf]], dtype=np.float32)
    assert sm.assign(cost=single, max_cost=max_cost).perm.tolist() == [0]
    assert sm.certify(cost=single[:, :2], perm=[-1], max_cost=max_cost).status == "suboptimal"
    assert sm.assign(cost=[[1.0]], max_cost=max_cost).margins().bound.item() == pytest.approx(max_cost - 1)
