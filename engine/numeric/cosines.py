"""Cosines and directions of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.loops import dots_and_squares
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.rows import Rows, over_pairs

_LOW = 2.0**-300  # a number whose square stays far from the limits of float64


def row_cosines(x: Rows, y: Rows, perm: Indices, columns: slice = slice(None)) -> Floats:
    """Return the cosine of every row of x with its partner in y, `(F_A,)`; NaN without a partner or for a zero row.

    Only the given columns count.

    >>> x, y = (Rows.of(np.array(rows)) for rows in ([[3.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]))
    >>> row_cosines(x, y, np.array([0, -1]))
    array([ 1., nan])
    """
    rows, cosines = np.nonzero(perm >= 0)[0], np.full(len(perm), np.nan)
    first, stop, _ = columns.indices(x.width)
    dots, *squares = over_pairs(dots_and_squares, x, y, rows, perm[rows], first, stop, results=3)
    lengths = np.sqrt(squares[0]) * np.sqrt(squares[1])
    cosines[rows] = np.divide(dots, lengths, out=np.full(len(rows), np.nan), where=lengths > 0)
    return cosines.clip(-1, 1)


def unit_rows(rows: Floats) -> Floats:
    """Return the directions of rows, `(F, K)` in float64: rows of norm 1; of zeros where a row is 0.

    >>> unit_rows(np.array([[3e200, 4e200], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    unit = rows.copy()
    norms = normalise(unit)[:, None]
    return np.divide(unit, norms, out=unit, where=norms > 0)


def normalise(rows: NDArray[Any]) -> Floats:
    """Bring rows into the range in which squares can be added up, and return their norms in float64, `(F,)`.

    Rows of very small or very large numbers are multiplied by a power of two, in place, which changes no direction.
    """
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)).astype(np.float64)
    exponents = np.where((largest > 0) & ((largest < _LOW) | (largest > 1 / _LOW)), -np.frexp(largest)[1], 0)
    moved = exponents != 0
    rows[moved] = np.ldexp(rows[moved], exponents[moved, None])
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms
