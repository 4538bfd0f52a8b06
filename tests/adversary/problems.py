"""Problems for the search, and the registration of their kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch

import saematch as sm
from saematch.matching.problem import RowProblem
from saematch.matching.solver import Solver

Array = np.ndarray[Any, Any]
Costs = list[list[Fraction | None]]  # None forbids a pair


@dataclass(frozen=True)
class Given:
    """The arguments of `saematch.assign`: rows of both sides, or costs.

    If `up_to_sign`, a pair of rows costs the smaller of |x - y|^2 and |x + y|^2, as directions do under the metric
    "absolute_cosine".
    """

    x: Array | None = None
    y: Array | None = None
    cost: Array | None = None
    max_cost: float | None = None
    up_to_sign: bool = False

    def assign(self, **options: Any) -> sm.Matching:
        """Return the answer of `saematch.assign`."""
        if self.cost is not None:
            return sm.assign(cost=self.cost, max_cost=self.max_cost, **options)
        if self.up_to_sign:
            return Solver(**options).checked().run(self._directions())
        return sm.assign(self.x, self.y, max_cost=self.max_cost, **options)

    def certify(self, perm: list[int]) -> sm.Matching:
        """Return the grade of `saematch.certify` for a permutation."""
        given = np.array(perm, dtype=np.int64)
        if self.cost is not None:
            return sm.certify(cost=self.cost, perm=given, max_cost=self.max_cost)
        if self.up_to_sign:
            return Solver().run(self._directions(), torch.from_numpy(given))
        return sm.certify(self.x, self.y, given, max_cost=self.max_cost)

    def _directions(self) -> RowProblem:
        assert self.x is not None
        assert self.y is not None
        return replace(RowProblem.checked(self.x, self.y, self.max_cost), metric="absolute_cosine")

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
        """Return the exact costs of all pairs."""
        if self.cost is not None:
            return [[Fraction(float(c)) if np.isfinite(c) else None for c in row] for row in self.cost]
        assert self.x is not None
        assert self.y is not None
        x, y = ([[Fraction(float(value)) for value in row] for row in side] for side in (self.x, self.y))
        signs = (1, -1) if self.up_to_sign else (1,)
        return [[min(_squared_distance(one, other, sign) for sign in signs) for other in y] for one in x]


def _squared_distance(one: list[Fraction], other: list[Fraction], sign: int) -> Fraction:
    return sum(((a - sign * b) ** 2 for a, b in zip(one, other, strict=True)), Fraction(0))


# Kinds whose numbers may differ by more than twice the precision of float64. All claims must hold for them, but an
# optimum need not be certified, and may be certified for one order of the rows and not for another.
BEYOND = ("many_decades", "single_precision_costs", "tiny_rows_and_an_ordinary_one", "tiny_costs_among_ordinary_ones")
KINDS: dict[str, Callable[[np.random.Generator], Given]] = {}


def kind(make: Callable[[np.random.Generator], Given]) -> Callable[[np.random.Generator], Given]:
    """Register a kind of problem under the name of its function."""
    KINDS[make.__name__] = make
    return make


def problem(name: str, number: int) -> Given:
    """Return the problem of a kind with a number."""
    return KINDS[name](np.random.default_rng([*name.encode(), number]))


def size(r: np.random.Generator, most: int = 9) -> int:
    """Return a number of features, which is small more often than large."""
    return int(r.integers(1, most)) if r.random() < 0.7 else int(r.integers(1, 2 * most))


def sides(r: np.random.Generator) -> tuple[int, int]:
    """Return the numbers of features of both sides, which are equal more often than not."""
    n = size(r)
    return (n, n) if r.random() < 0.7 else (n, size(r))


def normal(r: np.random.Generator) -> tuple[Array, Array]:
    """Return ordinary rows of both sides."""
    (n, m), width = sides(r), int(r.integers(1, 7))
    return r.standard_normal((n, width)), r.standard_normal((m, width))


def limit(r: np.random.Generator, x: Array, y: Array) -> float | None:
    """Return a max_cost for rows, or None: the cost of a pair, the float64 number next to it, or a huge number."""
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
    """Return a max_cost for costs, or None: one of the costs, the float64 number next to it, or a huge number."""
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


def up_to_sign(make: Callable[[np.random.Generator], Given]) -> None:
    """Register the problems of a kind again, with rows of random signs that are compared up to their sign."""

    def given(r: np.random.Generator) -> Given:
        plain = make(r)
        assert plain.x is not None
        assert plain.y is not None
        x, y = (rows * r.choice([-1.0, 1.0], (len(rows), 1)) for rows in (plain.x, plain.y))
        return replace(plain, x=x, y=y, up_to_sign=True)

    given.__name__ = f"{make.__name__}_up_to_sign"
    kind(given)


def costs(make: Callable[[np.random.Generator, int, int], Array]) -> Callable[[np.random.Generator], Given]:
    """Register a kind that makes costs."""

    def given(r: np.random.Generator) -> Given:
        cost = np.asarray(make(r, *sides(r)), dtype=np.float64)
        return Given(cost=cost, max_cost=limit_of(r, cost))

    given.__name__ = make.__name__
    kind(given)
    return given
