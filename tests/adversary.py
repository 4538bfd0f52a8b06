"""Problems that are built to break a claim, and what exact arithmetic says of the answers.

A problem is known by the name of its kind and a number. Its costs are made again as whole numbers times a power of two,
without rounding, and solved in Python's integers: a claim that exact arithmetic refutes is a defect, however small the
difference. `python tests/adversary.py --minutes 60` searches for such claims (`make adversary`), prints those it finds
after making each problem as small as it can, and counts how often an optimum was found but not certified.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

import saematch as sm
from saematch.assignment import column_generation

TOLERANCE = Fraction(10**-9)  # of `certified`: what the answer may lose of its own cost, and of what matching gains
UNIT = Fraction(2) ** -53
Array = np.ndarray[Any, Any]
Costs = list[list[Fraction | None]]  # None forbids a pair


@dataclass(frozen=True)
class Given:
    """The arguments of `saematch.assign`: rows of both sides, or costs."""

    x: Array | None = None
    y: Array | None = None
    cost: Array | None = None
    max_cost: float | None = None

    def assign(self, **options: Any) -> sm.Matching:
        """The answer to it."""
        if self.cost is not None:
            return sm.assign(cost=self.cost, max_cost=self.max_cost, **options)
        return sm.assign(self.x, self.y, max_cost=self.max_cost, **options)

    def certify(self, perm: list[int]) -> sm.Matching:
        """A permutation, graded."""
        given = np.array(perm, dtype=np.int64)
        if self.cost is not None:
            return sm.certify(cost=self.cost, perm=given, max_cost=self.max_cost)
        return sm.certify(self.x, self.y, given, max_cost=self.max_cost)

    def transposed(self) -> Given:
        """The same problem with the sides exchanged."""
        if self.cost is not None:
            return replace(self, cost=np.ascontiguousarray(self.cost.T))
        return replace(self, x=self.y, y=self.x)

    def reordered(self, order: Array) -> Given:
        """The same problem with its sources in another order."""
        if self.cost is not None:
            return replace(self, cost=self.cost[order])
        assert self.x is not None
        return replace(self, x=self.x[order])

    def costs(self) -> Costs:
        """The costs of all pairs, exactly."""
        if self.cost is not None:
            return [[Fraction(float(c)) if np.isfinite(c) else None for c in row] for row in self.cost]
        assert self.x is not None
        assert self.y is not None
        x, y = ([[Fraction(float(value)) for value in row] for row in side] for side in (self.x, self.y))
        return [[sum(((a - b) ** 2 for a, b in zip(one, other, strict=True)), Fraction(0)) for other in y] for one in x]


# Kinds whose numbers can be further apart than twice the precision of float64 tells: what is claimed of them must hold,
# but an optimum need not be certified, and may be for one order of rows and not for another.
BEYOND = ("many_decades", "single_precision_costs", "tiny_rows_and_an_ordinary_one", "tiny_costs_among_ordinary_ones")
KINDS: dict[str, Callable[[np.random.Generator], Given]] = {}


def kind(make: Callable[[np.random.Generator], Given]) -> Callable[[np.random.Generator], Given]:
    """Register a kind of problem under the name of its function."""
    KINDS[make.__name__] = make
    return make


def problem(name: str, number: int) -> Given:
    """The problem of a kind with a number."""
    return KINDS[name](np.random.default_rng([*name.encode(), number]))


def size(r: np.random.Generator, most: int = 9) -> int:
    """A number of features, small more often than large."""
    return int(r.integers(1, most)) if r.random() < 0.7 else int(r.integers(1, 2 * most))


def sides(r: np.random.Generator) -> tuple[int, int]:
    """Numbers of features, mostly equal ones."""
    n = size(r)
    return (n, n) if r.random() < 0.7 else (n, size(r))


def normal(r: np.random.Generator) -> tuple[Array, Array]:
    """Ordinary rows of both sides."""
    (n, m), width = sides(r), int(r.integers(1, 7))
    return r.standard_normal((n, width)), r.standard_normal((m, width))


def limit(r: np.random.Generator, x: Array, y: Array) -> float | None:
    """Sometimes a max_cost: a cost of a pair, one next to it, or a huge one."""
    if r.random() < 0.7 or not len(x) or not len(y):
        return None
    cost = float(((x[r.integers(len(x))] - y[r.integers(len(y))]) ** 2).sum())
    return float(
        min(
            1e298,
            r.choice([cost, np.nextafter(cost, np.inf), np.nextafter(cost, 0), 2 * cost, 1e6 * cost, 1e16 * cost]),
        )
    )


def limit_of(r: np.random.Generator, cost: Array) -> float | None:
    """The same for given costs."""
    finite = cost[np.isfinite(cost) & (cost >= 0)]
    if r.random() < 0.7 or not len(finite):
        return None
    one = float(r.choice(finite))
    return float(min(1e140, r.choice([one, np.nextafter(one, np.inf), 2 * one, 1e6 * one, 1e16 * one, 0.0])))


def rows(make: Callable[[np.random.Generator], tuple[Array, Array]]) -> Callable[[np.random.Generator], Given]:
    """Register a kind that makes rows."""

    def given(r: np.random.Generator) -> Given:
        x, y = make(r)
        return Given(x, y, max_cost=limit(r, x, y))

    given.__name__ = make.__name__
    kind(given)
    return given


def costs(make: Callable[[np.random.Generator, int, int], Array]) -> Callable[[np.random.Generator], Given]:
    """Register a kind that makes costs."""

    def given(r: np.random.Generator) -> Given:
        cost = np.asarray(make(r, *sides(r)), dtype=np.float64)
        return Given(cost=cost, max_cost=limit_of(r, cost))

    given.__name__ = make.__name__
    kind(given)
    return given


@rows
def ordinary_rows(r):
    return normal(r)


@rows
def same_rows_in_another_order(r):
    x, _ = normal(r)
    return x, x[r.permutation(len(x))]


@rows
def nearly_the_same_rows(r):
    x, _ = normal(r)
    return x, x[r.permutation(len(x))] + 10.0 ** -r.uniform(5, 17) * r.standard_normal(x.shape)


@rows
def nearly_one_row(r):
    x, y = normal(r)
    spread = 10.0 ** -r.uniform(3, 17)
    return 1 + spread * x, 1 + spread * y


@rows
def common_offsets(r):
    x, y = normal(r)
    return x + 10.0 ** r.uniform(0, 12), y + 10.0 ** r.uniform(0, 12)


@rows
def offsets_in_one_direction(r):
    x, y = normal(r)
    x[:, 0] += 10.0 ** r.uniform(0, 12)
    return x, y


@rows
def one_outlier(r):
    x, y = normal(r)
    x[r.integers(len(x))] *= 10.0 ** r.uniform(0, 14)
    return x, y


@rows
def outliers_on_both_sides(r):
    x, y = normal(r)
    for side in (x, y):
        side[r.random(len(side)) < 0.3] *= 10.0 ** r.uniform(0, 14)
    return x, y


@rows
def offsets_and_an_outlier(r):
    x, y = normal(r)
    x, y = x + 10.0 ** r.uniform(0, 9), y + 10.0 ** r.uniform(0, 9)
    x[0] *= 10.0 ** r.uniform(0, 6)
    return x, y


@rows
def rows_of_every_size(r):
    x, y = normal(r)
    return x * 10.0 ** r.uniform(-10, 10, (len(x), 1)), y * 10.0 ** r.uniform(-10, 10, (len(y), 1))


@rows
def columns_of_every_size(r):
    x, y = normal(r)
    scale = 10.0 ** r.uniform(-10, 10, x.shape[1])
    return x * scale, y * scale


@rows
def orthonormal_rows(r):
    n = size(r)
    q = np.linalg.qr(r.standard_normal((n, n)))[0]
    return q, q[r.permutation(n)]


@rows
def two_orthonormal_bases(r):
    n = size(r)
    return np.linalg.qr(r.standard_normal((n, n)))[0], np.linalg.qr(r.standard_normal((n, n)))[0]


@rows
def unit_vectors_of_axes(r):
    n = size(r)
    return np.eye(n), np.eye(n)[r.permutation(n)][: size(r)]


@rows
def sparse_unit_rows(r):
    (n, m), width = sides(r), 12
    x, y = (np.where(r.random((k, width)) < 0.2, r.random((k, width)), 0.0) for k in (n, m))
    return tuple(side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (x, y))


@rows
def rows_of_zeros_and_ones(r):
    (n, m), width = sides(r), int(r.integers(1, 5))
    return r.integers(0, 2, (n, width)).astype(float), r.integers(0, 2, (m, width)).astype(float)


@rows
def zero_rows(r):
    x, y = normal(r)
    x[r.random(len(x)) < 0.4] = 0
    y[r.random(len(y)) < 0.4] = 0
    return x, y


@rows
def duplicated_rows(r):
    x, y = normal(r)
    return x[r.integers(0, len(x), len(x))], y[r.integers(0, len(y), len(y))]


@rows
def duplicates_within_rounding(r):
    x, y = normal(r)
    x, y = x[r.integers(0, len(x), len(x))], y[r.integers(0, len(y), len(y))]
    return x * (1 + 2.0**-52 * r.integers(-1, 2, x.shape)), y * (1 + 2.0**-52 * r.integers(-1, 2, y.shape))


@rows
def points_on_a_line(r):
    n, m = sides(r)
    return r.standard_normal((n, 1)) * 10.0 ** r.uniform(-6, 6), r.standard_normal((m, 1))


@rows
def lattice_points_with_offsets(r):
    (n, m), width = sides(r), int(r.integers(1, 4))
    far = 2.0 ** r.integers(0, 40, 2)
    return r.integers(0, 3, (n, width)) + far[0], r.integers(0, 3, (m, width)) + far[1]


@rows
def tiny_rows(r):
    x, y = normal(r)
    factor = 10.0 ** -r.uniform(60, 170)
    return x * factor, y * factor


@rows
def tiny_rows_and_an_ordinary_one(r):
    x, y = normal(r)
    factor = 10.0 ** -r.uniform(20, 170)
    x, y = x * factor, y * factor
    x[0] = r.standard_normal(x.shape[1])
    return x, y


@rows
def huge_rows(r):
    x, y = normal(r)
    factor = 10.0 ** r.uniform(60, 150)
    return x * factor, y * factor


@rows
def subnormal_numbers(r):
    x, y = normal(r)
    return x * 2.0 ** -r.integers(500, 1074), y * 2.0 ** -r.integers(500, 1074)


@rows
def single_precision(r):
    x, y = normal(r)
    return x.astype(np.float32), (y * 10.0 ** r.uniform(-20, 18)).astype(np.float32)


@rows
def no_columns_or_no_rows(r):
    x, y = normal(r)
    return (x[:, :0], y[:, :0]) if r.random() < 0.5 else (x[:0], y)


@rows
def nearly_tied_swaps(r):
    n, width = size(r), int(r.integers(1, 4))
    base = r.standard_normal((1, width))
    x = base + 10.0 ** -r.uniform(0, 16) * r.standard_normal((n, width))
    y = -base + 10.0 ** -r.uniform(0, 16) * r.standard_normal((n, width))
    return x, y


@rows
def a_hub(r):
    x, y = normal(r)
    y[0] = 0
    return 0.1 * x, y


@costs
def ordinary_costs(r, n, m):
    return r.standard_normal((n, m))


@costs
def zeros_and_ones(r, n, m):
    return r.integers(0, 2, (n, m))


@costs
def few_values(r, n, m):
    return r.choice(r.standard_normal(3), (n, m))


@costs
def decimals(r, n, m):
    return r.integers(0, 20, (n, m)) / 10


@costs
def decades(r, n, m):
    return np.exp(r.uniform(0, r.uniform(10, 70), (n, m)))


@costs
def many_decades(r, n, m):
    return np.exp(r.uniform(0, r.uniform(70, 300), (n, m)))


@costs
def log_normal(r, n, m):
    return np.exp(r.uniform(1, 20) * r.standard_normal((n, m)))


@costs
def inverse_probabilities(r, n, m):
    return np.minimum(1 / (r.dirichlet(np.full(m, 0.05), n) + 1e-300), 1e30)


@costs
def decades_less_one(r, n, m):
    return np.exp(r.uniform(0, 60, (n, m))) - 1e3 * r.random()


@costs
def mostly_a_constant(r, n, m):
    cost = r.random((n, m))
    cost[r.random((n, m)) < 0.7] = 10.0 ** r.uniform(0, 30)
    return cost


@costs
def mostly_an_irrational_constant(r, n, m):
    cost = np.full((n, m), math.sqrt(2))
    cost[r.random((n, m)) < 0.2] = r.random()
    return cost


@costs
def forbidden_pairs(r, n, m):
    cost = r.integers(0, 9, (n, m)) / 7
    cost[r.random((n, m)) < 0.4] = np.inf
    return cost


@costs
def forbidden_pairs_and_decades(r, n, m):
    cost = 10.0 ** r.uniform(-9, 20, (n, m))
    cost[r.random((n, m)) < 0.3] = np.inf
    return cost


@costs
def sums_of_rows_and_columns(r, n, m):
    return r.standard_normal((n, 1)) + r.standard_normal((1, m))


@costs
def sums_and_rounding(r, n, m):
    return 10.0 ** r.uniform(0, 16) * (r.standard_normal((n, 1)) + r.standard_normal((1, m))) + r.random((n, m))


@costs
def huge_rows_of_costs(r, n, m):
    cost = r.random((n, m))
    cost[r.random(n) < 0.4] += 10.0 ** r.uniform(5, 25)
    return cost


@costs
def huge_columns_of_costs(r, n, m):
    cost = r.random((n, m))
    cost[:, r.random(m) < 0.4] += 10.0 ** r.uniform(5, 25)
    return cost


@costs
def large_whole_numbers(r, n, m):
    base = r.integers(0, 2**20, (n, 1)) + r.integers(0, 2**20, (1, m))
    return base * 2.0**31 + r.integers(0, 3, (n, m)) * 2.0**26 + r.integers(0, 2, (n, m)) * 0.25


@costs
def whole_numbers_that_differ_by_one(r, n, m):
    return 2.0**52 + r.integers(0, 3, (n, m))


@costs
def tiny_costs(r, n, m):
    return r.random((n, m)) * 10.0 ** -r.uniform(250, 320)


@costs
def tiny_costs_among_ordinary_ones(r, n, m):
    return r.random((n, m)) * 10.0 ** -r.uniform(0, 320, (n, m))


@costs
def huge_costs(r, n, m):
    return r.standard_normal((n, m)) * 10.0 ** r.uniform(100, 139)


@costs
def single_precision_costs(r, n, m):
    return (10.0 ** r.uniform(-30, 30, (n, m))).astype(np.float32)


@costs
def answers_of_cost_zero(r, n, m):
    cost = r.random((n, m)) - 0.3 * r.random()
    cost[np.arange(min(n, m)), r.permutation(m)[: min(n, m)]] = 0.0
    return cost


@costs
def squared_differences_of_large_numbers(r, n, m):
    a, b = r.random((n, 1)) * 1e8, r.random((1, m)) * 1e8
    return (a - b) ** 2


@dataclass(frozen=True)
class Truth:
    """What exact arithmetic says of a problem: the costs, and the least objective, None where no matching exists."""

    costs: Costs
    max_cost: Fraction | None
    shape: tuple[int, int]
    optimum: Fraction | None

    @classmethod
    def of(cls, given: Given, without: tuple[int, int] | None = None) -> Truth:
        """Solve it; `without` the pair (source, target), or (source, -1): without leaving that source free."""
        exact = given.costs()
        n = len(exact)
        m = given.cost.shape[1] if given.cost is not None else len(given.y if given.y is not None else ())
        most = None if given.max_cost is None else Fraction(given.max_cost)
        return cls(exact, most, (n, m), _optimum(exact, most, (n, m), without))

    def objective(self, perm: list[int]) -> Fraction:
        """What a matching costs that uses no forbidden pair."""
        paid = Fraction(0)
        for i, j in enumerate(perm):
            if j >= 0:
                cost = self.costs[i][j]
                assert cost is not None, "a forbidden pair is used"
                paid += cost
        alone = sum(self.shape) - 2 * sum(j >= 0 for j in perm)
        return paid + (self.max_cost / 2 * alone if self.max_cost is not None else 0)


def _optimum(
    exact: Costs, max_cost: Fraction | None, shape: tuple[int, int], without: tuple[int, int] | None
) -> Fraction | None:
    n, m = shape
    row, column = (max_cost / 2,) * 2 if max_cost is not None else (None, None)
    if max_cost is None and n != m:
        row, column = (Fraction(0), None) if n > m else (None, Fraction(0))
    whole: Costs = [[None] * (n + m) for _ in range(n + m)]
    for i, j in itertools.product(range(n), range(m)):
        whole[i][j], whole[n + j][m + i] = exact[i][j], None if exact[i][j] is None else Fraction(0)
    for i in range(n):
        whole[i][m + i] = row
    for j in range(m):
        whole[n + j][j] = column
    if without is not None:
        i, j = without
        whole[i][j if j >= 0 else m + i] = None
    return least(whole)


def least(costs: Costs) -> Fraction | None:
    """The cost of the best complete matching of a square matrix, None where there is none: shortest augmenting paths.

    In whole numbers, by a common denominator. Source: Jonker and Volgenant (1987).
    """
    n = len(costs)
    allowed = [c for row in costs for c in row if c is not None]
    shift = math.lcm(*(c.denominator for c in allowed)) if allowed else 1
    none = 2 * (n + 1) * (max((abs(int(c * shift)) for c in allowed), default=0) + 1)  # more than any matching costs
    whole = [[none if c is None else int(c * shift) for c in row] for row in costs]
    u, v, owner = [0] * (n + 1), [0] * (n + 1), [-1] * (n + 1)
    for i in range(n):
        owner[n], j = i, n
        distance: list[int | None] = [None] * (n + 1)
        before, seen = [n] * (n + 1), [False] * (n + 1)
        while owner[j] >= 0:
            seen[j], row, nearest, step = True, owner[j], -1, None
            for k in range(n):
                if not seen[k]:
                    reduced = whole[row][k] - u[row] - v[k]
                    known = distance[k]
                    if known is None or reduced < known:
                        known = distance[k] = reduced
                        before[k] = j
                    if step is None or known < step:
                        step, nearest = known, k
            assert step is not None
            for k in range(n + 1):
                if seen[k]:
                    u[owner[k]] += step
                    v[k] -= step
                elif distance[k] is not None:
                    distance[k] -= step  # type: ignore[operator]
            j = nearest
        while j != n:
            owner[j] = owner[before[j]]
            j = before[j]
    paid = [whole[owner[j]][j] for j in range(n)]
    return None if any(cost == none for cost in paid) else Fraction(sum(paid), shift)


@dataclass
class Findings:
    """Claims that are wrong, and optima that were found and not certified."""

    wrong: list[str]
    timid: bool = False
    refused: str | None = None


def check(given: Given, number: int, same_verdict: bool = True) -> Findings:
    """Solve a problem and its like, and hold every claim against exact arithmetic.

    Every other number is solved as large problems are, by passes over all pairs that choose some: one or several a row.
    """
    names = "DENSE", "LISTED_STORED", "LISTED_MATRIX_FREE"
    before = {name: getattr(column_generation, name) for name in names}
    if number % 2 == 0:
        column_generation.DENSE = 0
    if number % 4 == 0:
        column_generation.LISTED_STORED = column_generation.LISTED_MATRIX_FREE = 1
    try:
        return _checked(given, np.random.default_rng(number), same_verdict)
    finally:
        vars(column_generation).update(before)


def _checked(given: Given, r: np.random.Generator, same_verdict: bool) -> Findings:
    found = Findings([])
    truth = Truth.of(given)
    try:
        best = given.assign()
    except sm.MatchError as error:
        found.refused = str(error)
        if truth.optimum is not None and not _says_why(str(error)):
            found.wrong.append(f"refused: {error}")
        return found
    if truth.optimum is None:
        return Findings(["answered where there is no matching"])
    _check_claims(given, truth, best, found, "assign")
    exact = truth.objective(best.perm.tolist())
    found.timid = exact == truth.optimum and not best.certified
    for other, name in _likes(given, r):
        verdict = other.assign()
        if same_verdict and verdict.certified != best.certified:
            found.wrong.append(f"certified is {best.certified}, and {verdict.certified} {name}")
    for perm in _other_answers(best.perm.tolist(), given, r):
        _check_claims(given, truth, given.certify(perm), found, "certify")
    for method in ("greedy", "mutual_nearest", "nearest"):
        given.assign(method=method)
    if best.certified:
        _check_margins(given, truth, best, found, same_verdict)
    return found


def _says_why(message: str) -> bool:
    return any(word in message for word in ("leave float64", "vanish in float64", "beyond 1e+140", "underflows: give"))


def _check_claims(given: Given, truth: Truth, answer: sm.Matching, found: Findings, door: str) -> None:
    assert truth.optimum is not None
    perm = answer.perm.tolist()
    used = [j for j in perm if j >= 0]
    if len(set(used)) < len(used):
        found.wrong.append(f"{door}: not one-to-one")
        return
    objective = truth.objective(perm)
    gap = objective - truth.optimum
    claimed = Fraction(answer.gap) + Fraction(answer.rounding_error)
    if gap < 0:
        found.wrong.append(f"{door}: less than the optimum: not a matching as asked for")
    if gap > claimed:
        found.wrong.append(f"{door}: {float(gap):.3g} above the optimum, gap + error are {float(claimed):.3g}")
    if math.isfinite(answer.lower_bound) and Fraction(answer.lower_bound) > truth.optimum:
        above = Fraction(answer.lower_bound) - truth.optimum
        found.wrong.append(
            f"{door}: the lower bound is {float(above):.3g} above the optimum {float(truth.optimum):.6g}"
        )
    if answer.certified and gap > 0:
        paid = sum((abs(truth.costs[i][j] or 0) for i, j in enumerate(perm) if j >= 0), Fraction(0))
        paid += (truth.max_cost or 0) / 2 * (sum(truth.shape) - 2 * len(used))
        if gap > TOLERANCE * paid * (1 + TOLERANCE):
            found.wrong.append(f"{door}: certified, {float(gap):.3g} above the optimum, and costs {float(paid):.3g}")
    if (answer.status == "optimal") != answer.certified:
        found.wrong.append(f"{door}: {answer.status}, certified {answer.certified}")
    if answer.status == "suboptimal" and gap == 0:
        found.wrong.append(f"{door}: called suboptimal, and is the optimum")
    for i, (j, cost) in enumerate(zip(perm, answer.pair_cost.tolist(), strict=True)):
        exact = Fraction(0) if j < 0 else truth.costs[i][j]
        assert exact is not None
        width = 0 if given.x is None else given.x.shape[1] + 8
        if abs(Fraction(cost) - exact) > width * UNIT * exact + Fraction(2) ** -1060 * width:
            found.wrong.append(f"{door}: pair_cost[{i}] is {cost!r}, exactly {float(exact)!r}")


def _likes(given: Given, r: np.random.Generator) -> Iterator[tuple[Given, str]]:
    yield given.transposed(), "transposed"
    n = len(given.cost if given.cost is not None else given.x)  # type: ignore[arg-type]
    yield given.reordered(np.arange(n)[::-1].copy()), "with its rows in reverse"
    yield given.reordered(r.permutation(n)), "with its rows in another order"


def _other_answers(perm: list[int], given: Given, r: np.random.Generator) -> Iterator[list[int]]:
    """The answer with two partners exchanged."""
    matched = [i for i, j in enumerate(perm) if j >= 0]
    if len(matched) < 2:
        return
    for _ in range(2):
        i, k = r.choice(matched, 2, replace=False)
        other = list(perm)
        other[i], other[k] = perm[k], perm[i]
        if given.cost is None or np.isfinite(given.cost[[i, k], [other[i], other[k]]]).all():
            yield other


def _check_margins(given: Given, truth: Truth, best: sm.Matching, found: Findings, precise: bool) -> None:
    assert truth.optimum is not None
    try:
        bound, tied = best.margins().bound.tolist(), best.margins().tied.tolist()
        values = best.margins().exact(range(len(bound))).tolist()
    except sm.MatchError as error:
        found.wrong.append(f"margins of a certified matching are refused: {error}")
        return
    slack = Fraction(best.gap) + Fraction(best.rounding_error)
    paid = sum((abs(truth.costs[i][j] or 0) for i, j in enumerate(best.perm.tolist()) if j >= 0), Fraction(0))
    for i, j in enumerate(best.perm.tolist()):
        other = Truth.of(given, without=(i, j)).optimum
        if other is None:
            continue
        margin = other - truth.optimum
        if Fraction(bound[i]) > margin + slack:
            found.wrong.append(f"margin[{i}] is {bound[i]!r}, exactly {float(margin)!r}")
        # Where pairs are forbidden, a value may be given as at least.
        if not math.isfinite(values[i]):
            found.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, exactly {float(margin)!r}")
            continue
        if Fraction(values[i]) > margin * (1 + TOLERANCE) + slack + Fraction(1, 10**12) * paid:
            found.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, exactly {float(margin)!r}")
        forbids = any(cost is None for row in truth.costs for cost in row)
        if (
            precise
            and not forbids
            and Fraction(values[i]) < margin * (1 - 10**5 * TOLERANCE) - slack - Fraction(1, 10**12) * paid
        ):
            found.wrong.append(f"margins().exact([{i}]) is {values[i]!r}, and exactly {float(margin)!r}")
        if margin == 0 and not tied[i]:
            found.wrong.append(f"feature {i} is tied and not called so")


def findings(name: str, number: int, given: Given | None = None) -> Findings:
    """What `check` finds of the problem of a kind with a number, or of one like it; a crash is wrong, too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return check(problem(name, number) if given is None else given, number, name not in BEYOND)
    except Exception as error:
        return Findings([f"{type(error).__name__}: {error}"])


