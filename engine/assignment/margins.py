"""Margins: how much the cost of each feature's pair may rise before another matching is cheaper."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saematch.assignment.certificate import BLUR
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.paths import Exchanges
from saematch.assignment.reduced_bounds import Listed, ReducedBounds
from saematch.assignment.refinement import MOST_WORK
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import Floats, Indices

LISTED = 16  # cheapest pairs of each row and column that a pass adds to the graph
_WHOLE_ROWS, _MOST_ENTRIES = 64, 2**25  # rows whose pairs are computed at a time, and numbers kept in the row cache
# A margin of fewer roundings of a pair than this has few digits: it is computed in twice the precision of float64.
_FEW_DIGITS = 2.0**22


class MarginSearch:
    """The margins of an optimal `permutation`, in units of the cost.

    The margin of row i is the least that any matching without the pair of row i costs more (for an unmatched row: any
    matching in which it has a partner). Such a matching differs from the optimum by an alternating cycle through row i:
    row i and others exchange their columns, or become unmatched. At any prices that prove the optimum, the cost of a
    cycle is the sum of the reduced costs along it, none of which is negative. It follows that

    - the cheapest way out of row i plus the cheapest way into its column is a lower bound for the margin (`bound`);
    - the shortest path from row i back to its column gives the margin itself (`exact`).

    The bound depends on the prices. The prices are put halfway between the highest and the lowest that prove the
    optimum, which do not depend on the prices at hand, and then each price is moved to the middle of the range that the
    others leave it.

    Attributes:
        bound: `(F_A,)`, proved lower bounds of the margins.
        tied: `(F_A,)`, whether the margin is 0 within rounding.
        short: how much less than `permutation` another matching may cost, because the reduced cost of some pair is
            below zero by more than rounding; 0.0 for an optimum.
    """

    def __init__(self, cost: Cost, unmatched: Unmatched, permutation: Indices, prices: Floats) -> None:
        self._cost, self._unmatched, self._permutation = cost, unmatched, permutation
        rows = np.nonzero(permutation >= 0)[0]
        self._columns = permutation[rows]
        self._owner = np.full(cost.shape[1], -1)
        self._owner[self._columns] = rows
        self._graph = CandidateGraph(cost, unmatched, permutation)
        self._row_cache: dict[int, Floats] = {}
        if 0 in cost.shape:
            self.bound, self.tied = np.full(cost.shape[0], np.inf), np.zeros(cost.shape[0], dtype=bool)
            self.short = 0.0
            return
        # The price of an unmatched column is its unmatched cost, and not less by any rounding.
        prices = np.where((self._owner < 0) & np.isfinite(unmatched.columns), unmatched.columns, prices)
        # The cheapest pairs, and with them prices halfway between the extremes.
        self._list(prices, np.inf)
        halfway = self._between_extremes(prices)
        # Balance the prices, and let a pass look for pairs that these prices do not allow for: each pass may add some
        # to the graph, and the prices are balanced again, until there are none.
        while True:
            self._prices = self._exchanges(halfway).balanced(halfway)
            listed = self._list(self._prices, np.inf)
            if not listed.new:
                break
        self._settle(listed)

    def exact(self, features: Indices) -> Floats:
        """Return the margins of some rows, within the rounding of float64: one shortest path each."""
        if 0 in self._cost.shape:
            return np.full(len(features), np.inf)
        # A path over the edges of the graph limits the search over all pairs.
        margins = [self._cycle(int(i), self._cycle(int(i), np.inf, False), True) for i in features]
        return np.array(margins) / self._bounds.scale

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
        """Set `bound`, `tied` and `short`, by the graph and by what the last pass has proved of all other pairs."""
        cost, matched = self._cost, self._permutation >= 0
        arguments = cost, self._unmatched, self._graph, self._permutation, self._prices, listed
        self._use(ReducedBounds.in_float64(*arguments))
        # Where float64 leaves a margin few digits, compute all of them in twice the precision, unless that is too much
        # work. Margins of 0 need no digits if identical rows explain them, and rounding is small for all pairs.
        _, rounding = self._graph.potentials(self._permutation, self._prices)
        rows, columns = (_is_unique(first) for first in cost.identical_rows)
        unique = rows & (~matched | columns[self._permutation])
        blurred = rounding.max() > BLUR * cost.typical_difference
        doubtful = (unique | blurred) & (self.bound * cost.scale <= _FEW_DIGITS * rounding.max())
        if doubtful.any() and len(self._graph) * cost.width <= MOST_WORK:
            self._use(ReducedBounds.refined(*arguments))
        # A row whose bound is 0 is tied if there is a cycle that costs nothing. Rounding may leave reduced costs below
        # zero: what a true tie seems to cost on one edge, it gains on another edge of its cycle.
        self.tied = self.bound == 0
        for i in np.nonzero(self.tied)[0]:
            limit = np.nextafter(-self._below_zero, np.inf)
            self.tied[i] = self._cycle(int(i), limit, True) <= -self._below_zero
        self.short = -self._below_zero / self._bounds.scale if listed.undercut > 0 else 0.0

    def _use(self, bounds: ReducedBounds) -> None:
        """Set `bound`, and the lengths of the edges for the search, by lower bounds of the reduced costs."""
        graph, matched = self._graph, self._permutation >= 0
        self._bounds = bounds
        # The cheapest way out of each row, and into each column: to become unmatched, by a pair that is not in the
        # graph, or by an edge.
        row_exit = np.where(matched, bounds.row_exit, np.inf)
        out, into = np.minimum(bounds.floors, row_exit), np.minimum(bounds.column_floors, bounds.column_exit)
        np.minimum.at(out, graph.rows, bounds.edges)
        np.minimum.at(into, graph.columns, bounds.edges)
        # The rest of a cycle costs no less than the sum of all that is below zero, which only ties within rounding are.
        self._below_zero = float(np.minimum(out, 0.0).sum())
        total = out + np.where(matched, into[self._permutation], 0.0) + self._below_zero
        self.bound = np.maximum(total, 0.0) * (1 - 2.0**-50) / bounds.scale  # minus the rounding of these sums
        # The lengths of the edges, none of them negative.
        self._starts, self._others, self._lengths = graph.starts, graph.columns, np.maximum(bounds.edges, 0.0)
        self._row_exit, self._column_exit = np.maximum(row_exit, 0.0), np.maximum(bounds.column_exit, 0.0)

    def _cycle(self, i: int, limit: float, whole: bool) -> float:
        """Return the length of the shortest cycle through row i, or `limit` if that is less.

        Dijkstra's algorithm over the columns that rows take, from row i to its own column; the last node, the hub,
        stands for being unmatched. If `whole`, pairs that are not in the graph are included wherever they can matter.
        """
        hub = self._cost.shape[1]
        goal = int(self._permutation[i]) if self._permutation[i] >= 0 else hub
        distance, done = np.full(hub + 1, np.inf), np.zeros(hub + 1, dtype=bool)
        self._leave(i, 0.0, limit if whole else 0.0, distance)
        while True:
            # The nearest node that is not done. The search ends if it is no nearer than the goal, or than the limit.
            node = int(np.where(done, np.inf, distance).argmin())
            so_far, best = float(distance[node]), min(float(distance[goal]), limit)
            if best <= so_far or done[node]:
                return best
            done[node] = True
            if node == hub:
                # A row has become unmatched, or an unmatched column was taken. Either a matched column becomes
                # unmatched, or an unmatched row takes a column.
                columns = self._columns
                distance[columns] = np.minimum(distance[columns], so_far + self._column_exit[columns])
                movers = np.nonzero(self._permutation < 0)[0]
            elif self._owner[node] < 0:
                # An unmatched column was taken.
                distance[hub] = min(float(distance[hub]), so_far)
                continue
            else:
                # The column of a row was taken: the row must move.
                movers = self._owner[node : node + 1]
            for k in movers:
                self._leave(int(k), so_far, best if whole else 0.0, distance)

    def _leave(self, i: int, so_far: float, limit: float, distance: Floats) -> None:
        """Update the distances for row i, which takes another column or becomes unmatched, at distance `so_far`.

        All pairs of the row are included if those that are not in the graph may lead to distances below `limit`.
        """
        hub = self._cost.shape[1]
        edges = slice(self._starts[i], self._starts[i + 1])
        others = self._others[edges]
        distance[others] = np.minimum(distance[others], so_far + self._lengths[edges])
        distance[hub] = min(float(distance[hub]), so_far + float(self._row_exit[i]))
        if so_far + self._bounds.floors[i] < limit:
            distance[:hub] = np.minimum(distance[:hub], so_far + self._whole_row(i, distance))

    def _whole_row(self, i: int, distance: Floats) -> Floats:
        """Return the lengths of all pairs of row i, from the row cache.

        If row i is not in the cache, the rows that the search will probably visit next are computed with it: those
        whose columns are nearest.
        """
        if i not in self._row_cache:
            if len(self._row_cache) * len(distance) > _MOST_ENTRIES:
                self._row_cache.clear()
            new = np.array([k >= 0 and k not in self._row_cache for k in self._owner.tolist()])
            nearest = np.argsort(np.where(new, distance[:-1], np.inf), kind="stable")[:_WHOLE_ROWS]
            rows = np.unique(np.append(self._owner[nearest[new[nearest]]], i))
            lengths = np.maximum(self._bounds.whole(rows), 0.0)
            matched = self._permutation[rows] >= 0
            lengths[matched, self._permutation[rows][matched]] = np.inf
            self._row_cache.update(zip(rows.tolist(), lengths, strict=True))
        return self._row_cache[i]


def _is_unique(first: Indices) -> NDArray[np.bool_]:
    """Return which rows have no identical row, given the first identical row of each."""
    unique: NDArray[np.bool_] = np.bincount(first, minlength=len(first))[first] == 1
    return unique
