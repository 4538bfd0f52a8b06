"""How firmly each feature is matched: what its pair may rise by before another matching is cheaper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saematch.assignment.certificate import BLUR
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.paths import Ways
from saematch.assignment.refinement import MOST_WORK, Duals, PassBounds, Step
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most

LISTED = 16  # cheapest pairs of a row and of a column that a pass adds to the graph
_WHOLE_ROWS, _MOST_ENTRIES = 64, 2**25  # made at a time, and kept
_FEW_DIGITS = 2.0**22  # times the rounding of any pair: below, a margin is computed in twice the precision
_CORRECTIONS = 4


class Listed(NamedTuple):
    """What a pass says of pairs that it did not add to the graph, and of those that are in it.

    `floors (F_A,)` bounds M_ij - v_j for each row, `column_floors (F_B,)` M_ij - u_i - v_j for each column. `gain` is
    how far a pair of the graph is below zero, 0.0 within rounding; `new` says that one below zero was added.
    """

    floors: Floats
    column_floors: Floats
    gain: float
    new: bool


class MarginSearch:
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

    def __init__(self, cost: Cost, unmatched: Unmatched, permutation: Indices, prices: Floats) -> None:
        self._cost, self._unmatched, self._permutation = cost, unmatched, permutation
        rows = np.nonzero(permutation >= 0)[0]
        self._columns = permutation[rows]
        self._owner = np.full(cost.shape[1], -1)
        self._owner[self._columns] = rows
        self._graph = CandidateGraph(cost, unmatched, permutation)
        self._whole: dict[int, Floats] = {}
        if 0 in cost.shape:
            self.bound, self.tied = np.full(cost.shape[0], np.inf), np.zeros(cost.shape[0], dtype=bool)
            self.short = 0.0
            return
        # A column without a partner costs what staying free does, and by no rounding less.
        prices = np.where((self._owner < 0) & np.isfinite(unmatched.columns), unmatched.columns, prices)
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
        return np.array(found) / self._frame.scale

    def _list(self, prices: Floats, ceiling: float) -> Listed:
        """A pass that adds cheap pairs to the graph."""
        potentials, rounding = self._graph.potentials(self._permutation, prices)
        every, before = np.arange(self._cost.shape[0]), len(self._graph)
        price_error = self._unmatched.bound_price_error(prices)
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
        exits = self._unmatched.rows - potentials, self._unmatched.columns - prices
        return Ways.of(self._permutation, rows, columns, reduced, *exits)

    def _settle(self, listed: Listed) -> None:
        """The bound at the final prices, and who is tied, by the graph and what the pass says of all other pairs.

        Where float64 leaves a margin few digits, all is computed again in twice its precision.
        """
        cost, matched = self._cost, self._permutation >= 0
        _, rounding = self._graph.potentials(self._permutation, self._prices)
        self._use(_Frame.in_float64(cost, self._unmatched, self._graph, self._permutation, self._prices, listed))
        first, first_columns = cost.identical_rows
        alone = _is_alone(first) & (~matched | _is_alone(first_columns)[self._permutation])
        blurred = rounding.max() > BLUR * cost.typical_difference  # else rows that are equal explain margins of 0
        doubtful = (alone | blurred) & (self.bound * cost.scale <= _FEW_DIGITS * rounding.max())
        if doubtful.any() and len(self._graph) * cost.width <= MOST_WORK:
            self._use(_Frame.refined(cost, self._unmatched, self._graph, self._permutation, self._prices, listed))
        # A true tie costs nothing: what it seems to cost, it gains elsewhere on its cycle, by rounding.
        self.tied = self.bound == 0
        for i in np.nonzero(self.tied)[0]:
            self.tied[i] = self._cycle(int(i), np.nextafter(-self._below_zero, np.inf), True) <= -self._below_zero
        self.short = -self._below_zero / self._frame.scale if listed.gain > 0 else 0.0

    def _use(self, frame: _Frame) -> None:
        graph, matched = self._graph, self._permutation >= 0
        self._frame = frame
        self._row_exit = np.where(matched, frame.row_exit, np.inf)
        out, into = np.minimum(frame.floors, self._row_exit), np.minimum(frame.column_floors, frame.column_exit)
        np.minimum.at(out, graph.rows, frame.reduced)
        np.minimum.at(into, graph.columns, frame.reduced)
        # Whatever else is on a cycle costs nothing less than this, in sum: only ties within rounding are below zero.
        self._below_zero = float(np.minimum(out, 0.0).sum())
        both = out + np.where(matched, into[self._permutation], 0.0) + self._below_zero
        self.bound = np.maximum(both, 0.0) * (1 - 2.0**-50) / frame.scale  # less the rounding of these sums
        self._starts, self._others, self._lengths = graph.starts, graph.columns, np.maximum(frame.reduced, 0.0)
        self._row_exit, self._column_exit = np.maximum(self._row_exit, 0.0), np.maximum(frame.column_exit, 0.0)

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
        if so_far + self._frame.floors[i] < limit:
            distance[:hub] = np.minimum(distance[:hub], so_far + self._whole_row(i, distance))

    def _whole_row(self, i: int, distance: Floats) -> Floats:
        """Reduced costs of all pairs of row i; those of the rows that will be asked for next are made with it."""
        if i not in self._whole:
            if len(self._whole) * len(distance) > _MOST_ENTRIES:
                self._whole.clear()
            new = np.array([k >= 0 and k not in self._whole for k in self._owner.tolist()])
            nearest = np.argsort(np.where(new, distance[:-1], np.inf), kind="stable")[:_WHOLE_ROWS]
            rows = np.unique(np.append(self._owner[nearest[new[nearest]]], i))
            reduced = np.maximum(self._frame.whole(rows), 0.0)
            matched = self._permutation[rows] >= 0
            reduced[matched, self._permutation[rows][matched]] = np.inf
            self._whole.update(zip(rows.tolist(), reduced, strict=True))
        return self._whole[i]


@dataclass(frozen=True)
class _Frame:
    """Lower bounds of reduced costs, at prices that prove the optimum, in units of the cost times `scale`.

    `reduced` is that of every edge of the graph, infinite for the pairs of the matching, `row_exit` and `column_exit`
    that of staying free, `floors` and `column_floors` that of the pairs of each row and column that are not in the
    graph; `whole(rows)` is that of all pairs of some rows.
    """

    scale: float
    reduced: Floats
    row_exit: Floats
    column_exit: Floats
    floors: Floats
    column_floors: Floats
    whole: Callable[[Indices], Floats]

    @classmethod
    def in_float64(
        cls,
        cost: Cost,
        unmatched: Unmatched,
        graph: CandidateGraph,
        permutation: Indices,
        prices: Floats,
        listed: Listed,
    ) -> _Frame:
        """M_ij - u_i - v_j, by the errors that the cost states."""
        price_error = unmatched.bound_price_error(prices)
        potentials, rounding = graph.potentials(permutation, prices)
        has, rows, columns = at_most(potentials, rounding), graph.rows, graph.columns
        error = cost.exact_error(rows, columns, price_error)
        reduced = _rounded_down(at_least(graph.costs - prices[columns], error) - has[rows])
        reduced[permutation[rows] == columns] = np.inf

        def whole(rows: Indices) -> Floats:
            every = np.arange(cost.shape[1])
            values, error = cost.block_with_error(rows, every, price_error)
            return values - prices - has[rows][:, None] - error

        return cls(
            cost.scale,
            reduced,
            _rounded_down(at_least(unmatched.rows, unmatched.row_error) - has),
            _rounded_down(at_least(unmatched.columns, unmatched.column_error) - prices),
            _rounded_down(listed.floors - has),
            listed.column_floors,
            whole,
        )

    @classmethod
    def refined(
        cls,
        cost: Cost,
        unmatched: Unmatched,
        graph: CandidateGraph,
        permutation: Indices,
        prices: Floats,
        listed: Listed,
    ) -> _Frame:
        """The same in twice the precision of float64, at prices that were corrected by what is left in it."""
        duals = Duals.of(cost, unmatched, permutation, prices)
        for number in range(_CORRECTIONS):
            step = Step.at(cost, unmatched, graph, duals)
            _, correction = step.optimum()
            if number == 1:  # as far from all other pairs as can be; what rounding makes of that is corrected, too
                correction = step.central(permutation, correction, np.inf)
            duals = duals.corrected(cost, unmatched, permutation, correction)
        alone = np.ones(cost.shape[1], dtype=bool)
        alone[permutation[permutation >= 0]] = False
        step = Step.at(cost, unmatched, graph, duals)
        if alone.any():
            duals = duals.corrected(cost, unmatched, permutation, np.where(alone, step.columns[0], 0.0))
            step = Step.at(cost, unmatched, graph, duals)
        matched = np.nonzero(permutation >= 0)[0]
        has = at_most(*step.rows)
        has[matched] = at_most(*cost.less(matched, permutation[matched], duals.potentials, duals.prices))
        rows, columns = graph.rows, graph.columns
        reduced = _rounded_down(at_least(step.values, step.error) - has[rows])
        reduced[permutation[rows] == columns] = np.inf
        seen, potentials = PassBounds(cost, unmatched, prices, listed.floors), graph.potentials(permutation, prices)[0]

        def whole(rows: Indices) -> Floats:
            every = np.arange(cost.shape[1])
            pairs = np.repeat(rows, len(every)), np.tile(every, len(rows))
            lower = at_least(*cost.less(*pairs, duals.potentials, duals.prices))
            return _rounded_down(lower - has[pairs[0]]).reshape(len(rows), -1)

        return cls(
            1.0,
            reduced,
            _rounded_down(at_least(*step.rows) - has),
            at_least(*step.columns),
            _rounded_down(seen.floor(graph, duals, np.zeros(cost.shape[1])) - has),
            seen.column_floor(duals, potentials, listed.column_floors) - float(has.max(initial=0.0)),
            whole,
        )


def _is_alone(first: Indices) -> NDArray[np.bool_]:
    """Which rows have no other that is equal bit for bit, by the first that is."""
    size: NDArray[np.bool_] = np.bincount(first, minlength=len(first))[first] == 1
    return size


def _rounded_down(values: Floats) -> Floats:
    """Lower bounds of differences that were rounded once."""
    return values - 2 * UNIT_64 * np.where(np.isinf(values), 0.0, np.abs(values))
