"""Look-ups that tolerate missing entries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_or(values: NDArray[Any], indices: NDArray[np.integer[Any]], missing: int) -> NDArray[Any]:
    """Return `values[indices]`, but `missing` where an index is -1 or the number of values.

    >>> take_or(np.array([5, 6]), np.array([1, -1, 0, 2]), -1)
    array([ 6, -1,  5, -1])
    """
    taken: NDArray[Any] = np.append(values, missing)[indices]
    return taken
