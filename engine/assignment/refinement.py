"""Iterative refinement: solve the problem again on residual costs in twice the precision of float64.

Let v be prices that nearly prove the optimum. Under them the reduced costs of the pairs that decide are near zero. If
these residual costs are computed in twice the precision of float64 and then rounded, they keep all their digits, even
if the costs themselves are very large: next to an outlier, with an offset of a whole side, with costs over thirty
decades. The optimum of the small residual costs is the optimum of the costs, and its prices correct the prices v, as a
residual corrects the solution of linear equations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from saematch.assignment.certificate import Reduced, Solution
from saematch.assignment.duals import Duals, PassBounds, less_duals
from saematch.assignment.edges import least_of_rows
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.paths import Exchanges
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most

_MOST_STEPS = 6
MOST_WORK = 2**32  # numbers that the pairs of the graph are made from: a minute of one core for each step
# A residual above this factor times `Residual.most` counts as equal to that limit, so that corrections keep their
# digits.
_MOST_SLACK = 2.0**20


def refined(
    cost: Cost, unmatched: Unmatched, graph: CandidateGraph, solution: Solution, bounds: PassBounds, deadline: float
) -> Solution:
    """Return the solution with a proof in twice the precision of float64, or unchanged if that proves no more.

    Args:
        cost: the costs of all pairs.
        unmatched: the costs of leaving features unmatched.
        graph: the candidate pairs. More may be added.
        solution: the solution to refine, with its certificate.
        bounds: what a pass has proved of the pairs that are not in the graph.
        deadline: a time of the monotonic clock at which the refinement ends with the best proof so far.
    """
    if len(graph) * cost.width > MOST_WORK:
        return solution
    best, certificate = solution, solution.certificate
    assert certificate is not None
    duals = Duals.of(cost, unmatched, solution.permutation, solution.prices)
    for number in range(_MOST_STEPS):
        if time.monotonic() >= deadline:
            return replace(best, stopped_by="time_limit")
        # The optimum of the residual costs, with two corrections of the prices: as the sparse solver gives it, and
        # centred, so that pairs that are not in the graph are told from those of the matching.
        residual = Residual.at(cost, unmatched, graph, duals)
        permutation, correction = residual.optimum()
        central = residual.central(permutation, correction)
        for candidate in (correction, central):
            refined_solution, doubtful = residual.proof(solution, permutation, candidate, bounds)
            new = refined_solution.grade(cost, unmatched, permutation)
            if new.certified or new.gap + new.rounding_error < certificate.gap + certificate.rounding_error:
                best, certificate = replace(refined_solution, certificate=new), new
            if certificate.certified:
                return best
        # The next step starts at the corrected prices. Rows that the bounds leave open get another pass at these
        # prices; if there are such rows again, all their pairs are added to the graph, unless that is too much work.
        duals = duals.corrected(cost, unmatched, permutation, central if len(doubtful) else correction)
        if len(doubtful) and number == 0:
            bounds = bounds.again(graph, duals)
        elif (len(doubtful) * cost.shape[1] + len(graph)) * cost.width <= MOST_WORK:
            bounds.add(graph, doubtful)
    return best


@dataclass(frozen=True)
class Residual:
    """Residual costs at some duals: C_ij minus the duals for the edges of a graph, with bounds on their errors.

    `rows` and `columns` are the residuals of the unmatched costs, with their errors.
    """

    cost: Cost
    unmatched: Unmatched
    graph: CandidateGraph
    duals: Duals
    values: Floats
    error: Floats
    rows: tuple[Floats, Floats]
    columns: tuple[Floats, Floats]

    @classmethod
    def at(cls, cost: Cost, unmatched: Unmatched, graph: CandidateGraph, duals: Duals) -> Residual:
        """Return the residual costs of a graph at some duals."""
        values, error = cost.less(graph.rows, graph.columns, duals.potentials, duals.prices)
        row, column = unmatched.costs
        rows, columns = less_duals(row, duals.potentials), less_duals(column, duals.prices)
        return cls(cost, unmatched, graph, duals, values, error, rows, columns)

    @cached_property
    def most(self) -> float:
        """A bound on every residual cost that an optimum can contain: what the present matching pays, and can gain.

        It is 0.0 if the present matching is the optimum of the graph: it pays nothing, and no residual is negative.
        """
        permutation, rows, columns = self.duals.permutation, self.rows[0], self.columns[0]
        unpaired = np.ones(len(columns), dtype=bool)
        unpaired[permutation[permutation >= 0]] = False
        own = permutation[self.graph.rows] == self.graph.columns
        terms = self.values[own], rows[permutation < 0], columns[unpaired]
        paid = sum(float(np.abs(values).sum()) for values in terms)
        finite = np.concatenate([values[np.isfinite(values)] for values in (self.values, rows, columns)])
        return float(4 * (paid - float(np.minimum(finite, 0.0).sum())))

    def optimum(self) -> tuple[Indices, Floats]:
        """Return the optimal matching of the graph, and the correction of the prices that proves it.

        Residuals that no optimum can contain are cut down to `most`. Then the sparse solver never adds up numbers of
        very different size, and what it proves of the small ones holds.
        """
        most = self.most
        if most == 0:
            return self.duals.permutation, np.zeros(len(self.columns[0]))
        cut = (_cut(values, most) for values in (self.values, self.rows[0], self.columns[0]))
        return self.graph.optimum_of(*cut, prices=np.zeros(len(self.columns[0])))

    def central(self, permutation: Indices, correction: Floats, most_slack: float = _MOST_SLACK) -> Floats:
        """Return a correction of the prices under which other pairs are well above the pairs of the matching.

        The prices are put halfway between the highest and the lowest prices that prove the optimum. Then each price is
        moved to the middle of the range that the other prices allow. Residuals above `most_slack` times `most` count
        as equal to that limit, so that the correction keeps its digits.
        """
        rows, columns = self.graph.rows, self.graph.columns
        most = most_slack * self.most if self.most > 0 else np.inf
        own = self.rows[0].copy()  # the residual of each row's own pair, or of its unmatched cost
        matched = np.nonzero(permutation >= 0)[0]
        own[matched] = self._pairs(matched, permutation[matched], correction)[0]

        def exchanges(correction: Floats) -> Exchanges:
            reduced = np.minimum(self.values - correction[columns] - own[rows], most)
            exits = _cut(self.rows[0] - own, most), _cut(self.columns[0] - correction, most)
            return Exchanges.of(permutation, rows, columns, reduced, *exits, through_shortest=True)

        rise, fall = exchanges(correction).extremes()
        halfway = (rise - fall) / 2
        own[matched] -= halfway[permutation[matched]]
        return exchanges(correction + halfway).balanced(correction + halfway)

    def _pairs(self, i: Indices, j: Indices, correction: Floats) -> tuple[Floats, Floats]:
        values, error = self.cost.less(i, j, self.duals.potentials, self.duals.prices)
        return values - correction[j], _rounding(values, error, correction[j])

    def proof(
        self, solution: Solution, permutation: Indices, correction: Floats, bounds: PassBounds
    ) -> tuple[Solution, Indices]:
        """Return what the corrected prices prove of a matching, and the rows that pairs outside the graph may improve.

        All fields of the solution but the prices are residuals at the corrected prices, in units of the cost.
        """
        (row, row_error), (column, column_error) = self.rows, self.columns
        reduced = Reduced(
            1.0,
            lambda i, j: self._pairs(i, j, correction),
            row,
            row_error,
            np.maximum(column - correction, 0.0),
            _rounding(column, column_error, correction),
        )
        # Bound the residuals of each row from below, over the edges of the graph and over all other pairs.
        rows, columns, starts = self.graph.rows, self.graph.columns, self.graph.starts
        values = self.values - correction[columns]
        lower = at_least(values, _rounding(self.values, self.error, correction[columns]))
        others = least_of_rows(np.where(permutation[rows] == columns, np.inf, lower), starts)
        proved = least_of_rows(lower, starts)
        floors = bounds.row_floors(self.graph, self.duals, correction)
        # A row is open if a pair outside the graph may be below the row's own pair, or below its unmatched cost.
        matched = np.nonzero(permutation >= 0)[0]
        needed = at_most(row, row_error)
        needed[matched] = at_most(*self._pairs(matched, permutation[matched], correction))
        prices = self.duals.prices.sum(axis=0) + correction - self.cost.column_constant - self.unmatched.price_shift
        refined_solution = replace(
            solution,
            permutation=permutation,
            prices=prices * self.cost.scale,
            minima=least_of_rows(values, starts),
            proved=np.minimum(proved, floors),
            others=np.minimum(others, floors),
            finished=True,
            reduced=reduced,
            certificate=None,
            edges=len(self.graph),
        )
        return refined_solution, np.nonzero(floors < needed)[0]


def _cut(values: Floats, most: float) -> Floats:
    """Return the values, with `most` in place of finite values above it."""
    return np.where(np.isinf(values), values, np.minimum(values, most))


def _rounding(values: Floats, error: Floats, correction: Floats) -> Floats:
    """Return the error of values - correction, computed in float64, if the values have the errors `error`."""
    size = np.where(np.isinf(values), 0.0, np.abs(values)) + np.abs(correction)
    return error + np.where(correction == 0, 0.0, 2 * UNIT_64 * size)
