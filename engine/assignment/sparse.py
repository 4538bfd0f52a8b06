"""The sparse assignment problem: its optimum, and prices that prove the optimum.

Most rows are assigned by prices, and the others along shortest augmenting paths: by loops of this module if paths are
short, as they are after an auction and for a few new edges, and else by lapx.

Source: Jonker and Volgenant, *A shortest augmenting path algorithm for dense and sparse linear assignment problems*
(1987).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray

from saematch.assignment.edges import Columns, least_of_rows
from saematch.assignment.feasible import make_feasible, release
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

_LONGEST_CHAIN = 64  # of rows that take each other's columns before the search for shortest paths
_MOST_REPAIRED = 64  # rows: paths are long where many rows compete
_LAPMOD_LIMIT = 1e6  # lapmod takes this number for infinity, in costs and in sums of costs along a path


def solve_sparse(
    starts: Indices, columns: Columns, costs: Floats, prices: Floats, permutation: Indices | None = None
) -> tuple[Indices, Floats]:
    """Return the optimal permutation of a square problem in CSR form, and dual-feasible prices.

    Under feasible prices v, the pair of each row i has the least costs[e] - v[columns[e]] of all its edges e, which
    proves that the permutation is optimal. Good `prices` to start with, and a matching, make the search fast; they do
    not change the optimum. Rows that have no column, or prefer another one to theirs, are assigned again.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge. The edges must contain a complete matching.
        costs: the cost of each edge.
        prices: `(n,)`, prices to start with.
        permutation: a matching of the graph to start with, -1 for a row without a column.
    """
    n = len(starts) - 1
    permutation = np.full(n, -1) if permutation is None else permutation.copy()
    owner, paid, feasible = np.full(n, -1), np.zeros(n), prices.copy()
    given = starts, columns, costs, permutation, owner, paid, feasible
    release(*given, np.empty(n))
    _reduce_prices(*given, _LONGEST_CHAIN)
    # After good prices, few rows are left, with short paths. If paths are long, lapmod finishes sooner.
    if not _augment(*given, n, *_search_memory(n)):
        rows = np.repeat(np.arange(n), np.diff(starts))
        permutation = _by_lapmod(starts, rows, columns, costs, feasible)
        pairs = np.nonzero(columns == permutation[rows])[0]
        assert len(pairs) == n, "the graph holds a complete matching"
        owner[permutation], paid = np.arange(n), costs[pairs]
    # If costs differ by many orders of magnitude, lapmod may return a permutation that is slightly above the optimum:
    # `make_feasible` finds the prices, and repairs the permutation on the way.
    make_feasible(starts, columns, costs, permutation, owner, paid, feasible)
    return permutation, feasible


def _by_lapmod(starts: Indices, rows: Indices, columns: Columns, costs: Floats, prices: Floats) -> Indices:
    """Return the optimal permutation by lapx.

    It gets the costs minus prices and row minima, which are never negative, and small for the pairs that matter; times
    a power of two that keeps the sum over any path below what lapx takes for infinity.
    """
    n = len(starts) - 1
    reduced = costs - prices[columns]
    reduced -= least_of_rows(reduced, starts)[rows]
    largest = reduced.max(initial=0.0)
    if largest > 0:
        reduced = np.ldexp(reduced, int(np.floor(np.log2(_LAPMOD_LIMIT / (n + 1)) - np.log2(largest))))
    columns_32 = columns.astype(np.int32, copy=False)
    answer, _ = lap.lapmod(n, reduced, starts.astype(np.int32), columns_32, return_cost=False)
    permutation: Indices = answer.astype(np.int64)
    return permutation


def repaired(
    starts: Indices, columns: Columns, costs: Floats, permutation: Indices, prices: Floats
) -> tuple[Indices, Floats] | None:
    """Return the optimum and its prices, as `solve_sparse`, from the optimum of a graph that had fewer edges.

    Only rows that have an edge below their potential are assigned again. Return None if that may take longer than to
    solve the problem anew: for many such rows, and if paths lead through more than n rows in sum.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge. The edges must contain those of `permutation`.
        costs: the cost of each edge.
        permutation: the optimum of the graph with fewer edges.
        prices: the prices that prove it.
    """
    n = len(permutation)
    permutation, owner, paid, feasible = permutation.copy(), np.full(n, -1), np.zeros(n), prices.copy()
    given = starts, columns, costs, permutation, owner, paid, feasible
    if release(*given, np.empty(n)) > _MOST_REPAIRED or not _augment(*given, n, *_search_memory(n)):
        return None
    make_feasible(*given)
    return permutation, feasible


def _search_memory(n: int) -> tuple[NDArray[Any], ...]:
    """Return `distance`, `final`, `bidder`, `bid` and `reached` of `_shortest_path`, before the first search."""
    # Loops get their memory from here, because every function of numpy takes long to compile.
    return np.full(n, np.inf), np.zeros(n, dtype=np.bool_), *np.full((3, n), -1)


@compiled
def _reduce_prices(
    starts: Any, columns: Any, costs: Any, permutation: Any, owner: Any, paid: Any, prices: Any, most: int
) -> None:
    """Assign most of the unassigned rows: Jonker and Volgenant's augmenting row reduction.

    A row takes its cheapest column at the present prices, whose price falls until the second cheapest column is as
    good. So no row prefers another column to its own. The row that had the column before comes next, and so on, `most`
    times at most: rows may compete for the same columns by tiny amounts for very long. A row is left unassigned if no
    price can fall and both columns are taken.
    """
    for first in range(len(permutation)):
        i = first
        for _ in range(most):
            if i < 0 or permutation[i] >= 0:
                break
            best, second, edge, other = np.inf, np.inf, -1, -1
            for e in range(starts[i], starts[i + 1]):
                value = costs[e] - prices[columns[e]]
                if value < best:
                    best, second, edge, other = value, best, e, edge
                elif value < second:
                    second, other = value, e
            if not best < second < np.inf and owner[columns[edge]] >= 0:
                if other < 0 or best < second or owner[columns[other]] >= 0:
                    break
                edge = other
            j = columns[edge]
            if best < second < np.inf:
                prices[j] -= second - best
            before = owner[j]
            if before >= 0:
                permutation[before] = -1
            permutation[i], owner[j], paid[i] = j, i, costs[edge]
            i = before


@compiled
def _augment(
    starts: Any,
    columns: Any,
    costs: Any,
    permutation: Any,
    owner: Any,
    paid: Any,
    prices: Any,
    most: int,
    distance: Any,
    final: Any,
    bidder: Any,
    bid: Any,
    reached: Any,
) -> bool:
    """Assign all unassigned rows along shortest paths; return False if paths lead through more than `most` rows.

    A path alternates between edges that become pairs and pairs that are given up, from an unassigned row to a free
    column. Its length is the sum of the reduced costs of its edges, none of which is negative. The last arguments are
    the memory that `_search_memory` returns.
    """
    for first in range(len(permutation)):
        if permutation[first] >= 0:
            continue
        end, count, rows = _shortest_path(
            starts, columns, costs, owner, paid, prices, first, distance, final, bidder, bid, reached
        )
        most -= rows
        if end < 0 or most < 0:
            return False
        # The prices of the columns that are nearer than the free one fall by the difference.
        shortest = distance[end]
        for j in reached[:count]:
            if final[j]:
                prices[j] -= shortest - distance[j]
            distance[j], final[j] = np.inf, False
        # Along the path, each row takes the column that it has reached, and leaves its own to the row before.
        j = end
        while j >= 0:
            row = bidder[j]
            left = permutation[row]
            permutation[row], owner[j], paid[row] = j, row, costs[bid[j]]
            j = left
    return True


@compiled
def _shortest_path(
    starts: Any,
    columns: Any,
    costs: Any,
    owner: Any,
    paid: Any,
    prices: Any,
    row: Any,
    distance: Any,
    final: Any,
    bidder: Any,
    bid: Any,
    reached: Any,
) -> tuple[Any, Any, Any]:
    """Find the shortest path from an unassigned row to a free column, by Dijkstra's algorithm over the columns.

    Return the free column, -1 if there is none, the number of columns that were reached, and the number of rows that
    paths lead through. Fill the `distance` of the reached columns, `final` where no path is shorter, and `reached`; and
    the last row on the path to a column, its `bidder`, and its edge, the `bid`.
    """
    potential = np.inf
    for e in range(starts[row], starts[row + 1]):
        potential = min(potential, costs[e] - prices[columns[e]])
    so_far, shortest, end, count, rows = 0.0, np.inf, -1, 0, 0
    heap = [(0.0, np.int64(0)) for _ in range(0)]
    while row >= 0:
        rows += 1
        for e in range(starts[row], starts[row + 1]):
            j = columns[e]
            length = so_far + max(costs[e] - prices[j] - potential, 0.0)
            if length < shortest and length < distance[j] and not final[j]:
                if distance[j] == np.inf:
                    reached[count], count = j, count + 1
                distance[j], bidder[j], bid[j] = length, row, e
                if owner[j] < 0:
                    shortest, end = length, j
                else:
                    heappush(heap, (length, np.int64(j)))
        # Go on from the nearest column whose distance is not final yet.
        row = -1
        while len(heap) > 0 and row < 0:
            so_far, j = heappop(heap)
            if so_far >= shortest:
                break
            if not final[j]:
                final[j], row = True, owner[j]
                potential = paid[row] - prices[j]
    return end, count, rows
