"""The graph of candidate pairs with their exact costs, and the optimum among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saematch.assignment.auction import auction, scaled_auction
from saematch.assignment.edges import edges_of_pairs, least_of_rows, merge, missing_pairs, row_minima
from saematch.assignment.feasible import FEASIBILITY
from saematch.assignment.sparse import repaired, solve_sparse
from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import Floats, Indices, at_least

LONG_LIST = 256  # pairs of a row that a pass lists if a short list leaves the proof of the row open
MANY = 1 / 32  # of all rows


class RowMinima(NamedTuple):
    """The minima of the reduced costs of each row over the edges of a graph, at some prices.

    `minima (F_A,)` is min_j M_ij - v_j over the edges of each row, inf for a row without edges. `others (F_A,)` is a
    lower bound, which no rounding can break, for the minimum over all edges but the pair of the matching. `undercut` is
    the most by which an edge is below the potential of its row, and 0.0 if that is no more than rounding.
    """

    minima: Floats
    others: Floats
    undercut: float


class CandidateGraph:
    """Candidate pairs (i, j), sorted by row and column, each with its float64 cost M; and all unmatched costs.

    The graph always holds a matching that the problem allows, so that an optimum exists.

    Attributes:
        shape: (F_A, F_B).
        starts: `(F_A + 1,)`, the first edge of each row, and the number of edges.
        costs: M of each edge.
    """

    def __init__(self, cost: Cost, unmatched: Unmatched, permutation: Indices) -> None:
        self._cost, self._unmatched = cost, unmatched
        self.shape = cost.shape
        self.starts = np.zeros(cost.shape[0] + 1, dtype=np.int64)
        self._columns = np.empty(0, dtype=np.int32)
        self.costs, self._errors = np.empty(0), np.empty(0)  # of the edges
        self._no_error = np.zeros(cost.shape[1])  # of prices
        # How many rows new edges may break for an auction of both sides: half as many as the time before, and none once
        # an auction of rows was better.
        self._most_released = cost.shape[0]
        matched = np.nonzero(permutation >= 0)[0]
        self.add(matched, permutation[matched])

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def rows(self) -> Indices:
        """The row of each edge."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.starts))

    @property
    def columns(self) -> Indices:
        """The column of each edge."""
        return self._columns.astype(np.int64)

    def add(self, rows: Indices, columns: Indices) -> None:
        """Add edges. Edges that the graph has already, and forbidden pairs, whose cost is inf, are skipped."""
        self._merge(*self._missing(rows, columns))

    def _missing(self, rows: Indices, columns: Indices) -> tuple[Indices, Indices, Floats]:
        """Return those pairs that may become edges and are none yet, in order, and their costs."""
        rows, columns = missing_pairs(self.starts, self._columns, rows, columns, self.shape[1])
        self._cost.exact_pairs += len(rows)
        costs = self._cost.below_ceiling(self._cost.exact(rows, columns))
        allowed = np.isfinite(costs)
        return rows[allowed], columns[allowed], costs[allowed]

    def _merge(self, rows: Indices, columns: Indices, costs: Floats) -> None:
        """Add edges, which are new and in order."""
        if not len(rows):
            return
        new = columns.astype(np.int32), costs, self._cost.exact_error(rows, columns, self._no_error)
        after = self.starts + np.searchsorted(rows, np.arange(len(self.starts)))
        count = len(self) + len(rows)
        merged = np.empty(count, dtype=np.int32), np.empty(count), np.empty(count)
        merge(self.starts, (self._columns, self.costs, self._errors), rows, new, after, merged)
        self.starts, (self._columns, self.costs, self._errors) = after, merged

    def potentials(self, permutation: Indices, prices: Floats) -> tuple[Floats, Floats]:
        """Return the potential u of each row under a matching of the graph, and a bound on its rounding error.

        The potential is M_i,perm(i) - v_perm(i) for a matched row, and the unmatched cost for another.
        """
        rows = np.nonzero(permutation >= 0)[0]
        columns = permutation[rows]
        edges = np.empty(len(rows), dtype=np.int64)
        edges_of_pairs(self.starts, self._columns, rows, columns, edges)
        potentials, rounding = self._unmatched.rows.copy(), self._unmatched.row_error.copy()
        potentials[rows] = self.costs[edges] - prices[columns]
        rounding[rows] = self._errors[edges] + self._unmatched.bound_price_error(prices)[columns]
        return potentials, rounding

    def row_minima(self, permutation: Indices, prices: Floats, potentials: Floats, rounding: Floats) -> RowMinima:
        """Return the minima at some prices. `potentials` and `rounding` are the answer of the method `potentials`."""
        minima, others = np.empty((2, self.shape[0]))
        undercut = row_minima(
            self.starts,
            self._columns,
            self.costs,
            self._errors,
            permutation,
            prices,
            self._unmatched.bound_price_error(prices),
            potentials,
            rounding,
            2 * FEASIBILITY,
            minima,
            others,
        )
        return RowMinima(minima, others, undercut)

    def settle_row_minima(
        self, permutation: Indices, prices: Floats, potentials: Floats, rounding: Floats, wanted: Floats, rest: Floats
    ) -> RowMinima:
        """Return `row_minima` after adding the pairs of those rows whose short lists leave the proof open.

        A row is open if all entries of its list may be below the minimum of the row, because pairs that did not fit
        into the list may be as cheap. Once no edge is below the potential of its row, another pass lists up to
        `LONG_LIST` pairs of each open row, of which those below the potential become edges. If many rows are still
        open, with more pairs than that within the error of the pass, costs differ too little for int8: float32 passes
        take over. Rows that are open in the end are compared with all columns in float64.

        Args:
            permutation: a matching of the graph.
            prices: the column prices v.
            potentials: the potentials of the rows.
            rounding: the rounding errors of the potentials.
            wanted: `(F_A,)`, the bound that each row needs at most.
            rest: `(F_A,)`, a lower bound for M_ij - v_j over the pairs of each row that are not edges. It is updated.
        """
        result = self.row_minima(permutation, prices, potentials, rounding)
        needed = np.minimum(np.minimum(result.others, potentials - rounding), wanted)
        doubtful = np.nonzero(rest < needed)[0]
        if result.undercut > 0 or not len(doubtful):
            return result
        price_error = self._unmatched.bound_price_error(prices)
        doubtful = doubtful[self._look(doubtful, prices, potentials, wanted, rest) < needed[doubtful]]
        if len(doubtful) > MANY * len(rest) and self._cost.sharpen():
            doubtful = doubtful[self._look(doubtful, prices, potentials, wanted, rest) < needed[doubtful]]
        if len(doubtful):
            cheapest, rest[doubtful] = self._cost.row_minima(doubtful, prices, price_error)
            self.add(doubtful, cheapest)
        return self.row_minima(permutation, prices, potentials, rounding)

    def _look(self, rows: Indices, prices: Floats, potentials: Floats, wanted: Floats, rest: Floats) -> Floats:
        """List many pairs of the listed rows, add those below the potential of their row, and update `rest`.

        Returns a lower bound for M_ij - v_j over the pairs of each row that did not fit into its list, `(R,)`.
        """
        price_error = self._unmatched.bound_price_error(prices)
        scan = self._cost.scan(rows, prices, price_error, wanted, LONG_LIST, ceiling=None)
        of_rows, of_columns, costs = self._missing(*scan.row_pairs())
        reduced = costs - prices[of_columns]
        below = reduced < potentials[of_rows]
        self._merge(of_rows[below], of_columns[below], costs[below])
        # The bound for all pairs that are no edges: of those that were not listed, and of those that were.
        rest[rows] = scan.floors[:, -1]
        listed = at_least(reduced, self._cost.exact_error(of_rows, of_columns, price_error))
        np.minimum.at(rest, of_rows[~below], listed[~below])
        return scan.floors[:, -1]

    def optimum(self, prices: Floats, price_error: float, permutation: Indices | None = None) -> tuple[Indices, Floats]:
        """Return the optimal matching of the graph, -1 for an unmatched row, and prices that prove it.

        The search starts at `prices`, whose estimated error is `price_error`, in the units of M. They prove that
        `permutation`, if it is given, was optimal before edges were added: then only features bid whose pairs the new
        edges break, and those that they displace.
        """
        if not self._unmatched.none_allowed:
            return self.optimum_of(self.costs, self._unmatched.rows, self._unmatched.columns, prices=prices)
        graph = self.starts, self._columns, self.costs
        if permutation is not None:
            again = repaired(*graph, permutation, prices)
            if again is not None:
                return again
        if self._most_released > 0:
            start = np.full(self.shape[0], -1) if permutation is None else permutation
            answer = auction(*graph, start, prices, self._most_released)
            if answer is not None:
                near, found, released = answer
                self._most_released = released // 2 or self._most_released
                return solve_sparse(*graph, found, near)
            self._most_released = 0
        return solve_sparse(*graph, scaled_auction(*graph, prices, price_error))

    def optimum_of(
        self, costs: Floats, row_costs: Floats, column_costs: Floats, *, prices: Floats
    ) -> tuple[Indices, Floats]:
        """Return the optimum of the graph, and its prices, for other costs of the edges and other unmatched costs.

        A problem in which features may be unmatched is solved as a complete one of F_A + F_B rows and columns:

        - row i gets a column of its own, which it takes at its unmatched cost;
        - column j gets a row of its own, which takes it at its unmatched cost;
        - if i and j are matched, their own column and row are left over. They may be matched at cost 0 if (i, j) is an
          edge.

        Let v_j be the price of column j, and w_j the potential of its own row. The price of column j in the original
        problem is v_j + w_j, and so is the potential of a row the sum of its own and the price of its own column. There
        is no auction first: among so many edges of cost 0 it takes longer than it saves. If there are more rows than
        columns, both sides change places, and the search starts with all rows unmatched: this is faster.
        """
        if self._unmatched.none_allowed:
            return solve_sparse(self.starts, self._columns, costs, prices)
        if self.shape[0] <= self.shape[1]:
            permutation, _, found = _doubled_optimum(self.rows, self.columns, costs, row_costs, column_costs, prices)
        else:
            takers, found, _ = _doubled_optimum(self.columns, self.rows, costs, column_costs, row_costs, row_costs)
            permutation = np.full(self.shape[0], -1)
            permutation[takers[takers >= 0]] = np.nonzero(takers >= 0)[0]
        return permutation, np.minimum(found, column_costs)


