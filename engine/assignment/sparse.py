"""The sparse assignment problem: its optimum through lapx, and prices that prove the optimum."""

from __future__ import annotations

from typing import Any

import lap
import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

_LAPMOD_LIMIT = 1e6  # lapmod takes this number for infinity, in costs and in sums of costs along a path
# Prices are feasible if no edge is below the potential of its row. Within this share of the numbers involved, an edge
# that is below is accepted: equal costs make cycles of cost 0, around which rounding would lower prices for ever.
FEASIBILITY = 1e-15


def solve_sparse(starts: Indices, columns: Indices, costs: Floats, prices: Floats) -> tuple[Indices, Floats]:
    """Return the optimal permutation of a square problem in CSR form, and dual-feasible prices.

    Under feasible prices v, the pair of each row i has the least costs[e] - v[columns[e]] of all its edges e, which
    proves that the permutation is optimal. Good `prices` to start with make the search fast; they do not change the
    optimum.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge. The edges must contain a complete matching.
        costs: the cost of each edge.
        prices: `(n,)`, prices to start with.
    """
    n = len(starts) - 1
    rows = np.repeat(np.arange(n), np.diff(starts))
    # lapmod gets the costs minus prices and row minima, which are never negative, and small for the pairs that matter;
    # times a power of two that keeps the sum over any path below its infinity.
    reduced = costs - prices[columns]
    reduced -= np.minimum.reduceat(reduced, starts[:-1])[rows]
    largest = reduced.max(initial=0.0)
    if largest > 0:
        reduced = np.ldexp(reduced, int(np.floor(np.log2(_LAPMOD_LIMIT / (n + 1)) - np.log2(largest))))
    answer, _ = lap.lapmod(n, reduced, starts.astype(np.int32), columns.astype(np.int32), return_cost=False)
    permutation = answer.astype(np.int64)
    matched = np.nonzero(columns == permutation[rows])[0]
    assert len(matched) == n, "the graph holds a complete matching"
    # If costs differ by many orders of magnitude, lapmod may return a permutation that is slightly above the optimum:
    # `_make_feasible` finds the prices, and repairs the permutation on the way.
    feasible = prices.copy()
    _make_feasible(starts, columns, costs, costs[matched], permutation, feasible)
    return permutation, feasible


@compiled
def _make_feasible(starts: Any, columns: Any, costs: Any, matched: Any, permutation: Any, prices: Any) -> None:
    """Lower prices in place until each row prefers its own column: shortest paths by Bellman, Ford and Moore.

    The potential of row i is u_i = matched[i] - v_perm(i). Wherever an edge (i, j) has c_ij - v_j < u_i, the price v_j
    falls to c_ij - u_i. Then the potential of the row that owns j rises, and that row is visited again, in a queue.

    If the permutation is not optimal, prices would fall for ever around a cycle of exchanges that lowers the cost. A
    row that is visited more than n times has such a cycle behind it: `_exchange` makes the exchanges, in `permutation`
    and `matched` (the cost of each row's pair), and the search resumes.
    """
    n = len(permutation)
    owner = np.empty(n, dtype=np.int64)
    for i in range(n):
        owner[permutation[i]] = i
    # The row that lowered the price of a column last, and the edge by which it did.
    bidder, bid = np.full(n, -1), np.zeros(n, dtype=np.int64)
    # A ring of rows to visit: at first all of them.
    queue, waiting, visits = np.arange(n), np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    head, length = 0, n
    while length > 0:
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        waiting[i] = False
        visits[i] += 1
        # Around a cycle: exchange. If that gains nothing, only rounding is left, and the prices stay as they are.
        if visits[i] > n:
            if not _exchange(i, costs, matched, permutation, owner, bidder, bid):
                return
            visits[:] = 0
        # Lower the price of each column that row i would prefer to its own.
        potential = matched[i] - prices[permutation[i]]
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            wanted = costs[e] - potential
            if wanted < prices[j] - FEASIBILITY * (abs(costs[e]) + abs(potential) + abs(prices[j])):
                prices[j] = wanted
                bidder[j], bid[j] = i, e
                if not waiting[owner[j]]:
                    queue[(head + length) % n] = owner[j]
                    waiting[owner[j]] = True
                    length += 1


@compiled
def _exchange(i: Any, costs: Any, matched: Any, permutation: Any, owner: Any, bidder: Any, bid: Any) -> bool:
    """Give each row of the cycle behind row `i` the column that it bid for; return False if that gains nothing.

    The row that lowered the price of row i's column comes before i on the path that led to i. Going back n times from
    row i leads onto the cycle.
    """
    n = len(permutation)
    # Find a row on the cycle. If a column on the way has no bidder, the path begins there, and there is no cycle.
    for _ in range(n):
        if bidder[permutation[i]] < 0:
            return False
        i = bidder[permutation[i]]
    # Go around the cycle once: what the exchanges gain, and the size of the numbers that are added up.
    gain, size, row = 0.0, 0.0, i
    while True:
        e = bid[permutation[row]]
        row = bidder[permutation[row]]
        gain += matched[row] - costs[e]
        size += abs(matched[row]) + abs(costs[e])
        if row == i:
            break
    if gain <= FEASIBILITY * size:
        return False
    # Go around again, and make the exchanges: each column goes to its bidder, which leaves its own column to the next.
    column = permutation[i]
    while True:
        taker, e = bidder[column], bid[column]
        left = permutation[taker]
        permutation[taker], matched[taker], owner[column] = column, costs[e], taker
        if taker == i:
            return True
        column = left
