"""The one error class of the package, and the numbers that are checked for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LONGEST = 4_000  # letters of a message


class MatchError(ValueError):
    """Anything a user can put right: the message says what was given, what is wrong and what to do.

    Text of strangers in it may be of any length, and is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 500]} … {message[-500:]}")


def checked_number(given: Any, low: float, high: float, message: str, *, above: bool = False) -> float:
    """A number of Python's or numpy's from `low`, or above it, to `high`. Raises `MatchError` with the message."""
    try:
        number = float(given) if isinstance(given, int | float | np.integer | np.floating) else math.nan
    except OverflowError:
        number = math.nan
    if not (low < number if above else low <= number) or not number <= high:  # NaN fails this too
        raise MatchError(message)
    return number


def checked_count(given: Any, least: int, message: str) -> int:
    """A whole number of Python's or numpy's, at least so large. Raises `MatchError` with the message."""
    if not isinstance(given, int | np.integer) or isinstance(given, bool) or given < least:
        raise MatchError(message)
    return int(given)
