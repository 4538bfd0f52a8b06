"""Number types, what rounding can do to them, and which are equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Rows = NDArray[Any]  # (F, K), float32 or float64

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53  # unit roundoff


def gamma(terms: int, unit: float) -> float:
    """Relative error of a float sum of `terms` terms in any order (Higham, *Accuracy and Stability*, section 3.1)."""
    return terms * unit / (1 - terms * unit)


def rounded_down(values: Floats) -> NDArray[np.float32]:
    """The largest float32 not above each value."""
    with np.errstate(over="ignore"):  # inf, and then the largest that there is
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def first_alike(rows: Rows, marks: Floats) -> Indices:
    """For each row the first one that equals it bit for bit; equal rows have equal marks, `(F,)`."""
    first = np.arange(len(rows))
    _, group, count = np.unique(marks, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in np.nonzero(count[group] > 1)[0]:
        first[i] = seen.setdefault(rows[i].tobytes(), int(i))
    return first
