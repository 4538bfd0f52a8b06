"""The error class of the package, its kind for mappings, and the exceptions that mean that memory is too small."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from saematch.text import first_line

_LONGEST = 4_000  # letters of a message
_LONGEST_REASON = 200  # letters of the reason that another library gives
# An exception whose message matches this pattern means that memory ran out. The alternatives are messages of torch's
# allocators, of C++, of the operating system (passed on by safetensors and torch), of Python, of the loader of shared
# libraries, and of llvmlite when it cannot load its own library.
_NO_MEMORY = re.compile(
    r"out of memory|bad_alloc|Cannot allocate memory|os error 12\b|DefaultCPUAllocator|can't start new thread"
    r"|can't allocate lock|failed to map segment|Could not find/load shared object|returned NULL without setting"
    r"|error return without exception set"
)


class MatchError(ValueError):
    """An error that a user can correct: the message says what was given, what is wrong, and what to do.

    The message may quote text of any length from a file. A message of more than 4,000 letters is cut in the middle.

    Examples:
        >>> import saematch as sm
        >>> try:
        ...     sm.load_layers("no/such/folder")
        ... except sm.MatchError as error:
        ...     print(error)
        no/such/folder: no such file or folder
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 500]} … {message[-500:]}")


class NoSuchKey(MatchError, KeyError):
    """A key that a mapping does not have; the message says which keys there are."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show the message in quotation marks


class NotEnoughMemory(MemoryError):
    """Memory ran out, and the message says for what: "not enough memory for …"."""


@contextmanager
def refusals(wrong: str, name: object, *kinds: type[Exception], remedy: str = "") -> Iterator[None]:
    """Turn an exception of the `with` block into `MatchError("<name>: <wrong> (<reason>); <remedy>")`.

    A `MatchError` passes unchanged. If memory ran out, `name` is not to blame, and `NotEnoughMemory` is raised.

    Args:
        wrong: the failure, such as "cannot be read".
        name: the file, folder or address that the block reads or writes.
        *kinds: the exceptions that are the fault of `name`; any `Exception` by default. Others pass unchanged.
        remedy: advice to the user.

    >>> with refusals("cannot be read", "cfg.json", KeyError, remedy="write it again"):
    ...     {}["d_sae"]
    Traceback (most recent call last):
    saematch.errors.MatchError: cfg.json: cannot be read (KeyError: 'd_sae'); write it again
    """
    try:
        yield
    except MatchError:
        raise
    except Exception as error:
        refuse_out_of_memory(error, str(name))
        if not isinstance(error, kinds or Exception):
            raise
        raise MatchError(f"{name}: {wrong} ({reason_of(error)}){f'; {remedy}' if remedy else ''}") from error


def reason_of(error: BaseException) -> str:
    """Return the reason that an exception gives, on one line, for a message that already names the file.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "params.npz"))
    'No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    named = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""  # whose message is the key alone
    return f"{named}{first_line(error)}"[:_LONGEST_REASON]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, whichever library raised it.

    Python and numpy raise `MemoryError`, the operating system `OSError`, and torch and safetensors a `RuntimeError` or
    an error class of their own whose message alone says so. A `MatchError` is never taken for one, because its message
    may quote a file.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    in_words = isinstance(error, RuntimeError | ImportError | SystemError | OSError)
    in_words = in_words or type(error).__name__ == "SafetensorError"
    return isinstance(error, MemoryError) or (in_words and bool(_NO_MEMORY.search(str(error))))


def refuse_out_of_memory(error: BaseException, what: str) -> None:
    """Raise `NotEnoughMemory` for `what` if `error` means that memory ran out.

    Call this function before an exception is taken for the fault of an input.
    """
    if isinstance(error, NotEnoughMemory):
        raise error  # its message says for what
    if is_out_of_memory(error):
        raise NotEnoughMemory(f"not enough memory for {what} ({first_line(error)})") from error


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Turn every exception of the `with` block that means that memory ran out into `NotEnoughMemory` for `what`."""
    try:
        yield
    except Exception as error:
        refuse_out_of_memory(error, what)
        raise


def about_memory(error: BaseException) -> str:
    """Return the reason for a message about an exception that means that memory ran out."""
    return str(error) if isinstance(error, NotEnoughMemory) else f"not enough memory ({first_line(error)})"
