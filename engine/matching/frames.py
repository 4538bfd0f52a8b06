"""Matchings as tables of pandas, which is imported only when a table is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.errors import MatchError
from saematch.numeric.rounding import Floats, Indices


def import_pandas() -> Any:
    """Return the module pandas. Raises `MatchError` if it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise MatchError("to_pandas needs the package pandas: pip install pandas") from error
    return pandas


def columns_of(perm: Indices, cost: Floats, cosine: Floats | None) -> dict[str, NDArray[Any]]:
    """Return the columns of a table with one row per source feature; NaN stands for what is not known.

    >>> columns_of(np.array([1, -1]), np.array([2.0, 0.0]), None)["cost"]
    array([ 2., nan])
    """
    matched = perm >= 0
    return {
        "feature": np.arange(len(perm)),
        "partner": np.where(matched, perm, np.nan),
        "cost": np.where(matched, cost, np.nan),
        "cosine": np.full(len(perm), np.nan) if cosine is None else cosine,
    }
