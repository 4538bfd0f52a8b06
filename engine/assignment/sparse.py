"""A sparse assignment problem: its optimum through lapx, and prices that prove it."""

from __future__ import annotations

from typing import Any

import lap
import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

_LAPMOD_LIMIT = 1e6  # lapmod takes this for infinity, in costs and in sums of them along a path
SETTLED = 1e-15  # share of the numbers involved by which an edge may undercut its row: ties make cycles of cost zero


def solve_sparse(starts: Indices, columns: Indices, costs: Floats, prices: Floats) -> tuple[Indices, Floats]:
    """The optimal permutation of a square problem in CSR form that has one, and prices under which each of its edges is
    the cheapest of its row.

    Good `prices` make it fast; they change no optimum. lapx sees the costs less prices and row minima, which are never
    negative and small where it matters, times a power of two that keeps the sum over any path below lapmod's infinity.
    What rounding makes it miss, among costs of very different size, is mended while the prices are settled.
    """
    n = len(starts) - 1
    rows = np.repeat(np.arange(n), np.diff(starts))
    reduced = costs - prices[columns]
    reduced -= np.minimum.reduceat(reduced, starts[:-1])[rows]
    largest = reduced.max(initial=0.0)
    if largest > 0:
        reduced = np.ldexp(reduced, int(np.floor(np.log2(_LAPMOD_LIMIT / (n + 1)) - np.log2(largest))))
    found, _ = lap.lapmod(n, reduced, starts.astype(np.int32), columns.astype(np.int32), return_cost=False)
    permutation = found.astype(np.int64)
    matched = np.nonzero(columns == permutation[rows])[0]
    assert len(matched) == n, "the graph holds a complete matching"
    settled = prices.copy()
    _settle(starts, columns, costs, costs[matched], permutation, settled)
    return permutation, settled


@compiled
def _settle(starts: Any, columns: Any, costs: Any, matched: Any, permutation: Any, prices: Any) -> None:
    """Lower v_j to c_ij - u_i wherever a row would rather have j, until no row would.

    A queue of rows whose own price fell (Bellman, Ford and Moore). A row that comes up more than n times lies on a
    cycle of exchanges that lowers the cost: they are made, and the search goes on from there.
    """
    n = len(permutation)
    owner = np.empty(n, dtype=np.int64)
    for i in range(n):
        owner[permutation[i]] = i
    bidder, bid = np.full(n, -1), np.zeros(n, dtype=np.int64)  # who lowered the price of a column last, by which edge
    queue, waiting, visits = np.arange(n), np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    head, length = 0, n
    while length > 0:
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        waiting[i] = False
        visits[i] += 1
        if visits[i] > n:
            if not _exchange(i, costs, matched, permutation, owner, bidder, bid):
                return
            visits[:] = 0
        potential = matched[i] - prices[permutation[i]]
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            wanted = costs[e] - potential
            if wanted < prices[j] - SETTLED * (abs(costs[e]) + abs(potential) + abs(prices[j])):
                prices[j] = wanted
                bidder[j], bid[j] = i, e
                if not waiting[owner[j]]:
                    queue[(head + length) % n] = owner[j]
                    waiting[owner[j]] = True
                    length += 1


@compiled
def _exchange(i: Any, costs: Any, matched: Any, permutation: Any, owner: Any, bidder: Any, bid: Any) -> bool:
    """Give every row of the cycle that bids led to from row `i` the column it bid for; False if that gains nothing."""
    n = len(permutation)
    for _ in range(n):  # whoever bid for this row's column, and so on: after n steps on the cycle itself
        if bidder[permutation[i]] < 0:
            return False
        i = bidder[permutation[i]]
    gain, size, at = 0.0, 0.0, i
    while True:
        e = bid[permutation[at]]
        at = bidder[permutation[at]]
        gain += matched[at] - costs[e]
        size += abs(matched[at]) + abs(costs[e])
        if at == i:
            break
    if gain <= SETTLED * size:
        return False
    column = permutation[i]
    while True:
        taker, e = bidder[column], bid[column]
        left = permutation[taker]
        permutation[taker], matched[taker], owner[column] = column, costs[e], taker
        if taker == i:
            return True
        column = left
