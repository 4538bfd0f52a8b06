"""Loops over the edges of a sparse graph in CSR form: `starts`, `columns` and numbers, by ascending row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Indices

Columns = NDArray[np.int32]  # of the edges


@compiled
def edges_of_pairs(starts: Any, columns: Any, rows: Any, others: Any, edges: Any) -> None:
    """Fill `edges` with the edge of each listed pair, all of which must be edges of the graph."""
    for n in range(len(rows)):
        for e in range(starts[rows[n]], starts[rows[n] + 1]):
            if columns[e] == others[n]:
                edges[n] = e
                break


def missing_pairs(
    starts: Indices, columns: Columns, rows: Indices, others: Indices, width: int
) -> tuple[Indices, Indices]:
    """Return those of the listed pairs that are no edges yet, each once, by ascending row and column.

    `width` is the number of columns of the graph.
    """
    places = rows * width
    places += others
    places.sort()
    rows = places // width
    others = places - rows * width
    missing = np.empty(len(rows), dtype=np.bool_)
    _find_missing(starts, columns, rows, others, missing)
    return rows[missing], others[missing]


@compiled
def _find_missing(starts: Any, columns: Any, rows: Any, others: Any, missing: Any) -> None:
    """Fill `missing`: whether a pair, of a list in order, is neither an edge nor a repetition of the one before."""
    row, last, e = -1, -1, 0
    for n in range(len(rows)):
        if rows[n] != row:
            row, last, e = rows[n], -1, starts[rows[n]]
        while e < starts[row + 1] and columns[e] < others[n]:
            e += 1
        missing[n] = others[n] != last and (e == starts[row + 1] or columns[e] != others[n])
        last = others[n]


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
