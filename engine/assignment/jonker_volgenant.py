"""The optimum of a dense matrix of costs, with prices: augmenting row reduction, then shortest augmenting paths.

Source: Jonker and Volgenant, *A shortest augmenting path algorithm for dense and sparse linear assignment problems*
(1987). Here a path may also end with a row that becomes unmatched.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

LANES = 32  # numbers that are compared at a time
_BIDS = 8  # of a row in the row reduction, on average: more rows would bid against each other for long


def solve_dense(costs: Floats, row_costs: Floats, column_costs: Floats) -> tuple[Indices, Floats]:
    """Return the optimal matching of all pairs, -1 for an unmatched row, and column prices that prove it.

    Under these prices v, the pair of each row i has the least costs[i, j] - v_j of all columns j, within rounding. No
    price is above the unmatched cost of its column, and that of an unmatched column is the unmatched cost itself.

    Args:
        costs: `(F_A, F_B)`; inf for a forbidden pair. There must be a matching.
        row_costs: `(F_A,)`, the cost of each unmatched row; inf for a row that must be matched.
        column_costs: `(F_B,)`, the cost of each unmatched column; inf for a column that must be matched.
    """
    if np.isinf(column_costs).any() and costs.shape[0] > costs.shape[1]:
        # The search gives each row a column, or leaves it unmatched. So the side that must be matched is the rows'.
        owners, potentials = solve_dense(np.ascontiguousarray(costs.T), column_costs, row_costs)
        permutation = np.full(len(costs), -1)
        columns = np.arange(len(owners))
        permutation[owners] = columns
        return permutation, costs[owners, columns] - potentials[owners]
    prices = np.where(np.isfinite(column_costs), column_costs, 0.0)
    permutation, owner = np.full(costs.shape[0], -1), np.full(costs.shape[1], -1)
    # Loops get their memory from here, because every function of numpy takes long to compile.
    of_columns, places = np.empty((3, costs.shape[1])), np.empty((2, costs.shape[1]), dtype=np.int64)
    queue, least = np.arange(costs.shape[0]), np.empty(LANES)
    _reduce_rows(costs, row_costs, prices, permutation, owner, queue, of_columns[0], least)
    left = np.nonzero(permutation < 0)[0]
    _augment(costs, row_costs, prices, permutation, owner, left, of_columns, places, least)
    return permutation, prices


@compiled
def _reduce_rows(
    costs: Any, row_costs: Any, prices: Any, permutation: Any, owner: Any, queue: Any, reduced: Any, least: Any
) -> None:
    """Let rows take their cheapest columns; most rows have one then.

    The price of a column falls until the second cheapest column of its row costs the same. The row that had the column
    before looks for another one. A row whose cheapest columns cost the same, and are taken, is left without a column.

    Args:
        costs: see `solve_dense`, like `row_costs`.
        row_costs: the costs of unmatched rows.
        prices: the prices of the columns, which are updated.
        permutation: the column of each row, -1 for none, which is updated.
        owner: the row of each column, -1 for none, which is updated.
        queue: all rows; the loop uses this memory as a ring.
        reduced: memory for a number of each column.
        least: memory for a number of each lane, see `fill_lanes`.
    """
    n, head, length = len(costs), 0, len(costs)
    for _ in range(_BIDS * n):
        if length == 0:
            break
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        # The cheapest and the second cheapest column, or being unmatched.
        values = costs[i]
        for j in range(len(reduced)):
            reduced[j] = values[j] - prices[j]
        lane = fill_lanes(reduced, least)
        best, second, wanted = np.inf, row_costs[i], -1
        for other in range(LANES):
            if other != lane and least[other] < second:
                second = least[other]
        for j in range(lane, len(reduced), LANES):
            value = reduced[j]
            if value < best:
                second = best if best < second else second
                best, wanted = value, j
            elif value < second:
                second = value
        if row_costs[i] <= best:
            continue
        before = owner[wanted]
        fall = second - best if second < np.inf else 0.0
        if before >= 0:
            if fall == 0:
                continue
            permutation[before] = -1
            queue[(head + length) % n] = before
            length += 1
        prices[wanted] -= fall
        permutation[i], owner[wanted] = wanted, i


@compiled
def _augment(
    costs: Any,
    row_costs: Any,
    prices: Any,
    permutation: Any,
    owner: Any,
    left: Any,
    of_columns: Any,
    places: Any,
    least: Any,
) -> None:
    """Give each row that is `left` a column along a shortest augmenting path, by Dijkstra's algorithm.

    A path leads from the row to a column, to the row that has this column, and so on. It ends at an unmatched column,
    or with a row that becomes unmatched. `of_columns`, `places` and `least` are memory; `_reduce_rows` tells the rest.
    """
    open_prices, distance, final = of_columns[0], of_columns[1], of_columns[2]
    before, visited = places[0], places[1]
    for root in left:
        # The price of a visited column is set to -inf in `open_prices`, so that its distance stays inf.
        for j in range(len(prices)):
            open_prices[j], distance[j] = prices[j], np.inf
        i, so_far, count = root, 0.0, 0
        # The shortest path that ends with a row that leaves its column and becomes unmatched.
        shortest_exit, last_row, last_column = row_costs[root], root, -1
        while True:
            _extend(costs[i], open_prices, so_far, i, distance, before)
            shortest = least[fill_lanes(distance, least)]
            if shortest_exit <= shortest:
                shortest, column = shortest_exit, last_column
                permutation[last_row] = -1
                break
            column = _nearest(distance, least, shortest, owner)
            if owner[column] < 0:
                break
            visited[count], count = column, count + 1
            i, final[column] = owner[column], shortest
            distance[column], open_prices[column] = np.inf, -np.inf
            so_far = shortest - (costs[i, column] - prices[column])
            if so_far + row_costs[i] < shortest_exit:
                shortest_exit, last_row, last_column = so_far + row_costs[i], i, column
        for place in range(count):
            j = visited[place]
            fall = shortest - final[j]
            prices[j] -= fall if fall > 0 else 0.0
        # Exchange columns along the path, back to its first row.
        while column >= 0:
            i = before[column]
            owner[column] = i
            column, permutation[i] = permutation[i], column
            if i == root:
                break


@compiled
def _nearest(distance: Any, least: Any, shortest: Any, owner: Any) -> Any:
    """Return a column at the `shortest` distance; an unmatched one, if there is one."""
    nearest = -1
    for lane in range(LANES):
        if least[lane] == shortest:
            for j in range(lane, len(distance), LANES):
                if distance[j] == shortest:
                    if owner[j] < 0:
                        return j
                    nearest = j
    return nearest


@compiled
def _extend(values: Any, prices: Any, so_far: Any, i: Any, distance: Any, before: Any) -> None:
    """Extend the paths that have reached row `i` by one column."""
    for j in range(len(distance)):
        value = values[j] - prices[j] + so_far
        shorter = value < distance[j]
        before[j] = i if shorter else before[j]
        distance[j] = value if shorter else distance[j]


@compiled
def fill_lanes(values: Any, least: Any) -> int:
    """Fill `least[k]` with the least of the numbers at k, k + LANES, and so on; return the k of the least of all.

    The loop vectorises in IEEE arithmetic. A loop for the least of all numbers would compare one at a time.
    """
    for k in range(LANES):
        least[k] = np.inf
    for start in range(0, len(values), LANES):
        part = values[start : start + LANES]
        for k in range(len(part)):
            least[k] = part[k] if part[k] < least[k] else least[k]
    lane, smallest = 0, least[0]
    for k in range(LANES):
        if least[k] < smallest:
            lane, smallest = k, least[k]
    return lane
