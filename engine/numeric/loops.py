"""The loops that are ours: over the entries of rows, in float64, and over the pairs of a tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled, compiled_sums

_SQUARE = 64  # entries a side; both the source and its transpose stay in the cache


@compiled
def fold_rows(values: Any, scale: Any, up: Any, factor: Any, out: Any) -> None:
    """Fills out = values_i * scale_i * factor, or values_i / scale_i * factor, in float64, in squares: either may be a
    transposed view.
    """
    for top in range(0, values.shape[0], _SQUARE):
        for left in range(0, values.shape[1], _SQUARE):
            for i in range(top, min(top + _SQUARE, values.shape[0])):
                for k in range(left, min(left + _SQUARE, values.shape[1])):
                    value = np.float64(values[i, k])
                    out[i, k] = (value * scale[i] if up else value / scale[i]) * factor


@compiled_sums
def centred_products(x: Any, y: Any, rows: Any, columns: Any, a: Any, b: Any, out: Any) -> None:
    """Fills out_e = <x_i - a, y_j - b> for the pairs e = (i, j), in float64."""
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(x.shape[1]):
            total += (x[i, k] - a[k]) * (y[j, k] - b[k])
        out[e] = total


@compiled_sums
def squared_differences(x: Any, y: Any, rows: Any, columns: Any, out: Any) -> None:
    """Fills out_e = |x_i - y_j|^2 for the pairs e = (i, j), in float64."""
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(x.shape[1]):
            total += (np.float64(x[i, k]) - np.float64(y[j, k])) ** 2
        out[e] = total


@compiled
def _two_sum(a: Any, b: Any) -> Any:
    """The rounded sum and what rounding took from it, exactly (Knuth)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


@compiled
def squared_distances_less(
    x: Any, y: Any, rows: Any, columns: Any, potentials: Any, prices: Any, out: Any, error: Any
) -> None:
    """Fills out_e = |x_i - y_j|^2 - sum_n u_ni - sum_n v_nj for the pairs e = (i, j), and bounds for the errors.

    What rounding takes from differences, squares and sums is known exactly and added up in a second number (Dekker's
    product; Ogita, Rump and Oishi, *Accurate sum and dot product*, 2005); what it takes from that number is the error.
    """
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total, rest, lost = 0.0, 0.0, 0.0
        for n in range(len(potentials) + len(prices)):
            dual = potentials[n, i] if n < len(potentials) else prices[n - len(potentials), j]
            total, low = _two_sum(total, -dual)
            rest, lower = _two_sum(rest, low)
            lost += abs(lower)
        for k in range(x.shape[1]):
            d, d_low = _two_sum(np.float64(x[i, k]), -np.float64(y[j, k]))
            if d == 0:
                continue
            square = d * d
            cut = 134217729.0 * d  # 2^27 + 1 halves the digits
            high = cut - (cut - d)
            tail = d - high
            square_low = ((high * high - square) + 2.0 * high * tail) + tail * tail
            total, low = _two_sum(total, square)
            low, lower = _two_sum(low, square_low)
            lost += abs(lower) + (2.0**-1060 if square < 2.0**-900 else 0.0)  # and underflow
            if d_low != 0:
                mixed = 2.0 * d * d_low
                low, lower = _two_sum(low, mixed)
                lost += abs(lower) + 2.0**-50 * abs(mixed) + 2.0**-1060  # the product's rounding, and d_low squared
            rest, lower = _two_sum(rest, low)
            lost += abs(lower)
        out[e], low = _two_sum(total, rest)
        error[e] = (abs(low) + lost) * (1 + 2.0**-30)  # the sum of what was lost is rounded itself


@compiled_sums
def centred_dots(rows: Any, centre: Any, vector: Any) -> Any:
    """<rows_i - centre, vector>, in float64."""
    out = np.empty(len(rows))
    for i in range(len(rows)):
        total = 0.0
        for k in range(rows.shape[1]):
            total += (rows[i, k] - centre[k]) * vector[k]
        out[i] = total
    return out


