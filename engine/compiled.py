"""Numba as this package uses it: compiled on first use, cached on disk where a disk allows it, free of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a loop with IEEE arithmetic in the order written."""
    return _compiled(function, fastmath=False)


def compiled_sums(function: Function) -> Function:
    """Compile a loop whose floating-point sums may be reordered, so that they vectorise.

    The order is fixed for a machine, whatever the number of threads; rounding bounds must hold for any order.
    """
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: Function, **options: Any) -> Function:
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:  # no folder to cache in: neither the package's nor the user's can be written
        return cast(Function, numba.njit(nogil=True, **options)(function))
