"""The one error class of the package, and the numbers that are checked for it: of Python, numpy or torch."""

from __future__ import annotations

import errno
import math
import operator
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_LONGEST = 4_000  # letters of a message
_NOT_ENOUGH = "not enough memory"
# In the words of torch's allocators, of C++, of the system as safetensors and torch pass it on, of Python, of the
# loader of shared libraries, and of llvmlite, which cannot load its own.
_NO_MEMORY = re.compile(
    r"out of memory|bad_alloc|Cannot allocate memory|os error 12\b|DefaultCPUAllocator|can't start new thread"
    r"|can't allocate lock|failed to map segment|Could not find/load shared object|returned NULL without setting"
    r"|error return without exception set"
)


class MatchError(ValueError):
    """Anything a user can put right: the message says what was given, what is wrong and what to do.

    Text of strangers in it may be of any length, and is cut.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 500]} … {message[-500:]}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is short, whichever library raised it.

    Python and numpy raise `MemoryError`, the system `OSError`, and torch and safetensors a `RuntimeError` or an error
    of their own that says so in words alone. What a `MatchError` says is never taken for it: its text may be a file's.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    in_words = isinstance(error, RuntimeError | ImportError | SystemError | OSError)
    in_words = in_words or type(error).__name__ == "SafetensorError"
    return isinstance(error, MemoryError) or (in_words and bool(_NO_MEMORY.search(str(error))))


def refuse_out_of_memory(error: BaseException, what: str) -> None:
    """Raise `MemoryError`, which says for what there is too little memory, if that is why `error` was raised.

    To be called before an error is taken for the fault of an input.
    """
    if isinstance(error, MemoryError) and str(error).startswith(_NOT_ENOUGH):
        raise error  # it says so already
    if is_out_of_memory(error):
        raise MemoryError(f"{_NOT_ENOUGH} for {what} ({first_line(error)})") from error


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Turn every error of too little memory into a `MemoryError` that says for what."""
    try:
        yield
    except Exception as error:
        refuse_out_of_memory(error, what)
        raise


def about_memory(error: BaseException) -> str:
    """The reason, for messages, that an exception of too little memory gives."""
    said = first_line(error)
    return said if said.startswith(_NOT_ENOUGH) else f"{_NOT_ENOUGH} ({said})"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def whole_number(given: Any) -> int | None:
    """The integer that this is: Python's, numpy's or torch's, a 0-d array or tensor too; None for anything else.

    A bool is not an integer here, nor is a float whose value is whole, nor a masked value.
    """
    if "bool" in _kind(given) or not _is_single(given):
        return None
    try:
        return operator.index(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def real_number(given: Any) -> float | None:
    """The integer or float that this is, of the same kinds as in `whole_number`; None for anything else."""
    whole = whole_number(given)
    if whole is not None or not _is_single(given):
        return whole
    if not isinstance(given, float) and not re.fullmatch(r"(torch\.)?b?(float\d*|longdouble)", _kind(given)):
        return None
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def hides_values(given: Any) -> bool:
    """Whether a mask of its own hides some of its values, as in arrays of `numpy.ma`, and in those of other libraries.

    >>> hides_values(np.ma.masked_array([1.0, 2.0], [False, True]))
    True
    """
    mask = getattr(given, "mask", None)  # of a table, it is a method
    return not callable(mask) and bool(np.any(mask))


def _kind(given: Any) -> str:
    """The name of its number type, or of its own type where it has none."""
    kind = getattr(given, "dtype", type(given))
    return str(getattr(kind, "name", getattr(kind, "__name__", kind)))


def _is_single(given: Any) -> bool:
    """Whether it is one value, which no mask hides."""
    return getattr(given, "ndim", 0) == 0 and not hides_values(given)


def checked_number(given: Any, low: float, high: float, message: str, *, above: bool = False) -> float:
    """A `real_number` from `low`, or above it, to `high`, as a float. Raises `MatchError` with the message."""
    try:
        number = float(math.nan if (found := real_number(given)) is None else found)
    except OverflowError:
        number = math.nan
    if not (low < number if above else low <= number) or not number <= high:  # NaN fails this too
        raise MatchError(message)
    return number


def checked_count(given: Any, least: int, message: str, most: float = math.inf) -> int:
    """A `whole_number` from `least` to `most`. Raises `MatchError` with the message."""
    number = whole_number(given)
    if number is None or not least <= number <= most:
        raise MatchError(message)
    return number
