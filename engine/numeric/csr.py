"""Sparse matrices in CSR form: `starts`, the first entry of each row and the number of entries; columns; and values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Indices


def transposed(
    starts: Indices, columns: NDArray[np.int32], values: NDArray[Any], width: int
) -> tuple[Indices, NDArray[np.int32], NDArray[Any]]:
    """Return a matrix of `width` columns with rows and columns exchanged; columns ascend within each of its rows.

    >>> transposed(np.array([0, 1, 3]), np.array([1, 0, 1], dtype=np.int32), np.array([5.0, 6.0, 7.0]), 2)
    (array([0, 1, 3]), array([1, 0, 1], dtype=int32), array([6., 5., 7.]))
    """
    counts = np.bincount(columns, minlength=width)
    first = np.concatenate([[0], np.cumsum(counts)])
    rows, turned = np.empty(len(columns), dtype=np.int32), np.empty_like(values)
    _transpose(starts, columns, values, first[:-1].copy(), rows, turned)
    return first, rows, turned


@compiled
def _transpose(starts: Any, columns: Any, values: Any, places: Any, rows: Any, turned: Any) -> None:
    """Fill `rows` and `turned`. `places` is the first entry of each column; it is used up."""
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            place = places[columns[e]]
            rows[place], turned[place] = i, values[e]
            places[columns[e]] = place + 1
