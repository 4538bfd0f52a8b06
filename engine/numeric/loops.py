"""Compiled loops: over pairs of rows and over all rows in float64, and over the pairs of a tile in float32.

Rows are given as `Rows.arrays`, and computed in float64 one at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled, compiled_sums
from saematch.numeric.rows import product, quotient, unfold


@compiled_sums
def centred_products(x: Any, y: Any, rows: Any, columns: Any, a: Any, b: Any, out: Any) -> None:
    """Fill out_e = <x_i - a, y_j - b> for the pairs e = (i, j). Pairs of one row should follow each other."""
    values, ends, multiplied, scales, factors = y
    left, last = np.empty(len(a)), -1
    for e in range(len(rows)):
        if rows[e] != last:
            last = rows[e]
            unfold(x, last, left)
            for k in range(len(a)):
                left[k] -= a[k]
        # The row of y is not unfolded first: to write and to read it takes as long as to multiply it.
        j, start, total = columns[e], 0, 0.0
        for p in range(len(ends)):
            stored, scale, factor = values[j, start : ends[p]], scales[p, j], factors[p]
            own, centre = left[start : ends[p]], b[start : ends[p]]
            if multiplied[p]:
                for k in range(len(stored)):
                    total += own[k] * (product(stored[k], scale, factor) - centre[k])
            else:
                for k in range(len(stored)):
                    total += own[k] * (quotient(stored[k], scale, factor) - centre[k])
            start = ends[p]
        out[e] = total


@compiled_sums
def squared_differences(x: Any, y: Any, rows: Any, columns: Any, first: Any, stop: Any, sign: Any, out: Any) -> None:
    """Fill out_e = |x_i - sign y_j|^2 for the pairs e = (i, j), over the columns from `first` to `stop`."""
    left, right = np.empty(x[0].shape[1]), np.empty(x[0].shape[1])
    for e in range(len(rows)):
        unfold(x, rows[e], left)
        unfold(y, columns[e], right)
        total, a, b = 0.0, left[first:stop], right[first:stop]
        for k in range(len(a)):
            total += (a[k] - sign * b[k]) ** 2
        out[e] = total


@compiled_sums
def dots_and_squares(
    x: Any, y: Any, rows: Any, columns: Any, first: Any, stop: Any, dot: Any, x_square: Any, y_square: Any
) -> None:
    """Fill <x_i, y_j>, |x_i|^2 and |y_j|^2 for the pairs (i, j), over the columns from `first` to `stop`."""
    left, right = np.empty(x[0].shape[1]), np.empty(x[0].shape[1])
    for e in range(len(rows)):
        unfold(x, rows[e], left)
        unfold(y, columns[e], right)
        product, of_x, of_y = 0.0, 0.0, 0.0
        a, b = left[first:stop], right[first:stop]
        for k in range(len(a)):
            product += a[k] * b[k]
            of_x += a[k] ** 2
            of_y += b[k] ** 2
        dot[e], x_square[e], y_square[e] = product, of_x, of_y


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
    left, right = np.empty(x[0].shape[1]), np.empty(x[0].shape[1])
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        unfold(x, i, left)
        unfold(y, j, right)
        total, rest, lost = 0.0, 0.0, 0.0
        # Minus the potentials of the row and the prices of the column.
        for n in range(len(potentials) + len(prices)):
            dual = potentials[n, i] if n < len(potentials) else prices[n - len(potentials), j]
            total, low = _two_sum(total, -dual)
            rest, lower = _two_sum(rest, low)
            lost += abs(lower)
        # Plus the squares. Splitting d into two halves (high + tail) makes the rounding error of d * d computable.
        for k in range(len(left)):
            d, d_low = _two_sum(left[k], -sign * right[k])
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


@compiled
def scale_sums(sums: Any, row_scale: Any, column_scale: Any, out: Any) -> None:
    """Fill out_ij = (sums_ij * column_scale_j) * row_scale_i in float32; each of the three operations rounds once."""
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            out[i, j] = (np.float32(sums[i, j]) * column_scale[j]) * row_scale[i]


@compiled
def keep(values: Any, partners: Any, value: Any, partner: Any) -> None:
    """Insert a value into a short ascending list, and drop the last entry of the list."""
    place = len(values) - 1
    while place > 0 and values[place - 1] > value:
        values[place], partners[place] = values[place - 1], partners[place - 1]
        place -= 1
    values[place], partners[place] = value, partner


@compiled
def _any_below(values: Any, others: Any, limit: Any) -> Any:
    """Return whether any sum is below the limit. The loop has no branches, so that it vectorises."""
    below = False
    for j in range(len(values)):
        below |= values[j] + others[j] < limit
    return below


@compiled
def _any_below_own(values: Any, limits: Any, offset: Any) -> Any:
    """Return whether any value less the offset is below its own limit. The loop has no branches."""
    below = False
    for j in range(len(values)):
        below |= values[j] - offset < limits[j]
    return below


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
                        keep(least[i], partners[i], value, first + j)
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
                        keep(least[j], partners[j], value, first + i)
                        limits[j] = least[j, last]


@compiled
def choose_tied(reduced: Any, first: Any, rows: Any, chosen: Any, tied: Any) -> None:
    """Fill each row of `chosen` with places at which a line of `reduced` equals its minimum within rounding.

    The rows from `first[n]` to `first[n + 1]` belong to line n. Their places are spread over the line, from a place
    that depends on the number of the row, so that rows with the same minima choose different places. `tied` is memory
    for a place of each entry of a line.
    """
    for n in range(len(reduced)):
        least, most = np.inf, 0.0
        for value in reduced[n]:
            least = min(least, value)
            if value < np.inf:
                most = max(most, abs(value))
        limit, count = least + 1e-12 * most, 0
        for j in range(reduced.shape[1]):
            if reduced[n, j] <= limit:
                tied[count] = j
                count += 1
        interval = max(1, count // chosen.shape[1])
        for r in range(first[n], first[n + 1]):
            for k in range(min(count, chosen.shape[1])):
                chosen[r, k] = tied[(rows[r] * 40503 + k * interval) % count]  # a multiplicative hash of the row