@compiled_sums
def square_norms(rows: Any, centre: Any) -> Any:
    """|rows_i - centre|^2, in float64."""
    out = np.empty(len(rows))
    for i in range(len(rows)):
        total = 0.0
        for k in range(rows.shape[1]):
            total += (rows[i, k] - centre[k]) ** 2
        out[i] = total
    return out


@compiled
def column_sums(rows: Any, centre: Any) -> Any:
    """Sum over rows of rows_i - centre, in float64."""
    out = np.zeros(rows.shape[1])
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            out[k] += rows[i, k] - centre[k]
    return out


@compiled
def centre_rows(rows: Any, centre: Any, scale: Any, out: Any) -> None:
    """Fills out = (rows - centre) * scale, computed in float64 and rounded once."""
    for i in range(len(rows)):
        for k in range(rows.shape[1]):
            out[i, k] = np.float32((rows[i, k] - centre[k]) * scale)


@compiled
def _keep(values: Any, partners: Any, value: Any, partner: Any) -> None:
    """Insert into a short ascending list, dropping its last entry."""
    place = len(values) - 1
    while place > 0 and values[place - 1] > value:
        values[place], partners[place] = values[place - 1], partners[place - 1]
        place -= 1
    values[place], partners[place] = value, partner


@compiled
def _any_below(values: Any, others: Any, limit: Any) -> Any:
    """Whether a sum is below the limit anywhere: branch-free and over slices, so that it vectorises."""
    found = np.int32(0)
    for j in range(len(values)):
        found |= np.int32(values[j] + others[j] < limit)
    return found != 0


@compiled
def _any_below_own(values: Any, limits: Any, offset: Any) -> Any:
    """The same, each entry less one offset against a limit of its own."""
    found = np.int32(0)
    for j in range(len(values)):
        found |= np.int32(values[j] - offset < limits[j])
    return found != 0


# Almost no pair enters a list once the first tiles are through, so a stretch of a row is first asked whether any does.
_STRETCH = 32


@compiled
def scan_rows(values: Any, constant: Any, least: Any, partners: Any, first: Any) -> None:
    """Update each row's ascending list of the least `values[i, j] + constant[j]` and their places, first + j."""
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
def scan_columns(values: Any, left: Any, offset: Any, least: Any, partners: Any, first: Any) -> None:
    """Update each column's ascending list of the least `values[i, left + j] - offset[i]`, at first + i."""
    last = least.shape[1] - 1
    limits = least[:, last].copy()
    for i in range(len(values)):
        row = values[i, left : left + len(limits)]
        for start in range(0, len(row), _STRETCH):
            stop = min(start + _STRETCH, len(row))
            if _any_below_own(row[start:stop], limits[start:stop], offset[i]):
                for j in range(start, stop):
                    value = row[j] - offset[i]
                    if value < limits[j]:
                        _keep(least[j], partners[j], value, first + i)
                        limits[j] = least[j, last]


@compiled
def choose_tied(reduced: Any, rows: Any, found: Any) -> None:
    """Fill each row of `found` with places at which `reduced` is as small as anywhere in the row, within rounding."""
    width = reduced.shape[1]
    for r in range(len(rows)):
        least, most = np.inf, 0.0
        for j in range(width):
            least = min(least, reduced[r, j])
            if reduced[r, j] < np.inf:
                most = max(most, abs(reduced[r, j]))
        limit, count = least + 1e-12 * most, 0
        for j in range(width):
            count += reduced[r, j] <= limit
        each, seen, start, kept = max(1, count // found.shape[1]), 0, rows[r] * 40503 % width, 0
        for step in range(width):
            j = (start + step) % width
            if reduced[r, j] <= limit:
                if seen % each == 0 and kept < found.shape[1]:
                    found[r, kept] = j
                    kept += 1
                seen += 1
