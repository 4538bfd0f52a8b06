"""Loops over the edges of a sparse graph in CSR form: `starts`, `columns` and numbers, by ascending row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.compiled import compiled

Columns = NDArray[np.int32]  # of the edges


@compiled
def edges_of_pairs(starts: Any, columns: Any, rows: Any, others: Any) -> Any:
    """Return the edge of each listed pair, all of which must be edges of the graph."""
    edges = np.empty(len(rows), dtype=np.int64)
    for n in range(len(rows)):
        start, stop = starts[rows[n]], starts[rows[n] + 1]
        edges[n] = start + np.searchsorted(columns[start:stop], others[n])
    return edges


@compiled
def missing_pairs(starts: Any, columns: Any, rows: Any, others: Any) -> Any:
    """Return those of the listed pairs that are no edges yet, each once, by ascending row and column."""
    # Sort the pairs by row, by counting them; then each row by column.
    ends = np.zeros(len(starts), dtype=np.int64)
    for i in rows:
        ends[i + 1] += 1
    for i in range(len(starts) - 1):
        ends[i + 1] += ends[i]
    fills, sorted_others = ends.copy(), np.empty(len(rows), dtype=columns.dtype)
    for n in range(len(rows)):
        i = rows[n]
        sorted_others[fills[i]] = others[n]
        fills[i] += 1
    # Walk along the pairs and the edges of each row at once.
    count, missing = 0, np.empty((2, len(rows)), dtype=np.int64)
    for i in range(len(starts) - 1):
        listed = sorted_others[ends[i] : ends[i + 1]]
        listed.sort()
        e, stop, last = starts[i], starts[i + 1], -1
        for j in listed:
            while e < stop and columns[e] < j:
                e += 1
            if j != last and (e == stop or columns[e] != j):
                missing[0, count], missing[1, count] = i, j
                count += 1
            last = j
    return missing[0, :count], missing[1, :count]


@compiled
def starts_with(starts: Any, rows: Any) -> Any:
    """Return `starts` after an edge is added to each of the listed rows, as often as it is listed."""
    after = np.zeros_like(starts)
    for i in rows:
        after[i + 1] += 1
    for i in range(len(starts) - 1):
        after[i + 1] += after[i]
    return after + starts


@compiled
def merge(starts: Any, old: Any, rows: Any, new: Any, after: Any, merged: Any) -> None:
    """Merge edges by ascending row and column into a graph, whose new `starts` are `after`.

    `old`, `new` and `merged` are the columns, the costs and the errors of the edges; the last three are filled.
    """
    n = 0
    for i in range(len(starts) - 1):
        e, stop = starts[i], starts[i + 1]
        for place in range(after[i], after[i + 1]):
            is_old = e < stop and not (n < len(rows) and rows[n] == i and new[0][n] < old[0][e])
            source, at = (old, e) if is_old else (new, n)
            merged[0][place], merged[1][place], merged[2][place] = source[0][at], source[1][at], source[2][at]
            e, n = e + is_old, n + (not is_old)


@compiled
def least_of_rows(values: Any, starts: Any) -> Any:
    """Return the least of the values of each row's edges, inf for a row without edges."""
    least = np.full(len(starts) - 1, np.inf)
    for i in range(len(least)):
        for e in range(starts[i], starts[i + 1]):
            least[i] = min(least[i], values[e])
    return least


@compiled
def row_minima(
    starts: Any,
    columns: Any,
    costs: Any,
    errors: Any,
    permutation: Any,
    prices: Any,
    price_error: Any,
    potentials: Any,
    rounding: Any,
    tolerance: float,
    minima: Any,
    others: Any,
) -> float:
    """Fill `minima` and `others` of `RowMinima`, and return its `undercut`.

    An edge may undercut the potential by rounding, and by a share `tolerance` of the numbers involved.
    """
    undercut = 0.0
    for i in range(len(minima)):
        # The least reduced cost of all edges, and that of the other edges minus its error, if it has one.
        least, certain, lower = np.inf, np.inf, np.inf
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            reduced, error = costs[e] - prices[j], errors[e] + price_error[j]
            least = min(least, reduced)
            if j != permutation[i]:
                if error > 0:
                    lower = min(lower, reduced - error)
                else:
                    certain = min(certain, reduced)
            below = potentials[i] - reduced
            if below > undercut:
                size = abs(costs[e]) + abs(potentials[i]) + abs(prices[j])
                if below > error + rounding[i] + tolerance * size:
                    undercut = below
        minima[i] = least
        others[i] = min(certain, np.nextafter(lower, -np.inf) if lower < np.inf else lower)
    return undercut
