"""Prices under which each row of a sparse problem prefers its own column, from prices that are nearly such."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled

# Prices are feasible if no edge is below the potential of its row. Within this share of the numbers involved, an edge
# that is below is accepted: equal costs make cycles of cost 0, around which rounding would lower prices for ever.
FEASIBILITY = 1e-15


@compiled
def is_below(cost: Any, potential: Any, price: Any) -> Any:
    """Return whether an edge is below the potential of its row by more than rounding."""
    return cost - potential < price - FEASIBILITY * (abs(cost) + abs(potential) + abs(price))


@compiled
def make_feasible(starts: Any, columns: Any, costs: Any, permutation: Any, owner: Any, paid: Any, prices: Any) -> None:
    """Lower prices in place until each row prefers its own column: shortest paths by Bellman, Ford and Moore.

    Rounding leaves some edges slightly below the potential u_i = paid[i] - v_perm(i) of their row, and if costs differ
    by many orders of magnitude, it may leave the permutation slightly above the optimum. Wherever an edge (i, j) has
    c_ij - v_j < u_i, the price v_j falls to c_ij - u_i. Then the potential of the row that owns j rises, and that row
    is visited again, in a queue.

    If the permutation is not optimal, prices would fall for ever around a cycle of exchanges that lowers the cost. A
    row that is visited more than n times has such a cycle behind it: `_exchange` makes the exchanges, in `permutation`,
    `owner` and `paid` (the cost of each row's pair), and the search resumes.
    """
    n = len(permutation)
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
            if not _exchange(i, costs, paid, permutation, owner, bidder, bid):
                return
            visits[:] = 0
        # Lower the price of each column that row i would prefer to its own.
        potential = paid[i] - prices[permutation[i]]
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            if is_below(costs[e], potential, prices[j]):
                prices[j] = costs[e] - potential
                bidder[j], bid[j] = i, e
                if not waiting[owner[j]]:
                    queue[(head + length) % n] = owner[j]
                    waiting[owner[j]] = True
                    length += 1


@compiled
def _exchange(i: Any, costs: Any, paid: Any, permutation: Any, owner: Any, bidder: Any, bid: Any) -> bool:
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
        gain += paid[row] - costs[e]
        size += abs(paid[row]) + abs(costs[e])
        if row == i:
            break
    if gain <= FEASIBILITY * size:
        return False
    # Go around again, and make the exchanges: each column goes to its bidder, which leaves its own column to the next.
    column = permutation[i]
    while True:
        taker, e = bidder[column], bid[column]
        left = permutation[taker]
        permutation[taker], paid[taker], owner[column] = column, costs[e], taker
        if taker == i:
            return True
        column = left
