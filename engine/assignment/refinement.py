"""Iterative refinement: the optimum once more, on what its own reduced costs are in twice the precision of float64.

At the prices at hand the reduced costs of the pairs that decide are near zero. Computed in twice the precision and then
rounded, they have all their digits, however large the costs are that they were made from: an outlier among them, an
offset of a whole side, costs over thirty decades. The optimum of these small numbers is the optimum of the costs, and
its prices correct the prices at hand, as a residual corrects the solution of linear equations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from saematch.assignment.certificate import Certificate, Reduced, Solution
from saematch.assignment.graph import CandidateGraph, least_of_rows
from saematch.assignment.paths import Ways
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most, exact_sum

_MOST_STEPS = 6
MOST_WORK = 2**32  # entries of the pairs of the graph: a minute of a core for each of the steps
_ROOM = 2.0**20  # times what a matching costs at its own prices: how far other pairs are moved away from it at most
_LISTED = 16  # cheapest partners of a row and of a column that a pass adds to the graph


def refined(
    cost: Cost,
    unmatched: Unmatched,
    graph: CandidateGraph,
    solution: Solution,
    certificate: Certificate,
    seen: PassBounds,
    deadline: float,
) -> Solution:
    """The solution with a proof in twice the precision, or the one that was given where that proves no more.

    Where what was `seen` of the pairs that are not in the graph cannot tell them from a row's own, another pass looks
    at them, at better prices; then they are added to the graph, unless they are too many. At the `deadline`, of the
    monotonic clock, the search ends with what is proved by then.
    """
    if len(graph) * cost.width > MOST_WORK:
        return solution
    best = solution
    duals = Duals.of(cost, unmatched, solution.permutation, solution.prices)
    for number in range(_MOST_STEPS):
        if time.monotonic() >= deadline:
            return replace(best, stopped_by="time_limit")
        step = Step.at(cost, unmatched, graph, duals)
        permutation, correction = step.optimum()
        central = step.central(permutation, correction)
        for moved in (correction, central):
            found, doubtful = step.proof(solution, permutation, moved, seen)
            new = found.grade(cost, unmatched, found.permutation)
            if new.certified or new.gap + new.rounding_error < certificate.gap + certificate.rounding_error:
                best, certificate = found, new
            if certificate.certified:
                return best
        duals = duals.corrected(cost, unmatched, permutation, central if len(doubtful) else correction)
        if len(doubtful) and number == 0:
            seen = seen.again(graph, duals)
        elif (len(doubtful) * cost.shape[1] + len(graph)) * cost.width <= MOST_WORK:
            seen.add(graph, doubtful)
    return best


@dataclass(frozen=True)
class Duals:
    """Prices `(n, F_B)` and potentials `(n, F_A)` in units of the cost, sums that are not added up, for a matching.

    Under them the pairs of the matching, and staying free for a row without a partner, cost nothing but rounding.
    """

    permutation: Indices
    potentials: Floats
    prices: Floats

    @classmethod
    def of(cls, cost: Cost, unmatched: Unmatched, permutation: Indices, reduced: Floats) -> Duals:
        """The `reduced` prices of M, with what a column pays to stay free where a price is as good as that."""
        prices = cost.column_constant + unmatched.price_shift + reduced / cost.scale
        if np.isfinite(unmatched.costs[1]):
            prices = np.where(unmatched.at_limit(reduced), unmatched.costs[1], np.minimum(prices, unmatched.costs[1]))
        if unmatched.none_allowed:
            prices -= np.median(prices)  # which means nothing, and would cost digits
        return cls(permutation, *cost.no_duals).corrected(cost, unmatched, permutation, prices)

    def corrected(self, cost: Cost, unmatched: Unmatched, permutation: Indices, correction: Floats) -> Duals:
        """Return the duals after a correction of the prices, for another matching."""
        prices = np.concatenate([self.prices, correction[None]])
        rows, alone = np.nonzero(permutation >= 0)[0], np.nonzero(permutation < 0)[0]
        left = np.zeros(cost.shape[0])
        left[rows] = cost.less(rows, permutation[rows], self.potentials, prices)[0]
        left[alone] = _unmatched_less_duals(unmatched.costs[0], self.potentials[:, alone])[0]
        return Duals(permutation, np.concatenate([self.potentials, left[None]]), prices)


@dataclass(frozen=True)
class PassBounds:
    """Lower bounds, from a pass over all pairs, for those that are not in the graph.

    `rest (F_A,)` bounds M_ij - v_j at the `prices` of the pass.
    """

    cost: Cost
    unmatched: Unmatched
    prices: Floats
    rest: Floats

    def again(self, graph: CandidateGraph, duals: Duals) -> PassBounds:
        """A pass at other prices; cheap pairs are added to the graph."""
        cost, unmatched = self.cost, self.unmatched
        prices = (duals.prices.sum(axis=0) - unmatched.price_shift - cost.column_constant) * cost.scale
        prices = np.minimum(prices, unmatched.columns)
        potentials, rounding = graph.potentials(duals.permutation, prices)
        every = np.arange(cost.shape[0])
        scan = cost.scan(every, prices, unmatched.bound_price_error(prices), potentials + rounding, _LISTED)
        graph.add(*scan.pairs())
        rest = scan.floors[:, -1]
        graph.settle(duals.permutation, prices, potentials, rounding, potentials + rounding, rest)
        return PassBounds(cost, unmatched, prices, rest)

    def add(self, graph: CandidateGraph, rows: Indices) -> None:
        """Add all pairs of these rows to the graph."""
        every = np.arange(self.cost.shape[1])
        graph.add(np.repeat(rows, len(every)), np.tile(every, len(rows)))
        self.rest[rows] = np.inf

    def floor(self, graph: CandidateGraph, duals: Duals, correction: Floats) -> Floats:
        """A lower bound of C_ij less all potentials, prices and the correction over the pairs out of the graph."""
        cost = self.cost
        row_error, column_error = cost.constant_error()
        paid, shifted = duals.prices.sum(axis=0) + correction, cost.column_constant + self.prices / cost.scale
        size = np.abs(duals.prices).sum(axis=0) + np.abs(correction) + np.abs(cost.column_constant) + np.abs(shifted)
        most = float((column_error + 8 * UNIT_64 * size + (paid - shifted)).max())
        floor = np.where(np.diff(graph.starts) == cost.shape[1], np.inf, self.rest)
        known = np.isfinite(floor)
        row_part = (cost.row_constant - duals.potentials.sum(axis=0))[known]
        floor[known] = self.rest[known] / cost.scale + row_part - most
        sizes = np.abs(duals.potentials).sum(axis=0) + np.abs(cost.row_constant)
        sizes = sizes[known] + np.abs(self.rest[known]) / cost.scale + abs(most)
        floor[known] -= row_error[known] + 16 * UNIT_64 * sizes
        return floor

    def column_floor(self, duals: Duals, potentials: Floats, floors: Floats) -> Floats:
        """The same for every column, by `floors` of M_ij - u_i - v_j, where the `potentials` are those of M."""
        cost = self.cost
        row_error, column_error = cost.constant_error()
        taken, given = duals.potentials.sum(axis=0), cost.row_constant + potentials / cost.scale
        size = np.abs(duals.potentials).sum(axis=0) + np.abs(cost.row_constant) + np.abs(given)
        most = float((row_error + 8 * UNIT_64 * size + (taken - given)).max())
        shifted = cost.column_constant + self.prices / cost.scale
        column_part = shifted - duals.prices.sum(axis=0)
        known = np.isfinite(floors)
        found = floors.copy()
        found[known] = floors[known] / cost.scale + column_part[known] - most
        sizes = np.abs(duals.prices).sum(axis=0) + np.abs(cost.column_constant) + np.abs(shifted)
        sizes = sizes[known] + np.abs(floors[known]) / cost.scale + abs(most)
        found[known] -= column_error[known] + 16 * UNIT_64 * sizes
        return found


@dataclass(frozen=True)
class Step:
    """C_ij less the duals for the edges of a graph, and the same of staying free, with bounds for their errors."""

    cost: Cost
    unmatched: Unmatched
    graph: CandidateGraph
    duals: Duals
    values: Floats
    error: Floats
    rows: tuple[Floats, Floats]
    columns: tuple[Floats, Floats]

    @classmethod
    def at(cls, cost: Cost, unmatched: Unmatched, graph: CandidateGraph, duals: Duals) -> Step:
        """These numbers for a graph at some duals."""
        values, error = cost.less(graph.rows, graph.columns, duals.potentials, duals.prices)
        row, column = unmatched.costs
        exits = _unmatched_less_duals(row, duals.potentials), _unmatched_less_duals(column, duals.prices)
        return cls(cost, unmatched, graph, duals, values, error, *exits)

    @property
    def most(self) -> float:
        """More than any number that an optimum can contain: than the matching at hand pays and can gain.

        0.0 where it is the optimum of the graph: it pays nothing, and nothing is below that.
        """
        permutation, rows, columns = self.duals.permutation, self.rows[0], self.columns[0]
        left = np.ones(len(columns), dtype=bool)
        left[permutation[permutation >= 0]] = False
        own = permutation[self.graph.rows] == self.graph.columns
        paid = sum(float(np.abs(each).sum()) for each in (self.values[own], rows[permutation < 0], columns[left]))
        finite = np.concatenate([each[np.isfinite(each)] for each in (self.values, rows, columns)])
        return float(4 * (paid - float(np.minimum(finite, 0.0).sum())))

    def optimum(self) -> tuple[Indices, Floats]:
        """The optimal matching of the graph, and what corrects the prices.

        Numbers that no optimum can contain are cut down. Then the sparse solver never adds up numbers of very different
        size, and what is proved of the smaller ones holds.
        """
        most = self.most
        if most == 0:
            return self.duals.permutation, np.zeros(len(self.columns[0]))
        cut = (_cut(each, most) for each in (self.values, self.rows[0], self.columns[0]))
        return self.graph.optimum_of(*cut, prices=np.zeros(len(self.columns[0])))

    def central(self, permutation: Indices, correction: Floats, room: float = _ROOM) -> Floats:
        """A correction under which other pairs are well above the pairs of the matching, where they can be.

        By no more than `room` times what the matching costs here, so that the correction keeps its digits.
        """
        rows, columns = self.graph.rows, self.graph.columns
        own = self.rows[0].copy()
        matched = np.nonzero(permutation >= 0)[0]
        own[matched] = self._pairs(matched, permutation[matched], correction)[0]
        most = room * self.most if self.most > 0 else np.inf

        def ways(correction: Floats) -> Ways:
            reduced = self.values - correction[columns] - own[rows]
            exits = _cut(self.rows[0] - own, most), _cut(self.columns[0] - correction, most)
            return Ways.of(permutation, rows, columns, np.minimum(reduced, most), *exits, through_shortest=True)

        rise, fall = ways(correction).extremes()
        halfway = (rise - fall) / 2
        own[matched] -= halfway[permutation[matched]]
        return ways(correction + halfway).balanced(correction + halfway)

    def _pairs(self, i: Indices, j: Indices, correction: Floats) -> tuple[Floats, Floats]:
        values, error = self.cost.less(i, j, self.duals.potentials, self.duals.prices)
        return values - correction[j], _rounding(values, error, correction[j])

    def proof(
        self, solution: Solution, permutation: Indices, correction: Floats, seen: PassBounds
    ) -> tuple[Solution, Indices]:
        """What the corrected prices prove of the matching, and the rows of which pairs out of the graph are open."""
        (row, row_error), (column, column_error) = self.rows, self.columns
        reduced = Reduced(
            1.0,
            lambda i, j: self._pairs(i, j, correction),
            row,
            row_error,
            np.maximum(column - correction, 0.0),
            _rounding(column, column_error, correction),
        )
        rows, columns, starts = self.graph.rows, self.graph.columns, self.graph.starts
        left = self.values - correction[columns]
        lower = at_least(left, _rounding(self.values, self.error, correction[columns]))
        floor = seen.floor(self.graph, self.duals, correction)
        others = least_of_rows(np.where(permutation[rows] == columns, np.inf, lower), starts)
        proved = least_of_rows(lower, starts)
        matched = np.nonzero(permutation >= 0)[0]
        needed = at_most(row, row_error)
        needed[matched] = at_most(*self._pairs(matched, permutation[matched], correction))
        prices = self.duals.prices.sum(axis=0) + correction - self.cost.column_constant - self.unmatched.price_shift
        found = replace(
            solution,
            permutation=permutation,
            prices=prices * self.cost.scale,
            minima=least_of_rows(left, starts),
            proved=np.minimum(proved, floor),
            others=np.minimum(others, floor),
            settled=True,
            reduced=reduced,
            edges=len(self.graph),
        )
        return found, np.nonzero(floor < needed)[0]


def _cut(values: Floats, most: float) -> Floats:
    """The values, and `most` where they are finite and above it."""
    return np.where(np.isinf(values), values, np.minimum(values, most))


def _unmatched_less_duals(price: float, duals: Floats) -> tuple[Floats, Floats]:
    """What it costs to stay free less the duals, and the rounding of that."""
    if not np.isfinite(price):
        return np.full(duals.shape[1], np.inf), np.zeros(duals.shape[1])
    return exact_sum(np.full(duals.shape[1], price), *-duals)


def _rounding(values: Floats, error: Floats, correction: Floats) -> Floats:
    """The error of values - correction, computed in float64."""
    size = np.where(np.isinf(values), 0.0, np.abs(values)) + np.abs(correction)
    return error + np.where(correction == 0, 0.0, 2 * UNIT_64 * size)
