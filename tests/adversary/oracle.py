"""The exact optimum of a problem."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from adversary.problems import Costs, Given


@dataclass(frozen=True)
class Truth:
    """The exact costs of a problem, and its smallest objective; None if no matching exists."""

    costs: Costs
    max_cost: Fraction | None
    shape: tuple[int, int]
    optimum: Fraction | None

    @classmethod
    def of(cls, given: Given) -> Truth:
        """Solve a problem."""
        exact = given.costs()
        n = len(exact)
        m = given.cost.shape[1] if given.cost is not None else len(given.y if given.y is not None else ())
        most = None if given.max_cost is None else Fraction(given.max_cost)
        return cls(exact, most, (n, m), _optimum(exact, most, (n, m)))

    def optimum_without(self, source: int, target: int) -> Fraction | None:
        """Return the smallest objective without a pair, or None if no matching exists without it.

        A target of -1 forbids to leave the source unmatched.
        """
        return _optimum(self.costs, self.max_cost, self.shape, (source, target))

    def objective(self, perm: list[int]) -> Fraction:
        """Return the objective of a matching that uses no forbidden pair."""
        paid = Fraction(0)
        for i, j in enumerate(perm):
            if j >= 0:
                cost = self.costs[i][j]
                assert cost is not None, "a forbidden pair is used"
                paid += cost
        unmatched = sum(self.shape) - 2 * sum(j >= 0 for j in perm)
        return paid + (self.max_cost / 2 * unmatched if self.max_cost is not None else 0)


def _optimum(
    exact: Costs, max_cost: Fraction | None, shape: tuple[int, int], without: tuple[int, int] | None = None
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
    """Return the cost of the best complete matching of a square matrix, or None if there is no complete matching.

    The costs are brought to a common denominator and solved in whole numbers, by shortest augmenting paths. Source:
    Jonker and Volgenant (1987).
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
