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
_HUGE = np.finfo(float).max
Pairs = tuple[Indices, Indices, Floats]  # the row, the column and a number of each pair


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
        rows: the row of each edge of the graph.
        columns: the column of each edge of the graph.
        edges: the bound of each edge of the graph; inf for the pairs of the matching.
        row_exit: `(F_A,)`, the bounds of the unmatched costs of the rows.
        column_exit: `(F_B,)`, the bounds of the unmatched costs of the columns.
        floors: `(F_A,)`, a bound for all pairs of each row that are not in the graph.
        column_floors: `(F_B,)`, the same for each column.
        trusted: up to this length, sums of bounds are sums of reduced costs, within rounding. Longer ones may contain
            pairs whose cost a ceiling has limited, see `Cost.set_ceiling`.
        below: a function of some rows, of some columns, and of a limit for each of these rows, `(rows, 1)`, or of these
            columns, `(1, columns)`. It returns the row, the column and the bound of each of their pairs whose bound is
            below the limit, without the pairs of the matching.
    """

    scale: float
    rows: Indices
    columns: Indices
    edges: Floats
    row_exit: Floats
    column_exit: Floats
    floors: Floats
    column_floors: Floats
    trusted: float
    below: Callable[[Indices, Indices, Floats], Pairs]

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
        ceiling = float(cost.below_ceiling(np.full(1, _HUGE))[0])
        trusted = np.inf if ceiling == _HUGE else ceiling - float(highest.max(initial=0.0)) - float(prices.max())

        def block(rows: Indices, columns: Indices) -> Floats:
            values, error = cost.block_with_error(rows, columns, price_error)
            lower = _rounded_down(at_least(values - prices[columns], error) - highest[rows][:, None])
            return np.where(np.isinf(values), np.inf, lower)

        def below(rows: Indices, columns: Indices, limits: Floats) -> Pairs:
            return _below(cost, permutation, rows, columns, limits, block)[:3]

        return cls._less_potentials(
            highest,
            graph,
            permutation,
            scale=cost.scale,
            edges=at_least(graph.costs - prices[graph.columns], error),
            row_exit=at_least(unmatched.rows, unmatched.row_error),
            column_exit=_rounded_down(at_least(unmatched.columns, unmatched.column_error) - prices),
            floors=listed.floors,
            column_floors=listed.column_floors,
            trusted=trusted,
            below=below,
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
        *,
        blurred: bool,
    ) -> ReducedBounds:
        """Return bounds in twice the precision of float64, at prices that residual costs have corrected.

        If the prices are `blurred`, so that rounding hides how far other pairs are, they are moved as far from other
        pairs as possible. Otherwise they hardly change, and the bounds of the pass hold for them as well.
        """
        duals = _corrected_duals(cost, unmatched, graph, permutation, prices, blurred)
        residual = Residual.at(cost, unmatched, graph, duals)
        # The most that the residual of a row's own pair, or of its unmatched cost, can be.
        matched = np.nonzero(permutation >= 0)[0]
        highest = at_most(*residual.rows)
        highest[matched] = at_most(*cost.less(matched, permutation[matched], duals.potentials, duals.prices))
        # The bounds of the pass, moved to these duals.
        bounds = PassBounds(cost, unmatched, prices, listed.floors)
        potentials, _ = graph.potentials(permutation, prices)
        column_floors = bounds.column_floors(duals, potentials, listed.column_floors)

        def block(rows: Indices, columns: Indices) -> Floats:
            return bounds.block_floors(duals, rows, columns) - highest[rows][:, None]

        def below(rows: Indices, columns: Indices, limits: Floats) -> Pairs:
            # Float64 tells most pairs from those below the limits; the others are computed again.
            rows, columns, _, limits = _below(cost, permutation, rows, columns, limits, block)
            residuals = at_least(*cost.less(rows, columns, duals.potentials, duals.prices))
            lower = _rounded_down(residuals - highest[rows])
            found = lower < limits
            return rows[found], columns[found], lower[found]

        return cls._less_potentials(
            highest,
            graph,
            permutation,
            scale=1.0,
            edges=at_least(residual.values, residual.error),
            row_exit=at_least(*residual.rows),
            column_exit=at_least(*residual.columns),
            floors=bounds.row_floors(graph, duals, np.zeros(cost.shape[1])),
            column_floors=column_floors - float(highest.max(initial=0.0)),
            trusted=np.inf,
            below=below,
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
        row_exit: Floats,
        column_exit: Floats,
        floors: Floats,
        column_floors: Floats,
        trusted: float,
        below: Callable[[Indices, Indices, Floats], Pairs],
    ) -> ReducedBounds:
        """Subtract upper bounds `highest (F_A,)` of the potentials from `edges`, `row_exit` and `floors`."""
        rows, columns = graph.rows, graph.columns
        reduced = _rounded_down(edges - highest[rows])
        reduced[permutation[rows] == columns] = np.inf
        row_exit, floors = _rounded_down(row_exit - highest), _rounded_down(floors - highest)
        return cls(scale, rows, columns, reduced, row_exit, column_exit, floors, column_floors, trusted, below)


def _below(
    cost: Cost,
    permutation: Indices,
    rows: Indices,
    columns: Indices,
    limits: Floats,
    block: Callable[[Indices, Indices], Floats],
) -> tuple[Indices, Indices, Floats, Floats]:
    """Return the pairs of some rows and columns that `block` says to be below their limits, the values, and the limits.

    `limits` has the shape (rows, 1) or (1, columns).
    """
    found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))]
    limits = np.broadcast_to(limits, (len(rows), len(columns)))
    height, width = max(1, cost.tile[0] // 4), cost.tile[1]
    for top in range(0, len(rows), height):
        some = rows[top : top + height]
        for left in range(0, len(columns), width):
            others, limit = columns[left : left + width], limits[top : top + height, left : left + width]
            values = block(some, others)
            values[permutation[some][:, None] == others] = np.inf
            i, j = np.nonzero(values < limit)
            found.append((some[i], others[j], values[i, j], limit[i, j]))
    all_rows, all_columns, all_values, all_limits = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return all_rows, all_columns, all_values, all_limits


def _corrected_duals(
    cost: Cost, unmatched: Unmatched, graph: CandidateGraph, permutation: Indices, prices: Floats, blurred: bool
) -> Duals:
    """Return duals at which rounding leaves next to nothing of the residuals of the matching."""
    duals = Duals.of(cost, unmatched, permutation, prices)
    for number in range(_CORRECTIONS):
        residual = Residual.at(cost, unmatched, graph, duals)
        _, correction = residual.optimum()
        # Once, move the prices as far from all other pairs as possible; later corrections repair the rounding of that.
        if number == 1 and blurred:
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
