"""Firing rates of features: how often each of them fires, as another program has counted it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from saematch.errors import MatchError, refusals
from saematch.numeric.arrays import dense_array
from saematch.numeric.rounding import Floats
from saematch.sources import SAEHandle
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at
from saematch.text import listing


def read_rates(path: str | os.PathLike[str]) -> Floats:
    """Return the numbers in a file: a `.npy` file of one array, or a text file with one number a line.

    Raises:
        MatchError: if the file cannot be read, or a line is not a number.
    """
    file = local_path(path)
    refuse_pointer_at(file)
    kinds = (OSError, ValueError, TypeError, EOFError, RecursionError)
    with refusals("no firing rates can be read", file, *kinds, remedy="expected .npy, or one number a line"):
        if file.suffix == ".npy":
            return dense_array(np.load(file, allow_pickle=False), str(file), "(F,)")
        return np.array([float(line) for line in file.read_text("utf-8").split()])


def checked_rates(given: Any, name: str, handles: Mapping[str, SAEHandle]) -> Floats:
    """Return the firing rates of one SAE as float64.

    Raises:
        MatchError: unless the SAE exists, and there is one finite number, not below 0, for each of its features.
    """
    if name not in handles:
        raise MatchError(f"firing_rates has {name!r}, which is not among the names {listing(handles)}")
    rates, features = dense_array(given, f"the firing rates of {name}", "(F,)"), handles[name].describe().sae.F
    if rates.dtype.kind not in "fiu" or rates.shape != (features,):
        raise MatchError(
            f"the firing rates of {name} are {rates.dtype} {rates.shape}; expected ({features},), one number a feature"
        )
    rates = rates.astype(np.float64)
    bad = np.nonzero(~(np.isfinite(rates) & (rates >= 0)))[0]
    if len(bad):
        raise MatchError(
            f"the firing rates of {name}: feature {bad[0]} has {rates[bad[0]]:g}; give finite numbers >= 0"
        )
    return rates
