"""Compiled loops: over the entries of rows in float64, and over the pairs of a tile in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled, compiled_sums

_SQUARE = 64  # entries per side of a square of which both the source and its transpose fit into the cache


@compiled
def fold_rows(values: Any, scale: Any, up: Any, factor: Any, out: Any) -> None:
    """Fill out_i = values_i * scale_i * factor if `up`, or values_i / scale_i * factor, in float64.

    The loop goes through squares of entries, because `values` or `out` may be a transposed view.
    """
    for top in range(0, values.shape[0], _SQUARE):
        for left in range(0, values.shape[1], _SQUARE):
            for i in range(top, min(top + _SQUARE, values.shape[0])):
                for k in range(left, min(left + _SQUARE, values.shape[1])):
                    value = np.float64(values[i, k])
                    out[i, k] = (value * scale[i] if up else value / scale[i]) * factor


@compiled_sums
def centred_products(x: Any, y: Any, rows: Any, columns: Any, a: Any, b: Any, out: Any) -> None:
    """Fill out_e = <x_i - a, y_j - b> for the pairs e = (i, j), in float64."""
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(x.shape[1]):
            total += (x[i, k] - a[k]) * (y[j, k] - b[k])
        out[e] = total


@compiled_sums
def squared_differences(x: Any, y: Any, rows: Any, columns: Any, sign: Any, out: Any) -> None:
    """Fill out_e = |x_i - sign y_j|^2 for the pairs e = (i, j), in float64; `sign` is 1.0 or -1.0."""
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(x.shape[1]):
            total += (np.float64(x[i, k]) - sign * np.float64(y[j, k])) ** 2
        out[e] = total


@compiled
def _two_sum(a: Any, b: Any) -> Any:
    """Return the rounded sum a + b and its exact rounding error (Knuth)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


@compiled
def squared_distances_less(
    x: Any, y: Any, rows: Any, columns: Any, sign: Any, potentials: Any, prices: Any, out: Any, error: Any
) -> None:
    """Fill out_e = |x_i - sign y_j|^2 - sum_n u_ni - sum_n v_nj for the pairs e = (i, j), and bounds on the errors.

    The rounding errors of all differences, squares and sums are computed exactly (Dekker's product; Knuth's sum) and
    added up in a second number, `rest`. The rounding errors of that second sum are added up in `lost`, which bounds the
    error of the result.
    Source: Ogita, Rump and Oishi, *Accurate sum and dot product* (2005).
    """
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total, rest, lost = 0.0, 0.0, 0.0
        # Minus the potentials of the row and the prices of the column.
        for n in range(len(potentials) + len(prices)):
            dual = potentials[n, i] if n < len(potentials) else prices[n - len(potentials), j]
            total, low = _two_sum(total, -dual)
            rest, lower = _two_sum(rest, low)
            lost += abs(lower)
        # Plus the squares. Splitting d into two halves (high + tail) makes the rounding error of d * d computable.
        for k in range(x.shape[1]):
            d, d_low = _two_sum(np.float64(x[i, k]), -sign * np.float64(y[j, k]))
            if d == 0:
                continue
            square = d * d
            cut = 134217729.0 * d  # 2^27 + 1 leaves half of the digits in `high`
            high = cut - (cut - d)
            tail = d - high
            square_low = ((high * high - square) + 2.0 * high * tail) + tail * tail
            total, low = _two_sum(total, square)
            low, lower = _two_sum(low, square_low)
            lost += abs(lower) + (2.0**-1060 if square < 2.0**-900 else 0.0)  # for underflow
            if d_low != 0:
                mixed = 2.0 * d * d_low
                low, lower = _two_sum(low, mixed)
                lost += abs(lower) + 2.0**-50 * abs(mixed) + 2.0**-1060  # for the rounding of `mixed`, and for d_low^2
            rest, lower = _two_sum(rest, low)
            lost += abs(lower)
        out[e], low = _two_sum(total, rest)
        error[e] = (abs(low) + lost) * (1 + 2.0**-30)  # `lost` is itself a rounded sum


@compiled_sums
def centred_dots(rows: Any, centre: Any, vector: Any) -> Any:
    """Return <rows_i - centre, vector> for every row, in float64."""
    out = np.empty(len(rows))
    for i in range(len(rows)):
        total = 0.0
        for k in range(rows.shape[1]):
            total += (rows[i, k] - centre[k]) * vector[k]
        out[i] = total
    return out


@compiled_sums
def square_norms(rows: Any, centre: Any) -> Any:
    """Return |rows_i - centre|^2 for every row, in float64."""
    out = np.empty(len(rows))
    for i in range(len(rows)):
        total = 0.0
        for k in range(rows.shape[1]):
            total += (rows[i, k] - centre[k]) ** 2
        out[i] = total
    return out


