"""Prices under which each row of a sparse problem prefers its own column, from prices that are nearly such."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.assignment.edges import Columns
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

# Prices are feasible if no edge is below the potential of its row. Within this share of the numbers involved, an edge
# that is below is accepted: equal costs make cycles of cost 0, around which rounding would lower prices for ever.
FEASIBILITY = 1e-15


@compiled
def is_below(cost: Any, potential: Any, price: Any) -> Any:
    """Return whether an edge is below the potential of its row by more than rounding."""
    return cost - potential < price - FEASIBILITY * (abs(cost) + abs(potential) + abs(price))


@compiled
def release(
    starts: Any, columns: Any, costs: Any, permutation: Any, owner: Any, paid: Any, prices: Any, potentials: Any
) -> int:
    """Release rows that prefer another column, and return their number: their entries of `permutation` become -1.

    Fill `potentials` with the least reduced cost of each row, and `owner` and `paid` (the cost of each row's pair) for
    the rows that keep their column. `owner` is -1 at first.
    """
    released = 0
    for i in range(len(permutation)):
        own, least, potential = permutation[i], np.inf, np.inf
        for e in range(starts[i], starts[i + 1]):
            reduced = costs[e] - prices[columns[e]]
            least = min(least, reduced)
            if columns[e] == own:
                paid[i], potential = costs[e], reduced
        potentials[i] = least
        if own >= 0:
            owner[own] = i
            for e in range(starts[i], starts[i + 1]):
                if is_below(costs[e], potential, prices[columns[e]]):
                    permutation[i], owner[own] = -1, -1
                    released += 1
                    break
    return released


def make_feasible(
    starts: Indices, columns: Columns, costs: Floats, permutation: Indices, owner: Indices, paid: Floats, prices: Floats
) -> None:
    """Lower prices in place until each row prefers its own column: shortest paths by Bellman, Ford and Moore.

    Rounding leaves some edges slightly below the potential u_i = paid[i] - v_perm(i) of their row, and if costs differ
    by many orders of magnitude, it may leave the permutation slightly above the optimum. Wherever an edge (i, j) has
    c_ij - v_j < u_i, the price v_j falls to c_ij - u_i. Then the potential of the row that owns j rises, and that row
    is visited again, in a queue.

    If the permutation is not optimal, prices would fall for ever around a cycle of exchanges that lowers the cost. A
    row that is visited more than n times has such a cycle behind it: `_exchange` makes the exchanges, in `permutation`,
    `owner` and `paid` (the cost of each row's pair), and the search begins anew. If they gain nothing, only rounding is
    left, and the prices stay as they are.
    """
    n = len(permutation)
    while True:
        # Loops get their memory from here, because every function of numpy takes long to compile.
        bidder, bid, visits = np.full(n, -1), np.full(n, -1), np.zeros(n, dtype=np.int64)
        queue, waiting = np.arange(n), np.ones(n, dtype=np.bool_)
        given = starts, columns, costs, permutation, owner, paid, prices
        row = _lower_prices(*given, bidder, bid, visits, queue, waiting)
        if row < 0 or not _exchange(row, costs, paid, permutation, owner, bidder, bid):
            break


@compiled
def _lower_prices(
    starts: Any,
    columns: Any,
    costs: Any,
    permutation: Any,
    owner: Any,
    paid: Any,
    prices: Any,
    bidder: Any,
    bid: Any,
    visits: Any,
    queue: Any,
    waiting: Any,
) -> Any:
    """Lower prices until each row prefers its own column, and return -1, or a row with a cycle behind it.

    `bidder` is the row that lowered the price of a column last, and `bid` the edge by which it did. `queue` is a ring
    of rows to visit, at first all of them; `waiting` are those in it, and `visits` counts the visits of each row.
    """
    n, head, length = len(permutation), 0, len(permutation)
    while length > 0:
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        waiting[i] = False
        visits[i] += 1
        if visits[i] > n:
            return i
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
    return -1


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
