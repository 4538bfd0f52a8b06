"""The pairs under consideration, with their exact costs, and the optimum among them."""

from __future__ import annotations

import numpy as np

from saematch.assignment.auction import auction
from saematch.assignment.sparse import SETTLED, solve_sparse
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import Floats, Indices, at_least


class CandidateGraph:
    """Edges (i, j) sorted by row and column, each with its float64 cost M, and what staying free costs.

    It always holds a matching that is allowed, so that it can be solved.
    """

    def __init__(self, cost: Cost, unmatched: Unmatched, permutation: Indices) -> None:
        self._cost, self._unmatched = cost, unmatched
        self.shape = cost.shape
        self._keys = np.empty(0, dtype=np.int64)
        self.costs = np.empty(0)
        matched = np.nonzero(permutation >= 0)[0]
        self.add(matched, permutation[matched])

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rows(self) -> Indices:
        """The i of every edge."""
        return self._keys // self.shape[1]

    @property
    def columns(self) -> Indices:
        """The j of every edge."""
        return self._keys % self.shape[1]

    @property
    def starts(self) -> Indices:
        """Where each row's edges begin, and the end: `(F_A + 1,)`."""
        return np.searchsorted(self._keys, np.arange(self.shape[0] + 1) * self.shape[1])

    def add(self, rows: Indices, columns: Indices) -> None:
        """Add edges; those already there are left alone, and forbidden pairs, whose cost is infinite, left out."""
        new = np.sort(rows * self.shape[1] + columns)
        new = new[np.append(True, new[1:] != new[:-1])] if len(new) else new
        new = new[np.append(self._keys, -1)[np.searchsorted(self._keys, new)] != new]
        new_costs = self._cost.below_ceiling(self._cost.exact(new // self.shape[1], new % self.shape[1]))
        allowed = np.isfinite(new_costs)
        keys = np.concatenate([self._keys, new[allowed]])
        costs = np.concatenate([self.costs, new_costs[allowed]])
        order = np.argsort(keys, kind="stable")
        self._keys, self.costs = keys[order], costs[order]

    def find(self, rows: Indices, columns: Indices) -> Floats:
        """M of the listed edges, all of which must be in the graph."""
        return self.costs[np.searchsorted(self._keys, rows * self.shape[1] + columns)]

    def potentials(self, permutation: Indices, prices: Floats) -> tuple[Floats, Floats]:
        """What each row has under a matching of the graph, M_i,perm(i) - v_perm(i) or staying free; its rounding."""
        rows = np.nonzero(permutation >= 0)[0]
        columns = permutation[rows]
        potentials, rounding = self._unmatched.rows.copy(), self._unmatched.row_error.copy()
        potentials[rows] = self.find(rows, columns) - prices[columns]
        rounding[rows] = self._cost.exact_error(rows, columns, self._unmatched.bound_price_error(prices))
        return potentials, rounding

    def price(
        self, permutation: Indices, prices: Floats, potentials: Floats, rounding: Floats
    ) -> tuple[Floats, Floats, float]:
        """What the edges offer at these prices: each row's least, a lower bound for the others, and what can be gained.

        min_j M_ij - v_j over the edges of each row, infinite without any; the same over all but the partner of the row,
        covering rounding; and how far an edge undercuts its row's potential, 0.0 where it is no more than rounding and
        what settled prices leave.
        """
        starts, rows, columns = self.starts, self.rows, self.columns
        reduced = self.costs - prices[columns]
        error = self._cost.exact_error(rows, columns, self._unmatched.bound_price_error(prices))
        value = least_of_rows(reduced, starts)
        others = least_of_rows(np.where(permutation[rows] == columns, np.inf, at_least(reduced, error)), starts)
        left = 2 * SETTLED * (np.abs(self.costs) + np.abs(potentials)[rows] + np.abs(prices)[columns])
        undercut = potentials[rows] - reduced
        undercut[undercut <= error + rounding[rows] + left] = 0.0
        return value, others, float(undercut.max(initial=0.0))

    def settle(
        self, permutation: Indices, prices: Floats, potentials: Floats, rounding: Floats, wanted: Floats, rest: Floats
    ) -> tuple[Floats, Floats, float]:
        """`price`, where `rest (F_A,)` bounds M_ij - v_j over the pairs of each row that are no edges.

        A list that is full within rounding of its row's minimum proves nothing about the pairs it had no place for.
        Once no edge shows a gain, rows that `rest` leaves open below `wanted` are priced in float64; it is updated.
        """
        minima, others, gain = self.price(permutation, prices, potentials, rounding)
        doubtful = np.nonzero(rest < np.minimum(np.minimum(others, potentials - rounding), wanted))[0]
        if gain == 0 and len(doubtful):
            price_error = self._unmatched.bound_price_error(prices)
            cheapest, rest[doubtful] = self._cost.row_minima(doubtful, prices, price_error)
            self.add(doubtful, cheapest)
            minima, others, gain = self.price(permutation, prices, potentials, rounding)
        return minima, others, gain

    def optimum(self, prices: Floats, off: float) -> tuple[Indices, Floats]:
        """The optimal matching of the graph, -1 where a row stays free, and prices that prove it.

        `prices` to begin with are about `off` away from such ones.
        """
        if self._unmatched.none_allowed:
            prices = auction(self.starts, self.columns, self.costs, prices, off)
        return self.optimum_of(self.costs, self._unmatched.rows, self._unmatched.columns, prices=prices)

    def optimum_of(
        self, costs: Floats, unmatched_rows: Floats, unmatched_columns: Floats, *, prices: Floats
    ) -> tuple[Indices, Floats]:
        """Return the optimum of the graph, and its prices, for other costs of its edges and of staying free.

        A problem in which a feature may stay free is solved as one of F_A + F_B rows and columns: each row gets a
        column of its own to stay free on, each column a row, and these meet at no cost where row and column of an edge
        do. The prices of column j and of its row add up to the price of j. No auction goes before: among so many edges
        of no cost it takes longer than it saves.
        """
        if self._unmatched.none_allowed:
            return solve_sparse(self.starts, self.columns, costs, prices)
        F_A, F_B = self.shape
        rows, columns = self.rows, self.columns
        may_rows, may_columns = (np.nonzero(np.isfinite(each))[0] for each in (unmatched_rows, unmatched_columns))
        edge_rows = np.concatenate([rows, may_rows, F_A + may_columns, F_A + columns])
        edge_columns = np.concatenate([columns, F_B + may_rows, may_columns, F_B + rows])
        costs = np.concatenate([costs, unmatched_rows[may_rows], unmatched_columns[may_columns], np.zeros(len(rows))])
        order = np.lexsort((edge_columns, edge_rows))
        edge_columns, costs = edge_columns[order], costs[order]
        starts = np.searchsorted(edge_rows[order], np.arange(F_A + F_B + 1))
        doubled, settled = solve_sparse(starts, edge_columns, costs, np.concatenate([prices, np.zeros(F_A)]))
        potentials = np.minimum.reduceat(costs - settled[edge_columns], starts[:-1])
        permutation = np.where(doubled[:F_A] < F_B, doubled[:F_A], -1)
        return permutation, np.minimum(settled[:F_B] + potentials[F_A:], unmatched_columns)


def least_of_rows(values: Floats, starts: Indices) -> Floats:
    """The least of the values of each row's edges, infinite for a row without any."""
    least = np.full(len(starts) - 1, np.inf)
    some = np.nonzero(np.diff(starts))[0]
    if len(some):
        least[some] = np.minimum.reduceat(values, starts[some])
    return least
