"""Look-ups that tolerate missing entries, and numbers that are kept by ascending keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.rounding import Floats, Indices


def take_or(values: NDArray[Any], indices: NDArray[np.integer[Any]], missing: int) -> NDArray[Any]:
    """Return `values[indices]`, but `missing` where an index is -1 or the number of values.

    >>> take_or(np.array([5, 6]), np.array([1, -1, 0, 2]), -1)
    array([ 6, -1,  5, -1])
    """
    taken: NDArray[Any] = np.append(values, missing)[indices]
    return taken


def places_of(indices: Indices, size: int) -> NDArray[np.int32]:
    """Return the place of each number below `size` in a list of indices; -1 for numbers that are not in it.

    >>> places_of(np.array([3, 0]), 4)
    array([ 1, -1, -1,  0], dtype=int32)
    """
    places = np.full(size, -1, dtype=np.int32)
    places[indices] = np.arange(len(indices))
    return places


def are_missing(keys: Indices, wanted: Indices) -> NDArray[np.bool_]:
    """Return which of the `wanted` keys are not among the ascending `keys`. No key is -1.

    >>> are_missing(np.array([2, 5]), np.array([1, 2, 9]))
    array([ True, False,  True])
    """
    missing: NDArray[np.bool_] = take_or(keys, np.searchsorted(keys, wanted), -1) != wanted
    return missing


def merged_by_key(keys: Indices, values: Floats, new: Indices, new_values: Floats) -> tuple[Indices, Floats]:
    """Return ascending keys and their values after adding others, none of which is there yet.

    >>> merged_by_key(np.array([2, 5]), np.array([0.2, 0.5]), np.array([3]), np.array([0.3]))
    (array([2, 3, 5]), array([0.2, 0.3, 0.5]))
    """
    keys, values = np.concatenate([keys, new]), np.concatenate([values, new_values])
    order = np.argsort(keys, kind="stable")
    return keys[order], values[order]
