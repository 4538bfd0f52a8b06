"""Margins: how much the cost of each feature's pair may rise before another matching is cheaper."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saematch.assignment.certificate import BLUR
from saematch.assignment.cycles import Cycles
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.paths import Exchanges
from saematch.assignment.reduced_bounds import Listed, ReducedBounds
from saematch.assignment.refinement import MOST_WORK
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices

LISTED = 16  # cheapest pairs of each row and column that a pass adds to the graph
LOWEST = 256  # margins that are computed exactly from the start; all of them in a problem of at most `_SMALL` pairs
_SMALL = 2**22
# In a larger problem, the most rows for which the listed pairs are searched, and the most numbers that are multiplied
# for other pairs: either takes some seconds of one core.
_MOST_ROWS, _MOST_NUMBERS = 2**14, 2**36
# A margin of fewer roundings of a pair than this has few digits: it is computed in twice the precision of float64.
_FEW_DIGITS = 2.0**22


class MarginSearch:
    """The margins of an optimal `permutation`, in units of the cost.

    The margin of row i is the least that any matching without the pair of row i costs more (for an unmatched row: any
    matching in which it has a partner). Such a matching differs from the optimum by an alternating cycle through row i:
    row i and others exchange their columns, or become unmatched. At any prices that prove the optimum, the cost of a
    cycle is the sum of the reduced costs along it, none of which is negative. It follows that

    - the cheapest way out of row i plus the cheapest way into its column is a lower bound for the margin;
    - a search among the pairs that a pass has listed gives a better bound, and mostly the margin itself;
    - the shortest path from row i back to its column, over all pairs, is the margin.

    The bounds depend on the prices. The prices are put halfway between the highest and the lowest that prove the
    optimum, which do not depend on the prices at hand, and then each price is moved to the middle of the range that the
    others leave it.

    Attributes:
        tied: `(F_A,)`, whether the margin is 0 within rounding.
        short: how much less than `permutation` another matching may cost, because the reduced cost of some pair is
            below zero by more than rounding; 0.0 for an optimum.
    """

    def __init__(self, cost: Cost, unmatched: Unmatched, permutation: Indices, prices: Floats) -> None:
        self._cost, self._unmatched, self._permutation = cost, unmatched, permutation
        self._graph = CandidateGraph(cost, unmatched, permutation)
        self.tied, self.short = np.zeros(cost.shape[0], dtype=bool), 0.0
        # The shortest cycles are at least, and at most, so long.
        self._least, self._most, self._first_bound = np.full((3, cost.shape[0]), np.inf)
        self._scale, self._trusted, self._below_zero = 1.0, np.inf, 0.0
        if 0 in cost.shape:
            return
        # The price of an unmatched column is its unmatched cost, and not less by any rounding.
        unpaired = np.ones(cost.shape[1], dtype=bool)
        unpaired[permutation[permutation >= 0]] = False
        prices = np.where(unpaired & np.isfinite(unmatched.columns), unmatched.columns, prices)
        # The cheapest pairs, and with them prices halfway between the extremes.
        self._list(prices, np.inf)
        halfway = self._between_extremes(prices)
        # Balance the prices, and let a pass look for pairs that these prices do not allow for: each pass may add some
        # to the graph, and the prices are balanced again, until there are none. What the last pass proves of pairs
        # outside the graph should be close to their costs.
        cost.sharpen()
        while True:
            self._prices = self._exchanges(halfway).balanced(halfway)
            listed = self._list(self._prices, np.inf)
            if not listed.new:
                break
        self._settle(listed)
        rows = np.argsort(self._first_bound, kind="stable")[:_MOST_ROWS]
        least, self._most[rows] = self._cycles.glance(rows)
        self._least = self._first_bound * self._scale
        self._least[rows] = np.maximum(self._least[rows], least)
        pairs = cost.shape[0] * cost.shape[1]
        if pairs <= _SMALL:
            self.lowest(cost.shape[0])
        else:
            self.lowest(LOWEST, most_pairs=_MOST_NUMBERS / cost.width)

    @property
    def bound(self) -> Floats:
        """Proved lower bounds of the margins, `(F_A,)`, by all that is known so far."""
        # A path adds up fewer numbers than there are nodes.
        rounding = (sum(self._cost.shape) + 4) * UNIT_64
        found = (self._least + self._below_zero) * (1 - rounding) / self._scale
        bound: Floats = np.maximum(self._first_bound, found)
        return bound

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        """Whether each bound is the margin itself, within the rounding of float64, `(F_A,)`."""
        known: NDArray[np.bool_] = self._least >= self._most
        trusted: NDArray[np.bool_] = (self._most <= self._trusted) | np.isinf(self._most)
        return known & trusted

    def exact(self, features: Indices) -> Floats:
        """Return the margins of some rows, within the rounding of float64."""
        self._search(features, np.inf, np.inf)
        return self._most[features] / self._scale

    def lowest(self, count: int, most_pairs: float = np.inf) -> Indices:
        """Return the rows of the `count` lowest margins, the lowest first, which are then known exactly.

        If more than `most_pairs` would have to be computed, the rows are those with the lowest bounds.
        """
        count = min(count, len(self._most))
        if not count:
            return np.empty(0, dtype=np.int64)
        # So many margins are known to be no more than this limit. Others matter only if they can be less.
        limit = np.partition(self._most, count - 1)[count - 1]
        self._search(np.nonzero(self._least <= limit)[0], np.nextafter(limit, np.inf), most_pairs)
        return np.argsort(self._least, kind="stable")[:count]

    def _search(self, rows: Indices, limit: float, most_pairs: float) -> None:
        """Find the margins of some rows, as far as they are below the limit."""
        rows = np.unique(rows[self._least[rows] < self._most[rows]])
        if not len(rows):
            return
        least, most = self._cycles.shortest(rows, np.minimum(self._most[rows], limit), most_pairs)
        found = most < limit
        self._most[rows[found]] = most[found]
        self._least[rows] = np.maximum(self._least[rows], least)

    def _list(self, prices: Floats, ceiling: float) -> Listed:
        """Make a pass over all pairs, which adds cheap ones to the graph."""
        potentials, rounding = self._graph.potentials(self._permutation, prices)
        rows, before = np.arange(self._cost.shape[0]), len(self._graph)
        price_error, wanted = self._unmatched.bound_price_error(prices), potentials + rounding
        scan = self._cost.scan(rows, prices, price_error, wanted, LISTED, ceiling)
        self._graph.add(*scan.pairs())
        floors = scan.floors[:, -1]
        minima = self._graph.settle_row_minima(self._permutation, prices, potentials, rounding, wanted, floors)
        new = minima.undercut > 0 and len(self._graph) > before
        return Listed(floors, scan.column_floors[:, -1], minima.undercut, new)

    def _between_extremes(self, prices: Floats) -> Floats:
        """Return the mean of the highest and the lowest prices that prove the optimum."""
        new = True
        while new:  # pairs that the extremes of the graph do not allow for
            rise, fall = self._exchanges(prices).extremes()
            new = any(self._list(extreme, 0.0).new for extreme in (prices + rise, prices - fall))
        return prices + (rise - fall) / 2

    def _exchanges(self, prices: Floats) -> Exchanges:
        potentials, _ = self._graph.potentials(self._permutation, prices)
        rows, columns = self._graph.rows, self._graph.columns
        reduced = self._graph.costs - potentials[rows] - prices[columns]
        exits = self._unmatched.rows - potentials, self._unmatched.columns - prices
        return Exchanges.of(self._permutation, rows, columns, reduced, *exits)

    def _settle(self, listed: Listed) -> None:
        """Bound the margins by the graph and by what the last pass has proved of all other pairs."""
        cost, matched = self._cost, self._permutation >= 0
        arguments = cost, self._unmatched, self._graph, self._permutation, self._prices, listed
        _, rounding = self._graph.potentials(self._permutation, self._prices)
        few = _FEW_DIGITS * float(rounding.max())
        self._use(ReducedBounds.in_float64(*arguments), few)
        # Where float64 leaves a margin few digits, compute all of them in twice the precision, unless that is too much
        # work. Margins of 0 need no digits if identical rows explain them, and rounding is small for all pairs.
        rows, columns = (_is_unique(first) for first in cost.identical_rows)
        unique = rows & (~matched | columns[self._permutation])
        blurred = bool(rounding.max() > BLUR * cost.typical_difference)
        doubtful = np.nonzero((unique | blurred) & (self._first_bound * cost.scale <= few))[0]
        if not blurred and -self._below_zero <= few:  # then a search can tell the margins from their bounds
            limits = np.full(len(doubtful), 2 * few)
            doubtful = doubtful[self._cycles.shortest(doubtful, limits)[1] < limits]
        if len(doubtful) and len(self._graph) * cost.width <= MOST_WORK:
            self._use(ReducedBounds.refined(*arguments, blurred=blurred), 0.0)
        # A row whose bound is 0 is tied if there is a cycle that costs nothing. Rounding may leave reduced costs below
        # zero: what a true tie seems to cost on one edge, it gains on another edge of its cycle.
        zero = np.nonzero(self._first_bound == 0)[0]
        limits = np.full(len(zero), np.nextafter(-self._below_zero, np.inf))
        self.tied[zero] = self._cycles.shortest(zero, limits)[1] < limits
        self.short = -self._below_zero / self._scale if listed.undercut > 0 else 0.0

    def _use(self, bounds: ReducedBounds, few: float) -> None:
        """Search with these lower bounds of reduced costs, and list what is missing in rows whose floor is too low.

        A floor may be too low, up to the length `few`, because a pass computes in few digits.
        """
        cost, matched = self._cost, self._permutation >= 0
        self._scale, self._trusted = bounds.scale, bounds.trusted
        self._cycles = Cycles(self._permutation, bounds)
        low = np.nonzero(bounds.floors <= few)[0]
        if len(low) and len(low) * cost.shape[1] * cost.width <= MOST_WORK:
            self._cycles.add(low, np.full(len(low), max(2 * few, float(np.median(self._cycles.out)))))
            self._cycles.measure()
        # The rest of a cycle costs no less than the sum of all that is below zero, which only ties within rounding are.
        out, into = self._cycles.out, self._cycles.into
        self._below_zero = float(np.minimum(out, 0.0).sum())
        total = out + np.where(matched, into[self._permutation], 0.0) + self._below_zero
        self._first_bound = np.maximum(total, 0.0) * (1 - 2.0**-50) / bounds.scale  # minus the rounding of these sums


def _is_unique(first: Indices) -> NDArray[np.bool_]:
    """Return which rows have no identical row, given the first identical row of each."""
    unique: NDArray[np.bool_] = np.bincount(first, minlength=len(first))[first] == 1
    return unique