def _doubled_optimum(
    rows: Indices, columns: Indices, costs: Floats, row_costs: Floats, column_costs: Floats, prices: Floats
) -> tuple[Indices, Floats, Floats]:
    """Return the optimal matching of the listed pairs, potentials of the rows and prices of the columns.

    The doubled problem has the edges of the listed pairs, of rows and columns with their own partner, and of these own
    partners with each other.
    """
    F_A, F_B = len(row_costs), len(column_costs)
    may_rows, may_columns = (np.nonzero(np.isfinite(values))[0] for values in (row_costs, column_costs))
    edge_rows = np.concatenate([rows, may_rows, F_A + may_columns, F_A + columns])
    edge_columns = np.concatenate([columns, F_B + may_rows, may_columns, F_B + rows])
    costs = np.concatenate([costs, row_costs[may_rows], column_costs[may_columns], np.zeros(len(rows))])
    # In CSR form: sorted by row, then by column.
    order = np.lexsort((edge_columns, edge_rows))
    edge_columns, costs = edge_columns[order].astype(np.int32), costs[order]
    starts = np.searchsorted(edge_rows[order], np.arange(F_A + F_B + 1))
    # The matching and the prices of the doubled problem, and from them those of the original one.
    doubled, feasible = solve_sparse(starts, edge_columns, costs, np.concatenate([prices, np.zeros(F_A)]))
    potentials = least_of_rows(costs - feasible[edge_columns], starts)
    permutation = np.where(doubled[:F_A] < F_B, doubled[:F_A], -1)
    return permutation, potentials[:F_A] + feasible[F_B:], feasible[:F_B] + potentials[F_A:]
