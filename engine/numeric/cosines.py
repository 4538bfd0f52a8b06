"""Cosines and directions of rows."""

from __future__ import annotations

import numpy as np

from saematch.numeric.rounding import Floats, Indices, Rows

_BLOCK = 4096  # rows that are gathered at the same time


def row_cosines(x: Rows, y: Rows, perm: Indices) -> Floats:
    """Return the cosine of every row of x with its partner in y, `(F_A,)`; NaN without a partner or for a zero row.

    >>> row_cosines(np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, -1]))
    array([ 1., nan])
    """
    norms = _norms(y)
    cosines = np.full(len(perm), np.nan)
    for start in range(0, len(perm), _BLOCK):
        rows = start + np.nonzero(perm[start : start + _BLOCK] >= 0)[0]
        a, b = x[rows], y[perm[rows]]
        lengths = _norms(a) * norms[perm[rows]]
        dots = np.einsum("ij,ij->i", a, b)
        cosines[rows] = np.divide(dots, lengths, out=np.full(len(rows), np.nan), where=lengths > 0)
    return cosines.clip(-1, 1)


def unit_rows(rows: Rows) -> Floats:
    """Return the directions of rows, `(F, K)` in float64: rows of norm 1; of zeros where a row is 0.

    >>> unit_rows(np.array([[3e200, 4e200], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    unit = rows.astype(np.float64)
    # Divided by the largest entry first, so that no square leaves the range of float64.
    for size in (_largest, _norms):
        sizes = size(unit)[:, None]
        np.divide(unit, sizes, out=unit, where=sizes > 0)
    return unit


def _largest(rows: Floats) -> Floats:
    largest: Floats = np.abs(rows).max(axis=1, initial=0.0)
    return largest


def _norms(rows: Rows) -> Floats:
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms
