"""Number types, bounds for rounding errors, and items that are equal bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53  # unit roundoff
LEAST_NORMAL = 2.0**-1022  # the smallest normal float64: smaller results underflow
_COMPARED = 256  # items whose content is in memory at a time
TINY = 2.0**-1070  # a bound for what underflow takes from a float64 operation

# A decorator that restores the warnings of numpy about numbers out of range, whatever the host program has set.
numpy_warnings = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")


def gamma(terms: int, unit: float) -> float:
    """Return a bound for the relative error of a float sum of `terms` terms in any order.

    `unit` is the unit roundoff (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1).

    >>> gamma(1_000, UNIT_64) < 2e-13
    True
    """
    return terms * unit / (1 - terms * unit)


def rounded_down(values: Floats, number: type[np.floating[Any]]) -> NDArray[Any]:
    """Return the largest number of a type, np.float32 or np.float64, that is not above each value."""
    with np.errstate(over="ignore"):  # to inf, which is then lowered to the largest number
        nearest = values.astype(number)
    return np.where(nearest > values, np.nextafter(nearest, number(-np.inf)), nearest)


def two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the rounded sum a + b, and its rounding error exactly (Knuth). `loops._two_sum` is its compiled form."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def exact_sum(first: Floats, *others: Floats) -> tuple[Floats, Floats]:
    """Return the sum of finite numbers, computed in twice the precision of float64, and a bound for its error.

    The error is 0 if no operation was rounded and the sum is a float64 number, as for small whole numbers.

    >>> value, error = exact_sum(np.array([1e16]), np.array([1.0]), np.array([-1e16]))
    >>> value.tolist(), error.tolist()
    ([1.0], [0.0])
    """
    total, rest, lost = first, np.zeros_like(first), np.zeros_like(first)
    for other in others:
        total, low = two_sum(total, other)
        rest, lower = two_sum(rest, low)
        lost += np.abs(lower)
    total, low = two_sum(total, rest)
    error: Floats = (np.abs(low) + lost) * (1 + 2.0**-48)
    return total, error


def correct_sum(*parts: Floats) -> float:
    """Return the sum of all numbers of some arrays, correctly rounded.

    >>> correct_sum(np.array([1e16, 1.0]), np.array([-1e16]))
    1.0
    """
    return math.fsum(chain.from_iterable(part.tolist() for part in parts))


def at_most(values: Floats, error: Floats) -> Floats:
    """Return upper bounds for numbers that are within `error` of the values: values + error, rounded up.

    A value whose error is 0 is its own bound.
    """
    bound: Floats = np.where(error > 0, np.nextafter(values + error, np.inf), values)
    return bound


def at_least(values: Floats, error: Floats) -> Floats:
    """Return lower bounds for numbers that are within `error` of the values: values - error, rounded down."""
    return -at_most(-values, error)


def first_alike(marks: Floats, content: Callable[[Indices], NDArray[Any]]) -> Indices:
    """Return for each item the first one with the same content, bit for bit.

    `content` returns a matrix with a row for each of the listed items. Items of the same content must have equal
    `marks`, of which one is given for each item.
    """
    first, ordered = np.arange(len(marks)), np.sort(marks)
    if (ordered[1:] != ordered[:-1]).all():
        return first
    _, group, count = np.unique(marks, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    doubtful = np.nonzero(count[group] > 1)[0]
    for start in range(0, len(doubtful), _COMPARED):
        items = doubtful[start : start + _COMPARED]
        for i, row in zip(items.tolist(), content(items), strict=True):
            first[i] = seen.setdefault(row.tobytes(), i)
    return first


def first_of_each(groups: Indices) -> Indices:
    """Return for each item the first one of the same group.

    >>> first_of_each(np.array([7, 2, 7, 2]))
    array([0, 1, 0, 1])
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]


def lower_quantile(values: Floats, share: float) -> float:
    """Return the number that the given share of all values does not exceed: of two middle values, the lower one.

    >>> lower_quantile(np.array([4.0, 1.0, 3.0, 2.0]), 0.5)
    2.0
    """
    place = int(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


def robust_scale(norms: Floats) -> float:
    """Return the median of the norms that matter; 1.0 if all are 0.

    Left out are norms below a millionth of the largest one, after the largest hundredth of all norms was set aside. So
    the result depends neither on a few norms that are far above the others nor on many that are next to 0.

    >>> robust_scale(np.array([0.0, 0.0, 0.0, 0.0, 1e-30, 2.0, 3.0, 4.0, 1e9]))
    3.5
    """
    ordered = np.sort(norms[norms > 0])
    if not len(ordered):
        return 1.0
    large = ordered[max(0, len(ordered) - 1 - max(1, len(ordered) // 100))]
    return float(np.median(ordered[ordered > 2.0**-20 * large]))
