"""How firmly each feature is matched: what its pair may rise by before another matching is cheaper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saematch.assignment.graph import CandidateGraph
from saematch.assignment.paths import Ways
from saematch.cost import UNIT_64, Cost, Floats, Free, Indices, at_least, at_most

LISTED = 16  # cheapest pairs of a row and of a column that a pass adds to the graph
_WHOLE_ROWS, _MOST_ENTRIES = 64, 2**25  # made at a time, and kept


def _rounded_down(values: Floats) -> Floats:
    """Lower bounds of differences that were rounded once."""
    return values - 2 * UNIT_64 * np.where(np.isinf(values), 0.0, np.abs(values))


class Listed(NamedTuple):
    """What a pass says of pairs that it did not add to the graph, and of those that are in it.

    `floors (F_A,)` bounds M_ij - v_j for each row, `column_floors (F_B,)` M_ij - u_i - v_j for each column. `gain` is
    how far a pair of the graph is below zero, 0.0 within rounding; `new` says that one below zero was added.
    """

    floors: Floats
    column_floors: Floats
    gain: float
    new: bool


class Margins:
    """The margins of an optimal `permutation`, in units of the cost, by the costs of all pairs.

    The margin of row i is the cheapest alternating cycle through i: what is lost at least if i and others exchange
    their columns, staying free included. At any prices that prove the optimum it is the sum of the reduced costs along
    the cycle, of which none is negative. So i's cheapest way out and its column's cheapest way in, together, are a
    lower bound (`bound`), and a shortest path finds the value (`exact`).

    `short` bounds how much less another matching costs where some pair's reduced cost is below zero by more than
    rounding: 0.0 for an optimum.

    The bound depends on the prices. They are put halfway between the two extreme solutions, which do not depend on the
    prices at hand, and from there each to the middle of what the others leave it.
    """

    def __init__(self, cost: Cost, free: Free, permutation: Indices, prices: Floats) -> None:
        self._cost, self._free, self._permutation = cost, free, permutation
        rows = np.nonzero(permutation >= 0)[0]
        self._columns = permutation[rows]
        self._owner = np.full(cost.shape[1], -1)
        self._owner[self._columns] = rows
        self._graph = CandidateGraph(cost, free, permutation)
        self._whole: dict[int, Floats] = {}
        if 0 in cost.shape:
            self.bound, self.tied = np.full(cost.shape[0], np.inf), np.zeros(cost.shape[0], dtype=bool)
            self.short = 0.0
            return
        self._list(prices, np.inf)
        halfway = self._between_extremes(prices)
        new = True
        while new:  # until nothing that was not listed stands in the way
            self._prices = self._ways(halfway).balanced(halfway)
            listed = self._list(self._prices, np.inf)
            new = listed.new
        self._settle(listed)

    def exact(self, features: Indices) -> Floats:
        """The margins themselves, within the rounding of float64: one shortest path each."""
        if 0 in self._cost.shape:
            return np.full(len(features), np.inf)
        found = [self._cycle(int(i), self._cycle(int(i), np.inf, False), True) for i in features]
        return np.array(found) / self._cost.scale

    def _list(self, prices: Floats, ceiling: float) -> Listed:
        """A pass that adds cheap pairs to the graph."""
        potentials, rounding = self._graph.potentials(self._permutation, prices)
        every, before = np.arange(self._cost.shape[0]), len(self._graph)
        price_error = self._free.price_error(prices)
        scan = self._cost.scan(every, prices, price_error, potentials + rounding, LISTED, ceiling)
        self._graph.add(*scan.pairs())
        floors = scan.floors[:, -1]
        _, _, gain = self._graph.settle(self._permutation, prices, potentials, rounding, potentials + rounding, floors)
        return Listed(floors, scan.column_floors[:, -1], gain, gain > 0 and len(self._graph) > before)

    def _between_extremes(self, prices: Floats) -> Floats:
        """The mean of the highest and the lowest prices that prove the optimum."""
        new = True
        while new:
            rise, fall = self._ways(prices).extremes()
            new = any(self._list(extreme, 0.0).new for extreme in (prices + rise, prices - fall))
        return prices + (rise - fall) / 2

    def _ways(self, prices: Floats) -> Ways:
        potentials, _ = self._graph.potentials(self._permutation, prices)
        rows, columns = self._graph.rows, self._graph.columns
        reduced = self._graph.costs - potentials[rows] - prices[columns]
        exits = self._free.rows - potentials, self._free.columns - prices
        return Ways.of(self._permutation, rows, columns, reduced, *exits)

    def _settle(self, listed: Listed) -> None:
        """The bound at the final prices, and who is tied, by the graph and what the pass says of all other pairs."""
        cost, free, prices, graph = self._cost, self._free, self._prices, self._graph
        self._price_error = free.price_error(prices)
        potentials, rounding = graph.potentials(self._permutation, prices)
        self._has = at_most(potentials, rounding)
        self._floors = _rounded_down(listed.floors - self._has)

        rows, columns = graph.rows, graph.columns
        error = cost.exact_error(rows, columns, self._price_error)
        reduced = _rounded_down(at_least(graph.costs - prices[columns], error) - self._has[rows])
        reduced[self._permutation[rows] == columns] = np.inf
        matched = self._permutation >= 0
        row_exit = np.where(matched, _rounded_down(at_least(free.rows, free.row_error) - self._has), np.inf)
        column_exit = _rounded_down(at_least(free.columns, free.column_error) - prices)
        out, into = np.minimum(self._floors, row_exit), np.minimum(listed.column_floors, column_exit)
        np.minimum.at(out, rows, reduced)
        np.minimum.at(into, columns, reduced)
        # Whatever else is on a cycle costs nothing less than this, in sum: only ties within rounding are below zero.
        below_zero = float(np.minimum(out, 0.0).sum())
        both = out + np.where(matched, into[self._permutation], 0.0) + below_zero
        self.bound = np.maximum(both, 0.0) * (1 - 2.0**-50) / cost.scale  # less the rounding of these sums
        self.short = -below_zero / cost.scale if listed.gain > 0 else 0.0

        self._starts, self._others, self._lengths = graph.starts, columns, np.maximum(reduced, 0.0)
        self._row_exit, self._column_exit = np.maximum(row_exit, 0.0), np.maximum(column_exit, 0.0)
        # A true tie costs nothing: what it seems to cost, it gains elsewhere on its cycle, by rounding.
        self.tied = self.bound == 0
        for i in np.nonzero(self.tied)[0]:
            self.tied[i] = self._cycle(int(i), np.nextafter(-below_zero, np.inf), True) <= -below_zero

    def _cycle(self, i: int, limit: float, whole: bool) -> float:
        """The cheapest cycle through row i, or `limit` if that is less: Dijkstra over columns that somebody takes.

        Pairs that are not in the graph are looked at, if `whole`, where they could matter.
        """
        hub = self._cost.shape[1]
        goal = int(self._permutation[i]) if self._permutation[i] >= 0 else hub
        distance, done = np.full(hub + 1, np.inf), np.zeros(hub + 1, dtype=bool)
        self._leave(i, 0.0, limit if whole else 0.0, distance)
        while True:
            node = int(np.where(done, np.inf, distance).argmin())
            so_far, best = float(distance[node]), min(float(distance[goal]), limit)
            if best <= so_far or done[node]:
                return best
            done[node] = True
            if node == hub:
                columns = self._columns
                distance[columns] = np.minimum(distance[columns], so_far + self._column_exit[columns])
                movers = np.nonzero(self._permutation < 0)[0]
            elif self._owner[node] < 0:
                distance[hub] = min(float(distance[hub]), so_far)
                continue
            else:
                movers = self._owner[node : node + 1]
            for k in movers:
                self._leave(int(k), so_far, best if whole else 0.0, distance)

    def _leave(self, i: int, so_far: float, limit: float, distance: Floats) -> None:
        """Row i takes another column, or none: shorten the ways; by all its pairs where those not listed can matter."""
        hub = self._cost.shape[1]
        listed = slice(self._starts[i], self._starts[i + 1])
        others = self._others[listed]
        distance[others] = np.minimum(distance[others], so_far + self._lengths[listed])
        distance[hub] = min(float(distance[hub]), so_far + float(self._row_exit[i]))
        if so_far + self._floors[i] < limit:
            distance[:hub] = np.minimum(distance[:hub], so_far + self._whole_row(i, distance))

    def _whole_row(self, i: int, distance: Floats) -> Floats:
        """Reduced costs of all pairs of row i; those of the rows that will be asked for next are made with it."""
        if i not in self._whole:
            if len(self._whole) * len(distance) > _MOST_ENTRIES:
                self._whole.clear()
            new = np.array([k >= 0 and k not in self._whole for k in self._owner.tolist()])
            nearest = np.argsort(np.where(new, distance[:-1], np.inf), kind="stable")[:_WHOLE_ROWS]
            rows = np.unique(np.append(self._owner[nearest[new[nearest]]], i))
            columns = np.arange(self._cost.shape[1])
            reduced = self._cost.block(rows, columns) - self._prices - self._has[rows][:, None]
            reduced -= self._cost.block_error(rows, columns, self._price_error)
            np.maximum(reduced, 0.0, out=reduced)
            matched = self._permutation[rows] >= 0
            reduced[matched, self._permutation[rows][matched]] = np.inf
            self._whole.update(zip(rows.tolist(), reduced, strict=True))
        return self._whole[i]
