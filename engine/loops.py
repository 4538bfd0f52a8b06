"""The loops that are ours: over the entries of rows, in float64, and over the pairs of a tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.compiled import compiled, compiled_sums


@compiled_sums
def centred_products(x: Any, y: Any, a: Any, b: Any, rows: Any, columns: Any, out: Any) -> None:
    """Fills out_e = <x_i - a, y_j - b> for the pairs e = (i, j), in float64."""
    for e in range(len(rows)):
        i, j = rows[e], columns[e]
        total = 0.0
        for k in range(x.shape[1]):
            total += (x[i, k] - a[k]) * (y[j, k] - b[k])
        out[e] = total


@compiled_sums
def squared_differences(x: Any, y: Any, permutation: Any, out: Any) -> None:
    """Fills out_i = |x_i - y_perm(i)|^2, in float64; left alone where perm is -1."""
    for i in range(len(x)):
        j = permutation[i]
        if j >= 0:
            total = 0.0
            for k in range(x.shape[1]):
                total += (np.float64(x[i, k]) - np.float64(y[j, k])) ** 2
            out[i] = total


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
def _any_below(products: Any, constants: Any, column_limits: Any, row_limit: Any, offset: Any) -> Any:
    """Whether any pair of a stretch of a row enters a list: branch-free and over slices, so that it vectorises."""
    found = np.int32(0)
    for j in range(len(products)):
        value = constants[j] - np.float32(2) * products[j]
        found |= np.int32(value < row_limit) | np.int32(value - offset < column_limits[j])
    return found != 0


@compiled
def scan_tile(
    product: Any, constant: Any, offset: Any, row_value: Any, row_partners: Any, column_value: Any,
    column_partners: Any, top: Any, left: Any,
) -> None:  # fmt: skip
    """Update the short lists of a tile's rows and columns.

    Almost no pair enters a list once the first tiles are through, so each stretch of a row is first asked whether any
    does.
    """
    stretch = 64
    last = row_value.shape[1] - 1
    column_limit = column_value[:, last].copy()
    for i in range(product.shape[0]):
        row = product[i]
        row_limit = row_value[i, last]
        for start in range(0, len(row), stretch):
            stop = min(start + stretch, len(row))
            here = slice(start, stop)
            if not _any_below(row[here], constant[here], column_limit[here], row_limit, offset[i]):
                continue
            for j in range(start, stop):
                value = constant[j] - np.float32(2) * row[j]
                if value < row_limit:
                    _keep(row_value[i], row_partners[i], value, left + j)
                    row_limit = row_value[i, last]
                if value - offset[i] < column_limit[j]:
                    _keep(column_value[j], column_partners[j], value - offset[i], top + i)
                    column_limit[j] = column_value[j, last]