@compiled
def column_sums(rows: Any, centre: Any) -> Any:
    """Return the sum of rows_i - centre over all rows, in float64."""
    out = np.zeros(rows.shape[1])
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            out[k] += rows[i, k] - centre[k]
    return out


@compiled
def centre_rows(rows: Any, centre: Any, scale: Any, out: Any) -> None:
    """Fill out = (rows - centre) * scale, computed in float64 and rounded once to float32."""
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            out[i, k] = np.float32((rows[i, k] - centre[k]) * scale)


@compiled
def scale_sums(sums: Any, row_scale: Any, column_scale: Any, out: Any) -> None:
    """Fill out_ij = (sums_ij * column_scale_j) * row_scale_i in float32; each of the three operations rounds once."""
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            out[i, j] = (np.float32(sums[i, j]) * column_scale[j]) * row_scale[i]


@compiled
def _keep(values: Any, partners: Any, value: Any, partner: Any) -> None:
    """Insert a value into a short ascending list, and drop the last entry of the list."""
    place = len(values) - 1
    while place > 0 and values[place - 1] > value:
        values[place], partners[place] = values[place - 1], partners[place - 1]
        place -= 1
    values[place], partners[place] = value, partner


@compiled
def _any_below(values: Any, others: Any, limit: Any) -> Any:
    """Return whether any sum is below the limit. The loop has no branches, so that it vectorises."""
    below = np.int32(0)
    for j in range(len(values)):
        below |= np.int32(values[j] + others[j] < limit)
    return below != 0


@compiled
def _any_below_own(values: Any, limits: Any, offset: Any) -> Any:
    """Return whether any value less the offset is below its own limit. The loop has no branches."""
    below = np.int32(0)
    for j in range(len(values)):
        below |= np.int32(values[j] - offset < limits[j])
    return below != 0


# After the first tiles, almost no pair enters a list. A stretch of a row is therefore first tested as a whole.
_STRETCH = 64


@compiled
def scan_rows(values: Any, constant: Any, least: Any, partners: Any, first: Any) -> None:
    """Update the ascending list of each row with its least `values[i, j] + constant[j]` and their places, first + j."""
    last = least.shape[1] - 1
    for i in range(len(values)):
        row = values[i]
        limit = least[i, last]
        for start in range(0, len(row), _STRETCH):
            stop = min(start + _STRETCH, len(row))
            if _any_below(row[start:stop], constant[start:stop], limit):
                for j in range(start, stop):
                    value = row[j] + constant[j]
                    if value < limit:
                        _keep(least[i], partners[i], value, first + j)
                        limit = least[i, last]


@compiled
def scan_columns(values: Any, offset: Any, least: Any, partners: Any, first: Any) -> None:
    """Update the ascending list of each column with its least `values[i, j] - offset[i]`, at places first + i."""
    last = least.shape[1] - 1
    limits = least[:, last].copy()
    for i in range(len(values)):
        row = values[i]
        for start in range(0, len(row), _STRETCH):
            stop = min(start + _STRETCH, len(row))
            if _any_below_own(row[start:stop], limits[start:stop], offset[i]):
                for j in range(start, stop):
                    value = row[j] - offset[i]
                    if value < limits[j]:
                        _keep(least[j], partners[j], value, first + i)
                        limits[j] = least[j, last]


@compiled
def choose_tied(reduced: Any, rows: Any, chosen: Any) -> None:
    """Fill each row of `chosen` with places at which `reduced` equals the minimum of the row within rounding.

    The places are spread over the row, and begin at a place that depends on the row: rows with the same minima then
    choose different places.
    """
    width = reduced.shape[1]
    for r in range(len(rows)):
        # The minimum of the row, and the number of entries that equal it within rounding.
        least, most = np.inf, 0.0
        for j in range(width):
            least = min(least, reduced[r, j])
            if reduced[r, j] < np.inf:
                most = max(most, abs(reduced[r, j]))
        limit, count = least + 1e-12 * most, 0
        for j in range(width):
            count += reduced[r, j] <= limit
        # Every `interval`-th of them, from a start that a multiplicative hash of the row number gives.
        interval, seen, start, filled = max(1, count // chosen.shape[1]), 0, rows[r] * 40503 % width, 0
        for step in range(width):
            j = (start + step) % width
            if reduced[r, j] <= limit:
                if seen % interval == 0 and filled < chosen.shape[1]:
                    chosen[r, filled] = j
                    filled += 1
                seen += 1
