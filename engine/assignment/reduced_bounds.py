"""Lower bounds of reduced costs, from which margins are computed: in float64, or in twice its precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from saematch.assignment.duals import Duals, PassBounds
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.refinement import Residual
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most

_CORRECTIONS = 4


class Listed(NamedTuple):
    """The bounds that a pass has proved for pairs that are not in the graph, and what it says about the edges.

    `floors (F_A,)` bounds M_ij - v_j for each row, and `column_floors (F_B,)` bounds M_ij - u_i - v_j for each column,
    over the pairs that are not in the graph. `undercut` is the most by which the reduced cost of an edge is below zero,
    0.0 if that is no more than rounding. `new` says whether the pass has added such an edge.
    """

    floors: Floats
    column_floors: Floats
    undercut: float
    new: bool


@dataclass(frozen=True)
class ReducedBounds:
    """Lower bounds of reduced costs at prices that prove the optimum, in units of the cost times `scale`.

    Attributes:
        scale: the factor between the cost and these numbers.
        edges: the bound of each edge of the graph; inf for the pairs of the matching.
        row_exit: `(F_A,)`, the bounds of the unmatched costs of the rows.
        column_exit: `(F_B,)`, the bounds of the unmatched costs of the columns.
        floors: `(F_A,)`, a bound for all pairs of each row that are not in the graph.
        column_floors: `(F_B,)`, the same for each column.
        whole: a function of some rows that returns the bounds of all their pairs, `(rows, F_B)`.
    """

    scale: float
    edges: Floats
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
    ) -> ReducedBounds:
        """Return bounds of M_ij - u_i - v_j, by the errors that the cost states."""
        price_error = unmatched.bound_price_error(prices)
        highest = at_most(*graph.potentials(permutation, prices))  # that a potential can be
        error = cost.exact_error(graph.rows, graph.columns, price_error)

        def whole(rows: Indices) -> Floats:
            columns = np.arange(cost.shape[1])
            values, error = cost.block_with_error(rows, columns, price_error)
            return values - prices - highest[rows][:, None] - error

        return cls._less_potentials(
            highest,
            graph,
            permutation,
            scale=cost.scale,
            edges=at_least(graph.costs - prices[graph.columns], error),
            rows=at_least(unmatched.rows, unmatched.row_error),
            column_exit=_rounded_down(at_least(unmatched.columns, unmatched.column_error) - prices),
            floors=listed.floors,
            column_floors=listed.column_floors,
            whole=whole,
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
    ) -> ReducedBounds:
        """Return bounds in twice the precision of float64, at prices that residual costs have corrected."""
        duals = _corrected_duals(cost, unmatched, graph, permutation, prices)
        residual = Residual.at(cost, unmatched, graph, duals)
        # The most that the residual of a row's own pair, or of its unmatched cost, can be.
        matched = np.nonzero(permutation >= 0)[0]
        highest = at_most(*residual.rows)
        highest[matched] = at_most(*cost.less(matched, permutation[matched], duals.potentials, duals.prices))
        # The bounds of the pass, moved to these duals.
        bounds = PassBounds(cost, unmatched, prices, listed.floors)
        potentials, _ = graph.potentials(permutation, prices)
        column_floors = bounds.column_floors(duals, potentials, listed.column_floors)

        def whole(rows: Indices) -> Floats:
            columns = np.arange(cost.shape[1])
            pairs = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
            lower = at_least(*cost.less(*pairs, duals.potentials, duals.prices))
            return _rounded_down(lower - highest[pairs[0]]).reshape(len(rows), -1)

        return cls._less_potentials(
            highest,
            graph,
            permutation,
            scale=1.0,
            edges=at_least(residual.values, residual.error),
            rows=at_least(*residual.rows),
            column_exit=at_least(*residual.columns),
            floors=bounds.row_floors(graph, duals, np.zeros(cost.shape[1])),
            column_floors=column_floors - float(highest.max(initial=0.0)),
            whole=whole,
        )

    @classmethod
    def _less_potentials(
        cls,
        highest: Floats,
        graph: CandidateGraph,
        permutation: Indices,
        *,
        scale: float,
        edges: Floats,
        rows: Floats,
        column_exit: Floats,
        floors: Floats,
        column_floors: Floats,
        whole: Callable[[Indices], Floats],
    ) -> ReducedBounds:
        """Subtract upper bounds `highest (F_A,)` of the potentials from the bounds of `edges`, `rows` and `floors`."""
        reduced = _rounded_down(edges - highest[graph.rows])
        reduced[permutation[graph.rows] == graph.columns] = np.inf
        row_exit, floors = _rounded_down(rows - highest), _rounded_down(floors - highest)
        return cls(scale, reduced, row_exit, column_exit, floors, column_floors, whole)


def _corrected_duals(
    cost: Cost, unmatched: Unmatched, graph: CandidateGraph, permutation: Indices, prices: Floats
) -> Duals:
    """Return duals at which rounding leaves next to nothing of the residuals of the matching."""
    duals = Duals.of(cost, unmatched, permutation, prices)
    for number in range(_CORRECTIONS):
        residual = Residual.at(cost, unmatched, graph, duals)
        _, correction = residual.optimum()
        # Once, move the prices as far from all other pairs as possible; later corrections repair the rounding of that.
        if number == 1:
            correction = residual.central(permutation, correction, np.inf)
        duals = duals.corrected(cost, unmatched, permutation, correction)
    # The price of an unmatched column is its unmatched cost, and not less by any rounding.
    unpaired = np.ones(cost.shape[1], dtype=bool)
    unpaired[permutation[permutation >= 0]] = False
    if unpaired.any():
        residual = Residual.at(cost, unmatched, graph, duals)
        correction = np.where(unpaired, residual.columns[0], 0.0)
        duals = duals.corrected(cost, unmatched, permutation, correction)
    return duals


def _rounded_down(values: Floats) -> Floats:
    """Return lower bounds of differences that were rounded once."""
    return values - 2 * UNIT_64 * np.where(np.isinf(values), 0.0, np.abs(values))
