"""The sparse problem: the pairs under consideration, its optimum through lapx, and prices that prove it."""

from __future__ import annotations

from typing import Any

import lap
import numpy as np

from saematch.compiled import compiled
from saematch.cost import Floats, Indices, PairCost

_LAPMOD_LIMIT = 2.0**19  # lapmod takes costs below 1e6


class CandidateGraph:
    """Edges (i, j) sorted by row and column, each with its float64 cost M, of a square problem with `n` rows.

    It always holds a complete matching, so that the sparse problem can be solved.
    """

    def __init__(self, cost: PairCost, permutation: Indices) -> None:
        self._cost = cost
        self.n = len(permutation)
        self._keys = np.empty(0, dtype=np.int64)
        self.costs = np.empty(0)
        self.add(np.arange(self.n), permutation)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rows(self) -> Indices:
        """I of every edge."""
        return self._keys // self.n

    @property
    def columns(self) -> Indices:
        """J of every edge."""
        return self._keys % self.n

    @property
    def starts(self) -> Indices:
        """Where each row's edges begin, and the end: `(n + 1,)`."""
        return np.searchsorted(self._keys, np.arange(self.n + 1) * self.n)

    def add(self, rows: Indices, columns: Indices) -> None:
        """Add edges; those already there are left alone."""
        new = np.sort(rows * self.n + columns)
        new = new[np.append(True, new[1:] != new[:-1])] if len(new) else new
        place = np.searchsorted(self._keys, new)
        new = new[np.append(self._keys, -1)[place] != new]
        keys = np.concatenate([self._keys, new])
        costs = np.concatenate([self.costs, self._cost.exact(new // self.n, new % self.n)])
        order = np.argsort(keys, kind="stable")
        self._keys, self.costs = keys[order], costs[order]

    def find(self, rows: Indices, columns: Indices) -> Floats:
        """M of the listed edges, all of which must be in the graph."""
        return self.costs[np.searchsorted(self._keys, rows * self.n + columns)]

    def column_minima(self) -> Floats:
        """min_i M_ij over the edges: prices to start from, of the size of the costs at hand. Needs an edge a column."""
        order = np.argsort(self.columns, kind="stable")
        starts = np.searchsorted(self.columns[order], np.arange(self.n))
        return np.minimum.reduceat(self.costs[order], starts)

    def minima(self, prices: Floats) -> tuple[Floats, Floats]:
        """min_j M_ij - v_j over the edges of each row, and a lower bound for it that covers its rounding."""
        columns = self.columns
        reduced = self.costs - prices[columns]
        starts = self.starts[:-1]
        error = self._cost.exact_error(self.rows, columns, prices)
        return np.minimum.reduceat(reduced, starts), np.minimum.reduceat(reduced - error, starts)

    def solve(self, prices: Floats) -> Indices:
        """The optimal permutation of the graph. Good `prices` make it fast; they change no optimum.

        lapx sees M_ij - u_i - v_j, which is never negative and small where it matters, scaled below lapmod's limit by a
        power of two.
        """
        starts, columns = self.starts, self.columns
        reduced = self.costs - prices[columns]
        reduced -= np.repeat(np.minimum.reduceat(reduced, starts[:-1]), np.diff(starts))
        largest = reduced.max(initial=0.0)
        if largest > 0:
            reduced *= 2.0 ** np.floor(np.log2(_LAPMOD_LIMIT / largest))
        total, permutation, _ = lap.lapmod(self.n, reduced, starts.astype(np.int32), columns.astype(np.int32))
        assert np.isfinite(total), "the graph holds a complete matching"
        return permutation.astype(np.int64)

    def settle(self, permutation: Indices, prices: Floats) -> Floats:
        """Prices, lowered from those at hand, under which every edge of an optimal `permutation` is its row's cheapest.

        Where rounding made `permutation` miss the optimum, the prices that come back lead the next `solve` there.
        """
        settled = prices.copy()
        matched = self.find(np.arange(self.n), permutation)
        _lower_prices(self.starts, self.columns, self.costs, matched, permutation, settled)
        return settled


@compiled
def _lower_prices(starts: Any, columns: Any, costs: Any, matched: Any, permutation: Any, prices: Any) -> None:
    """Lower v_j to M_ij - u_i wherever a row would rather have j, until no row would.

    A queue of rows whose own price fell (Bellman, Ford and Moore). A row that comes up more than n times lies on a
    cycle of exchanges that lowers the cost: the permutation is not optimal.
    """
    n = len(permutation)
    owner = np.empty(n, dtype=np.int64)
    for i in range(n):
        owner[permutation[i]] = i
    queue, waiting, visits = np.arange(n), np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    head, length = 0, n
    while length > 0:
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        waiting[i] = False
        visits[i] += 1
        if visits[i] > n:
            return
        potential = matched[i] - prices[permutation[i]]
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            wanted = costs[e] - potential
            # Ties form cycles of cost zero, around which rounding alone would turn for ever.
            if wanted < prices[j] - 1e-15 * (abs(costs[e]) + abs(potential) + abs(prices[j])):
                prices[j] = wanted
                if not waiting[owner[j]]:
                    queue[(head + length) % n] = owner[j]
                    waiting[owner[j]] = True
                    length += 1