def smaller(name: str, number: int) -> Given:
    """The problem without rows and columns, and with rounder numbers, as long as something is wrong with it."""
    given, again = problem(name, number), True
    while again:
        again = False
        for other in _simpler(given):
            if findings(name, number, other).wrong:
                given, again = other, True
                break
    return given


def _simpler(given: Given) -> Iterator[Given]:
    if given.max_cost is not None:
        yield replace(given, max_cost=None)
    for name in ("x", "y", "cost"):
        values = getattr(given, name)
        if values is None:
            continue
        for i in range(len(values)):
            yield replace(given, **{name: np.delete(values, i, axis=0)})
        if name == "cost":
            for j in range(values.shape[1]):
                yield replace(given, cost=np.delete(values, j, axis=1))
        for at in np.ndindex(values.shape):
            for digits in (0, 1, 3, 6):
                rounded = float(f"{values[at]:.{digits}e}") if np.isfinite(values[at]) else values[at]
                for simple in (0.0, rounded):
                    if simple != values[at] and len(repr(float(simple))) < len(repr(float(values[at]))):
                        changed = values.copy()
                        changed[at] = simple
                        yield replace(given, **{name: changed})
    if given.x is not None and given.y is not None and given.x.shape[1] == given.y.shape[1]:
        for k in range(given.x.shape[1]):
            yield replace(given, x=np.delete(given.x, k, axis=1), y=np.delete(given.y, k, axis=1))


def main() -> int:
    """Search for so many minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--as-found", action="store_true", help="print problems without making them smaller")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    done: Counter[str] = Counter()
    timid: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for number in itertools.count(options.first):
        for name in options.kinds:
            if time.monotonic() > until:
                print(
                    f"{sum(done.values()):,} problems of {len(done)} kinds: {sum(wrong.values())} wrong, "
                    f"{sum(timid.values())} optima not certified"
                )
                print(
                    *(f"  {kind}: {count} of {done[kind]} optima not certified" for kind, count in timid.most_common()),
                    sep="\n",
                )
                return int(bool(wrong))
            found = findings(name, number)
            done[name] += 1
            timid[name] += found.timid
            if found.wrong:
                wrong[name] += 1
                print(f"{name} {number}: {'; '.join(found.wrong)}")
                if wrong[name] <= 2 and not options.as_found:
                    print(f"    {smaller(name, number)}")
                sys.stdout.flush()
    raise AssertionError("counting never ends")


if __name__ == "__main__":
    raise SystemExit(main())
