"""A thousand problems: every optimum is found and certified, and no other answer is certified."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import saematch as sm
from adversary.oracle import Truth
from adversary.problems import Given
from contracts import assert_proved_optimal, cheapest, cheapest_partial, costs_of_all_pairs
from problems import noisy_copy
from saematch.assignment import Solution
from saematch.matching.backend import choose_backend
from saematch.matching.problem import RowProblem
from tolerance import OPTIMUM

pytestmark = pytest.mark.through_passes

R = np.random.default_rng


def gaussian(r, n, m, width):
    return r.standard_normal((n, width)), r.standard_normal((m, width))


def clusters(r, n, m, width):
    centres = 3 * r.standard_normal((5, width))
    return (centres[r.integers(0, 5, size)] + r.standard_normal((size, width)) for size in (n, m))


def lattice(r, n, m, width):
    return (r.integers(0, 3, (size, width)).astype(float) for size in (n, m))


def copies(r, n, m, width):
    rows = r.standard_normal((max(2, n // 4), width))
    return (rows[r.integers(0, len(rows), size)] + 0.1 * r.integers(0, 2, (size, 1)) for size in (n, m))


def sizes(r, n, m, width):
    return (r.standard_normal((size, width)) * np.exp(2 * r.standard_normal((size, 1))) for size in (n, m))


def outlier(r, n, m, width):
    x, y = gaussian(r, n, m, width)
    x[r.integers(n)] *= 1e5
    return x, y


def hub(r, n, m, width):
    y = r.standard_normal((m, width))
    y[r.integers(m)] = 0
    return 0.1 * r.standard_normal((n, width)), y


def far(r, n, m, width):
    x, y = gaussian(r, n, m, width)
    return x + 1e4, y - 1e4


def planted(r, n, m, width):
    x, y, _ = noisy_copy(max(n, m), width, 0.7, seed=int(r.integers(1 << 30)))
    return x[:n], y[:m]


def single(r, n, m, width):
    return gaussian(r, n, m, width)[0].astype(np.float32), gaussian(r, n, m, width)[1].astype(np.float32)


KINDS = [gaussian, clusters, lattice, copies, sizes, outlier, hub, far, planted, single]
EACH = 100  # of every kind, of which 10 are rectangular and 10 partial


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("decade", range(10))
def test_optima_are_certified_and_nothing_else(kind, decade):
    for number in range(EACH // 10):
        r = R([KINDS.index(kind), decade, number])
        n = m = int(r.integers(2, 300 if number == 0 else 50))
        if number == 8:
            m = int(r.integers(1, 60))
        x, y = kind(r, n, m, int(r.integers(1, 24)))
        costs = costs_of_all_pairs(x, y)
        max_cost = float(np.quantile(costs, r.random())) if number == 9 else None
        best = sm.assign(x, y, max_cost=max_cost)
        assert_proved_optimal(best, x, y, max_cost, beyond_float64=max_cost is not None)
        if number < 8:
            for wrong in (*swaps(costs, best.perm.numpy(), r), rounded_optimum(costs)):
                assert_true_claim(x, y, costs, wrong, best)
            assert_permuted_prices_are_refused(x, y, best, r)


@pytest.mark.parametrize("exponent", range(4, 14))
def test_whole_numbers_are_told_apart_to_the_last(exponent):
    """For large costs, too, an answer that costs 1 more is not called optimal."""
    n, r = 40, R(exponent)
    costs = r.integers(100, 10**exponent, (n, n))
    np.fill_diagonal(costs, 0)
    costs[3, 8], costs[8, 3] = 0, 1
    costs += r.integers(-(10**exponent), 10**exponent, (n, 1)) + r.integers(-(10**exponent), 10**exponent, (1, n))
    swapped = np.arange(n)
    swapped[[3, 8]] = 8, 3
    graded = sm.certify(cost=costs, perm=swapped)
    assert (graded.certified, graded.status) == (False, "suboptimal")
    assert abs(graded.gap - 1) <= graded.rounding_error < 0.5
    best = sm.assign(cost=costs)
    assert best.perm.tolist() == list(range(n))
    assert best.certified


def shuffled_claims(x=None, y=None, **costs):
    """Return the grades of a random permutation and of the solver's answer."""
    n = min(np.shape(costs["cost"]) if x is None else (len(x), len(y)))
    perm = np.append(R(9).permutation(n), np.full((len(costs["cost"]) if x is None else len(x)) - n, -1))
    return sm.certify(x, y, perm, **costs), sm.assign(x, y, **costs)


