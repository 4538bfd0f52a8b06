"""Checks of the numbers that callers give as arguments: numbers of Python, numpy or torch."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

import numpy as np

from saematch.errors import MatchError


def whole_number(given: Any) -> int | None:
    """Return the integer that `given` is, or None if it is not an integer.

    Integers are those of Python, numpy and torch, also in an array or tensor without dimensions. A bool is not an
    integer here, nor is a float with an integral value, nor a masked value.

    >>> whole_number(np.int64(3)), whole_number(3.0), whole_number(True)
    (3, None, None)
    """
    if "bool" in _kind(given) or not _is_single(given):
        return None
    try:
        return operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def real_number(given: Any) -> float | None:
    """Return the integer or float that `given` is, or None if it is neither; the kinds are those of `whole_number`."""
    whole = whole_number(given)
    if whole is not None or not _is_single(given):
        return whole
    if not isinstance(given, float) and not re.fullmatch(r"(torch\.)?b?(float\d*|longdouble)", _kind(given)):
        return None
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def checked_number(given: Any, low: float, high: float, message: str, *, above: bool = False) -> float:
    """Return `given` as a float if it is a `real_number` in `[low, high]`, or in `(low, high]` with `above`.

    Raises:
        MatchError: with `message`, for anything else.
    """
    number = real_number(given)
    try:
        value = math.nan if number is None else float(number)
    except OverflowError:
        value = math.nan
    if not (low < value if above else low <= value) or not value <= high:  # NaN is refused too
        raise MatchError(message)
    return value


def checked_count(given: Any, least: int, message: str, most: float = math.inf) -> int:
    """Return `given` as an int if it is a `whole_number` from `least` to `most`.

    Raises:
        MatchError: with `message`, for anything else.
    """
    number = whole_number(given)
    if number is None or not least <= number <= most:
        raise MatchError(message)
    return number


def hides_values(given: Any) -> bool:
    """Whether `given` has a mask that hides some of its values, as arrays of `numpy.ma` and other libraries have.

    >>> hides_values(np.ma.masked_array([1.0, 2.0], [False, True]))
    True
    """
    mask = getattr(given, "mask", None)  # a table has a method of that name
    return mask is not None and not callable(mask) and bool(np.any(mask))


def _kind(given: Any) -> str:
    """Return the name of the number type of `given`, or of its Python type if it has none."""
    kind = getattr(given, "dtype", type(given))
    return str(getattr(kind, "name", getattr(kind, "__name__", kind)))


def _is_single(given: Any) -> bool:
    """Whether `given` is one value that no mask hides."""
    return getattr(given, "ndim", 0) == 0 and not hides_values(given)
