"""Prices and potentials that keep more digits than one float64 number, and bounds on pairs that are not in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from saematch.assignment.graph import CandidateGraph
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, exact_sum

LISTED = 16  # cheapest partners of each row and column that a pass adds to the graph


@dataclass(frozen=True)
class Duals:
    """Prices `(n, F_B)` and potentials `(n, F_A)` in units of the cost, as sums of n terms that are not added up.

    Under these duals the pairs of `permutation`, and being unmatched for a row without a partner, have a residual cost
    of zero but for rounding.
    """

    permutation: Indices
    potentials: Floats
    prices: Floats

    @classmethod
    def of(cls, cost: Cost, unmatched: Unmatched, permutation: Indices, reduced: Floats) -> Duals:
        """Return the duals of `reduced` prices of M.

        A price that is within rounding of the unmatched cost of its column is replaced by that cost.
        """
        prices = cost.column_constant + unmatched.price_shift + reduced / cost.scale
        if np.isfinite(unmatched.costs[1]):
            prices = np.where(unmatched.at_limit(reduced), unmatched.costs[1], np.minimum(prices, unmatched.costs[1]))
        if unmatched.none_allowed:
            prices -= np.median(prices)  # a constant that all prices share means nothing, and would cost digits
        return cls(permutation, *cost.no_duals).corrected(cost, unmatched, permutation, prices)

    def corrected(self, cost: Cost, unmatched: Unmatched, permutation: Indices, correction: Floats) -> Duals:
        """Return the duals after a correction of the prices, for another matching."""
        prices = np.concatenate([self.prices, correction[None]])
        # The next term of the potentials is the residual of each row's own pair, or of its unmatched cost.
        rows, unpaired = np.nonzero(permutation >= 0)[0], np.nonzero(permutation < 0)[0]
        residual = np.zeros(cost.shape[0])
        residual[rows] = cost.less(rows, permutation[rows], self.potentials, prices)[0]
        residual[unpaired] = less_duals(unmatched.costs[0], self.potentials[:, unpaired])[0]
        return Duals(permutation, np.concatenate([self.potentials, residual[None]]), prices)


class _Share(NamedTuple):
    """The share of one side when bounds at the prices of a pass are turned into bounds at other duals.

    `given` is what the pass has taken into account for each row or column, `taken` is what the duals take away, `size`
    is the sum of the absolute values of the numbers that both are made from, and `error` bounds the error of the
    constants p or q.
    """

    given: Floats
    taken: Floats
    size: Floats
    error: Floats


@dataclass(frozen=True)
class PassBounds:
    """Lower bounds, from a pass over all pairs, for the pairs that are not in the graph.

    `rest (F_A,)` bounds M_ij - v_j for each row, at the `prices` v of the pass.
    """

    cost: Cost
    unmatched: Unmatched
    prices: Floats
    rest: Floats

    def again(self, graph: CandidateGraph, duals: Duals) -> PassBounds:
        """Return the bounds of another pass, at the prices of the duals; the pass adds cheap pairs to the graph."""
        cost, unmatched = self.cost, self.unmatched
        prices = (duals.prices.sum(axis=0) - unmatched.price_shift - cost.column_constant) * cost.scale
        prices = np.minimum(prices, unmatched.columns)
        potentials, rounding = graph.potentials(duals.permutation, prices)
        rows = np.arange(cost.shape[0])
        scan = cost.scan(rows, prices, unmatched.bound_price_error(prices), potentials + rounding, LISTED)
        graph.add(*scan.pairs())
        rest = scan.floors[:, -1]
        graph.settle_row_minima(duals.permutation, prices, potentials, rounding, potentials + rounding, rest)
        return PassBounds(cost, unmatched, prices, rest)

    def add(self, graph: CandidateGraph, rows: Indices) -> None:
        """Add all pairs of these rows to the graph."""
        columns = np.arange(self.cost.shape[1])
        graph.add(np.repeat(rows, len(columns)), np.tile(columns, len(rows)))
        self.rest[rows] = np.inf

    def row_floors(self, graph: CandidateGraph, duals: Duals, correction: Floats) -> Floats:
        """Return, for each row, a lower bound for the residual costs, minus the correction, of pairs outside the graph.

        The pass has proved M_ij >= r_i + v_j. With C_ij = p_i + q_j + M_ij / scale, with the sums P_i and Q_j of the
        duals, and with the correction d_j,

            C_ij - P_i - Q_j - d_j >= r_i / scale + (p_i - P_i) + (q_j + v_j / scale - Q_j - d_j).

        The last difference is at least its minimum over all columns.
        """
        rest = np.where(np.diff(graph.starts) == self.cost.shape[1], np.inf, self.rest)
        given, taken = self.cost.row_constant, duals.potentials.sum(axis=0)
        size = np.abs(duals.potentials).sum(axis=0) + np.abs(given)
        rows = _Share(given, taken, size, self.cost.constant_error()[0])
        return self._at_duals(rest, rows, self._columns(duals, correction))

    def column_floors(self, duals: Duals, potentials: Floats, floors: Floats) -> Floats:
        """Return, for each column, a lower bound for the residual costs of pairs outside the graph.

        `floors (F_B,)` bounds M_ij - u_i - v_j, where the u_i are the `potentials` of M. As in `row_floors`,

            C_ij - P_i - Q_j >= floors_j / scale + (q_j + v_j / scale - Q_j) + (p_i + u_i / scale - P_i),

        and the last difference is at least its minimum over all rows.
        """
        given, taken = self.cost.row_constant + potentials / self.cost.scale, duals.potentials.sum(axis=0)
        size = np.abs(duals.potentials).sum(axis=0) + np.abs(self.cost.row_constant) + np.abs(given)
        rows = _Share(given, taken, size, self.cost.constant_error()[0])
        return self._at_duals(floors, self._columns(duals, np.zeros(len(self.prices))), rows)

    def block_floors(self, duals: Duals, rows: Indices, columns: Indices) -> Floats:
        """Return lower bounds for the residual costs of all pairs of some rows and columns, from float64 values.

        As in `row_floors`, C_ij - P_i - Q_j = M_ij / scale + (p_i - P_i) + (q_j - Q_j).
        """
        cost = self.cost
        values, error = cost.block_with_error(rows, columns, np.zeros(cost.shape[1]))
        allowed = np.isfinite(values)
        values, error = np.where(allowed, values / cost.scale, 0.0), error / cost.scale
        potentials, prices = duals.potentials.sum(axis=0)[rows], duals.prices.sum(axis=0)[columns]
        p, q = cost.row_constant[rows], cost.column_constant[columns]
        p_error, q_error = cost.constant_error()
        size = np.abs(p) + np.abs(duals.potentials).sum(axis=0)[rows]
        size = size[:, None] + (np.abs(q) + np.abs(duals.prices).sum(axis=0)[columns]) + np.abs(values) + error
        error += p_error[rows][:, None] + q_error[columns] + 16 * UNIT_64 * size
        return np.where(allowed, values + (p - potentials)[:, None] + (q - prices) - error, np.inf)

    def _columns(self, duals: Duals, correction: Floats) -> _Share:
        constant = self.cost.column_constant
        given, taken = constant + self.prices / self.cost.scale, duals.prices.sum(axis=0) + correction
        size = np.abs(duals.prices).sum(axis=0) + np.abs(correction) + np.abs(constant) + np.abs(given)
        return _Share(given, taken, size, self.cost.constant_error()[1])

    def _at_duals(self, bounds: Floats, own: _Share, other: _Share) -> Floats:
        """Return the finite `bounds`, one for each member of the own side, as bounds on residual costs at some duals.

        Each of the sums in `row_floors` has a few terms: 8 and 16 roundings of the size of these terms are to spare.
        """
        most = float((other.error + 8 * UNIT_64 * other.size + (other.taken - other.given)).max())
        known = np.isfinite(bounds)
        moved = bounds.copy()
        moved[known] = bounds[known] / self.cost.scale + (own.given - own.taken)[known] - most
        size = own.size[known] + np.abs(bounds[known]) / self.cost.scale + abs(most)
        moved[known] -= own.error[known] + 16 * UNIT_64 * size
        return moved


def less_duals(unmatched_cost: float, duals: Floats) -> tuple[Floats, Floats]:
    """Return an unmatched cost minus the duals of each row or column, and the rounding errors."""
    if not np.isfinite(unmatched_cost):
        return np.full(duals.shape[1], np.inf), np.zeros(duals.shape[1])
    return exact_sum(np.full(duals.shape[1], unmatched_cost), *-duals)