def test_what_an_outlier_hides_from_float64_is_proved_in_twice_its_precision():
    """If one number is rounded by more than all others differ by, exact arithmetic confirms the claims."""
    r = R(0)
    costs = r.random((30, 30))
    costs[:, 0] += 1e16
    blocks = r.integers(0, 3, (30, 30)) + 8 * r.random((30, 1)).round(2)
    blocks[:, 20:] = 1e17
    for given in (Given(cost=costs), Given(cost=blocks)):
        truth = Truth.of(given)
        own = given.assign()
        assert own.certified
        assert truth.objective(own.perm.tolist()) == truth.optimum
        shuffled = R(9).permutation(30)
        wrong = given.certify(shuffled)
        assert wrong.status == "suboptimal"
        short = truth.objective(shuffled.tolist()) - truth.optimum
        assert abs(wrong.gap - short) <= wrong.rounding_error


def test_what_an_outlier_hides_even_so_is_not_called_proved():
    x, y = R(0).standard_normal((2, 30, 6))
    x[:, 0] = y[:, 0] = 0
    y[0, 0] = 1e17
    given = Given(x, y)
    truth, own, shuffled = Truth.of(given), given.assign(), R(9).permutation(30)
    assert (own.certified, own.status) == (False, "unproved")
    assert truth.objective(own.perm.tolist()) - truth.optimum <= own.gap + own.rounding_error
    wrong = given.certify(shuffled)
    assert not wrong.certified
    assert abs(wrong.gap - (truth.objective(shuffled.tolist()) - truth.optimum)) <= wrong.rounding_error


@pytest.mark.parametrize("max_cost", [1e3, 1e12, 3e15, 1e20, 1e100])
def test_a_max_cost_beyond_every_cost_changes_nothing(max_cost):
    x, y = R(0).standard_normal((2, 60, 4))
    wrong, own = shuffled_claims(x, y[:50], max_cost=max_cost)
    assert own.certified
    assert wrong.status == "suboptimal"
    assert own.perm.tolist() == sm.assign(x, y[:50]).perm.tolist()
    assert sm.assign(cost=np.full((4, 6), 1e-10), max_cost=max_cost).certified


def test_small_numbers_next_to_larger_ones_are_proved():
    costs = [[100.6, 1.9, 0.0], [100.5, 1.8, 0.1], [100.4, 1.8, 0.3], [100.5, 1.9, 0.0]]
    assert sm.assign(cost=costs).certified
    assert len(sm.assign(cost=R(0).random((4, 4)) * 1e-310).perm) == 4


def test_sums_of_rows_and_columns_are_constant_costs():
    costs = R(0).integers(0, 1000, (30, 1)) + R(1).integers(0, 1000, (1, 30))
    assert all(answer.certified for answer in shuffled_claims(cost=costs))


def swaps(costs, perm, r):
    """Return permutations after the cheapest exchange of two partners, and after a random one."""
    matched = costs[:, perm]
    excess = matched + matched.T - np.diag(matched)[:, None] - np.diag(matched)[None]
    np.fill_diagonal(excess, np.inf)
    for i, j in (np.unravel_index(excess.argmin(), excess.shape), r.choice(len(perm), 2, replace=False)):
        swapped = perm.copy()
        swapped[[i, j]] = swapped[[j, i]]
        yield swapped


def rounded_optimum(costs):
    """Return a permutation that a solver in half precision may return."""
    with np.errstate(over="ignore"):
        rounded = (costs / costs.max(initial=1.0)).astype(np.float16).astype(float)
    return cheapest(rounded)[0]


def assert_true_claim(x, y, costs, perm, best):
    """Assert that an answer is certified only within 1e-9 of the optimum, and refused if float64 shows a difference."""
    graded = sm.certify(x, y, perm)
    excess = math.fsum(costs[np.arange(len(perm)), perm]) - best.cost
    rounding = 1e-13 * costs.sum()
    if graded.certified:
        assert graded.gap <= graded.rounding_error
        assert excess <= graded.gap + graded.rounding_error + rounding
        assert graded.gap + graded.rounding_error <= OPTIMUM * graded.gain or graded.gain == 0
    else:
        assert graded.gap == pytest.approx(excess, rel=1e-6, abs=rounding + graded.rounding_error)
    if excess > OPTIMUM * best.gain + rounding:
        assert graded.status == "suboptimal"


