"""The cost of an unmatched feature: what `max_cost` means for the search, for grading a matching, and for margins.

Under `max_cost` m, the objective of a matching P is

    sum of C_ij over the pairs (i, j) of P  +  m / 2 * (number of features that P leaves unmatched).

Making one more pair of two unmatched features changes the objective by C_ij - m. So a pair that costs more than m is in
no optimum. Without `max_cost`, every feature of the smaller side must be matched.

The number m / 2 is added to every reduced cost of an unmatched feature, and a large m would take from these costs the
digits that decide. `UnmatchedCost` therefore replaces m by a smaller number, or by none, wherever the optimum stays the
same. Each of its methods derives the number that it uses. In these derivations n = min(F_A, F_B), D is the largest
cost that is at most m, L the largest finite cost, and s = min(0, smallest cost).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saematch.errors import MatchError
from saematch.numeric.numbers import checked_number
from saematch.numeric.rounding import UNIT_64, Floats, Indices

if TYPE_CHECKING:
    from saematch.cost.base import Cost


@dataclass(frozen=True)
class Unmatched:
    """The cost of leaving each row or column unmatched. It is infinite for a row or column that must be matched.

    Attributes:
        costs: the cost of an unmatched row, and of an unmatched column, in units of the cost.
        rows: the reduced cost of each unmatched row, `(F_A,)`, in the units of M: `costs[0]` less p_i.
        columns: the reduced cost of each unmatched column, `(F_B,)`, in the units of M: `costs[1]` less q_j.
        row_error: a bound for the rounding of each finite entry of `rows`.
        column_error: a bound for the rounding of each finite entry of `columns`.
        price_shift: the part of all prices, in units of the cost, that is not in the reduced prices. If only one side
            may be unmatched, the number of its unmatched features is known. What all its features have in common is
            then left out of `rows` or `columns`, because the size of that number would cost precision.
    """

    costs: tuple[float, float]
    price_shift: float
    rows: Floats
    columns: Floats
    row_error: Floats
    column_error: Floats

    @property
    def none_allowed(self) -> bool:
        """Whether every row and every column must be matched."""
        return not (np.isfinite(self.rows).any() or np.isfinite(self.columns).any())

    def allows(self, permutation: Indices) -> bool:
        """Return whether a permutation is one-to-one, and leaves only features unmatched that may be."""
        times_taken = np.bincount(permutation[permutation >= 0], minlength=len(self.columns))
        return bool(
            (times_taken <= 1).all()
            and np.isfinite(self.rows[permutation < 0]).all()
            and np.isfinite(self.columns[times_taken == 0]).all()
        )

    def bound_price_error(self, prices: Floats) -> Floats:
        """Return a bound for the error of M_ij - v_j that comes from the price v_j.

        A price within rounding of its column's unmatched cost is treated as equal to it. So an unmatched column
        contributes no rounding error, however large its norm.
        """
        return 16 * UNIT_64 * np.abs(prices) + np.where(self.at_limit(prices), 2 * self.column_error, 0.0)

    def at_limit(self, prices: Floats) -> NDArray[np.bool_]:
        """Return which prices are as high as the unmatched cost of their column, within rounding."""
        return prices >= self.columns - self.column_error


class UnmatchedCost:
    """The unmatched costs of one problem, from its costs and its `max_cost`, which is None if there is no limit."""

    def __init__(self, cost: Cost, max_cost: float | None) -> None:
        self._cost, self._max_cost = cost, max_cost

    def for_search(self) -> Unmatched:
        """Return the unmatched costs under which the optimum is searched.

        If m is at least `Cost.sufficient_max_cost`, a matching of the whole smaller side is optimal. The number of
        unmatched features, F_A + F_B - 2 n, is then the same for all such matchings, and m plays no role: features of
        the larger side are unmatched at no cost, and features of the smaller side must be matched. The same costs hold
        without `max_cost`. Otherwise both sides pay `_clamped`.

        Pairs that these costs exclude from every optimum are then no longer told apart, see `Cost.set_ceiling`.
        """
        costs = self._search_costs()
        self._cost.set_ceiling(*costs)
        return self._cost.unmatched(*costs)

    def for_grading(self, permutation: Indices, search: Unmatched) -> Unmatched | None:
        """Return the unmatched costs under which a given matching is graded, or None if the problem does not allow it.

        These are the costs of the `search`, unless the matching leaves features of both sides unmatched and m is large:
        then both sides pay `_clamped`, which no optimum would have to pay.
        """
        if search.allows(permutation):
            return search
        if self._max_cost is not None:
            clamped = self._cost.unmatched(*self._clamped(self._max_cost))
            if clamped.allows(permutation):
                return clamped
        return None

    def for_margins(self) -> Unmatched:
        """Return the unmatched costs under which margins are computed.

        Unlike the search, margins depend on what a *matched* feature would pay to become unmatched.

        1. If a pair is given up, the other pairs cost no less than before: the total falls by at most L, and rises by
           m. This alternative costs at least m - L more than the optimum.
        2. If two features exchange their partners, the total rises by at most 2 (L - s), unless a pair is forbidden.
        3. So from m > L + 2 (L - s) on, no margin is decided by giving up a pair, and the costs of the search give the
           same margins without the size of m. Below that, or where an exchange may be forbidden or impossible, both
           sides pay m / 2.
        """
        largest, smallest = self._cost.largest_cost, min(0.0, self._cost.smallest_cost)
        enough = largest + 2 * (largest - smallest)
        cannot_exchange = self._cost.forbids or max(self._cost.shape) < 2
        if self._max_cost is not None and (self._max_cost <= enough or cannot_exchange):
            return self._cost.unmatched(self._max_cost / 2, self._max_cost / 2)
        return self._cost.unmatched(*self._search_costs())

    def gap_of_clamp(self, unmatched: Unmatched, permutation: Indices, optimum: Indices | None) -> float:
        """Return what `_clamped` leaves out of the gap between a matching and the optimum; 0.0 if it was not used.

        1. With k' unmatched features in the matching and k in the optimum, the objectives under m and under the clamped
           m' differ by (m - m') / 2 * k' and (m - m') / 2 * k.
        2. So the gap under m is the gap under m' plus (m - m') / 2 * (k' - k).
        3. If the `optimum` is not proved, and None is given for it, k is at least |F_A - F_B|.
        """
        used = max(unmatched.costs)
        if self._max_cost is None or used >= self._max_cost / 2:
            return 0.0
        sources, targets = self._cost.shape
        fewest = abs(sources - targets) if optimum is None else self._count(optimum)
        return (self._max_cost / 2 - used) * (self._count(permutation) - fewest)

    def _search_costs(self) -> tuple[float, float]:
        if self._max_cost is not None and self._max_cost < self._cost.sufficient_max_cost:
            return self._clamped(self._max_cost)
        sources, targets = self._cost.shape
        return (0.0 if sources > targets else math.inf), (0.0 if targets > sources else math.inf)

    def _clamped(self, max_cost: float) -> tuple[float, float]:
        """Return the cost of an unmatched feature of either side: m / 2, or less where that gives the same optimum.

        1. Pairs that cost more than m are never made. Take the best matching of k pairs and the best one of k + 1, both
           of pairs that cost at most m. The second costs at most (k + 1) D, and the first at least k s.
        2. So one more pair raises the sum of the pairs by at most (k + 1) D - k s <= n (D - s) + max(D, 0).
        3. Under every m above this number, the optimum has as many pairs as possible, and among these matchings it is
           the cheapest one. Under twice this number, m' = 2 (n (D - s) + max(D, 0)), this holds by a wide margin.
        4. A larger m has the same optimum, so m' takes its place: no cost lies between m' >= 2 D and m. The gap of
           other matchings is corrected by `gap_of_clamp`.
        """
        largest, smallest = self._cost.largest_cost_up_to(max_cost), min(0.0, self._cost.smallest_cost)
        enough = 2 * (min(self._cost.shape) * (largest - smallest) + max(largest, 0.0))
        used = min(max_cost, enough) if enough > 0 else max_cost
        return used / 2, used / 2

    def _count(self, permutation: Indices) -> int:
        """Return how many features of both sides are unmatched."""
        return sum(self._cost.shape) - 2 * int((permutation >= 0).sum())


def checked_max_cost(max_cost: Any, largest: float) -> float | None:
    """Return `max_cost` as a float, or None.

    Raises `MatchError` unless it is a number from 0 to `largest`, of which half can be represented.
    """
    if max_cost is None:
        return None
    checked = checked_number(
        max_cost, 0, largest, f"max_cost is {max_cost!r:.40}; give a cost from 0 to {largest:g}, or none"
    )
    if 2 * (checked / 2) != checked:
        raise MatchError(f"max_cost is {max_cost!r:.40}; half of it, which a feature pays, underflows: give 0, or more")
    return checked
