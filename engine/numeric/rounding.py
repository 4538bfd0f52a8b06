"""Number types, what rounding can do to them, and which are equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Rows = NDArray[Any]  # (F, K), float32 or float64

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53  # unit roundoff
LEAST_NORMAL = 2.0**-1022  # of float64; below, there is underflow
TINY = 2.0**-1070  # what underflow can take from a float64 operation, and to spare

# What numpy says of numbers out of range, whatever the host program made of that. It is a decorator.
numpy_warnings = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def gamma(terms: int, unit: float) -> float:
    """Relative error of a float sum of `terms` terms in any order (Higham, *Accuracy and Stability*, section 3.1)."""
    return terms * unit / (1 - terms * unit)


def rounded_down(values: Floats) -> NDArray[np.float32]:
    """The largest float32 not above each value."""
    with np.errstate(over="ignore"):  # inf, and then the largest that there is
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The rounded sum a + b and what rounding took from it, exactly (Knuth); `loops._two_sum` is its compiled twin."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def exact_sum(first: Floats, *others: Floats) -> tuple[Floats, Floats]:
    """The sum of finite numbers as if twice the precision were at hand, and a bound for its error.

    The error is 0 where the sum is a float64 number that needed no rounding on the way, as for small whole numbers.
    """
    total, rest, lost = first, np.zeros_like(first), np.zeros_like(first)
    for other in others:
        total, low = two_sum(total, other)
        rest, lower = two_sum(rest, low)
        lost += np.abs(lower)
    total, low = two_sum(total, rest)
    error: Floats = (np.abs(low) + lost) * (1 + 2.0**-48)
    return total, error


def at_most(values: Floats, error: Floats) -> Floats:
    """Upper bounds of what is within `error` of the values: the sum, rounded up. No error leaves them as they are."""
    bound: Floats = np.where(error > 0, np.nextafter(values + error, np.inf), values)
    return bound


def at_least(values: Floats, error: Floats) -> Floats:
    """Lower bounds, likewise."""
    return -at_most(-values, error)


def first_alike(rows: Rows, marks: Floats) -> Indices:
    """For each row the first one that equals it bit for bit; equal rows have equal marks, `(F,)`."""
    first = np.arange(len(rows))
    _, group, count = np.unique(marks, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in np.nonzero(count[group] > 1)[0]:
        first[i] = seen.setdefault(rows[i].tobytes(), int(i))
    return first