def assert_permuted_prices_are_refused(x, y, best, r):
    """Assert that the optimum is not certified by prices that do not prove it."""
    problem = RowProblem.checked(x, y, None)
    cost = problem.cost(choose_backend("torch", "cpu"))
    unmatched = cost.unmatched(np.inf, np.inf)
    right = (best.prices.numpy() - cost.column_constant) * cost.scale
    wrong = right[r.permutation(len(right))]
    at, proved = cost.row_minima(np.arange(len(x)), wrong, unmatched.bound_price_error(wrong))
    minima = cost.exact(np.arange(len(x)), at) - wrong[at]
    certificate = Solution(best.perm.numpy(), wrong, minima, proved).grade(cost, unmatched, best.perm.numpy())
    short = (math.fsum(cost.exact(np.arange(len(x)), best.perm.numpy()) - wrong) - math.fsum(minima)) / cost.scale
    if short > OPTIMUM * best.gain:
        assert not certificate.certified
        assert certificate.gap == pytest.approx(min(short, best.cost), rel=1e-6)  # no distance is negative


def decades(r, n, spread=60.0):
    return np.exp(r.uniform(0, spread, (n, n)))


@pytest.mark.parametrize("max_cost", [None, 1e12, 1e20, 1e40])
@pytest.mark.parametrize("make", [decades, lambda r, n: 1 / (r.dirichlet(np.full(n, 0.05), n) + 1e-30)])
def test_costs_over_many_decades_are_solved_and_proved(make, max_cost):
    """There are more pairs than the first graph holds, so that passes choose candidates."""
    for seed in range(3):
        costs = make(R(seed), 150)
        best = sm.assign(cost=costs, max_cost=max_cost)
        optimum = cheapest(costs)[1] if max_cost is None else cheapest_partial(costs, max_cost)
        assert best.certified
        assert best.objective == pytest.approx(optimum, rel=1e-12)
        assert best.gap + best.rounding_error <= 1e-9 * best.objective
        assert 0 <= best.lower_bound <= best.objective


def test_an_sae_and_nearly_the_same_are_proved_in_all_digits():
    x = R(0).standard_normal((200, 60))
    perm = R(1).permutation(200)
    for noise in (0.0, 1e-16, 1e-12, 1e-7, 2.0**-11):
        best = sm.assign(x, (x * (1 + noise * R(2).standard_normal(x.shape)))[perm])
        assert best.certified
        assert best.perm.tolist() == np.argsort(perm).tolist()
        assert best.gap + best.rounding_error <= 1e-9 * best.cost


@pytest.mark.parametrize("kinds", [2, 4])
def test_costs_of_few_values_take_few_rounds(kinds):
    costs = R(0).integers(0, kinds, (600, 600))
    best = sm.assign(cost=costs)
    assert (best.cost, best.certified) == (cheapest(costs)[1], True)
    assert best.stats["rounds"] <= 3


def test_a_gap_covers_what_max_cost_adds_to_it():
    for seed in range(50):
        r = R(seed)
        given = Given(cost=r.random((2, 2)), max_cost=float(10.0 ** r.uniform(3, 12)))
        answer = given.certify([-1, -1])
        truth = Truth.of(given)
        assert truth.objective([-1, -1]) - truth.optimum <= Fraction(answer.gap) + Fraction(answer.rounding_error)


def test_the_hosts_numpy_settings_change_nothing():
    costs = decades(R(0), 40)
    with np.errstate(all="raise"):
        loud = sm.assign(cost=costs, max_cost=1e9)
        assert torch.equal(loud.margins().bound, sm.assign(cost=costs, max_cost=1e9).margins().bound)


def test_a_refinement_keeps_to_the_time_limit(monkeypatch):
    monkeypatch.setattr("saematch.assignment.refinement.time.monotonic", lambda: math.inf)
    rows = np.linalg.qr(R(0).standard_normal((60, 60)))[0]
    assert sm.assign(rows, rows[::-1] + 1e-9).status == "time_limit"
