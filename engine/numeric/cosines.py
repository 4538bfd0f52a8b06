"""Cosines of rows."""

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


def _norms(rows: Rows) -> Floats:
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms
