"""Bootstrap confidence intervals, resampling whole documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saematch.activations.selection import UNITS
from saematch.numeric.rounding import Floats

RESAMPLES, LEVEL = 1000, 0.95
_IN_MEMORY = 50  # resamples whose sums over features are in memory at a time

INTERVAL_COLUMNS = {
    "documents": f"number of documents, which are resampled {RESAMPLES} times for the interval, in {UNITS} groups if "
    "there are more. With fewer than about ten, intervals are too narrow",
    "low": f"lower end of the {LEVEL:.0%} bootstrap interval, its mean shifted to the value",
    "high": f"upper end of the {LEVEL:.0%} bootstrap interval, its mean shifted to the value",
}


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)  # of what has no value


def bootstrap_counts(units: int, seed: int = 0) -> Floats:
    """Return how often each unit is drawn in each resample, `(RESAMPLES, units)`."""
    r = np.random.default_rng(seed)
    return np.array([np.bincount(r.integers(0, units, units), minlength=units) for _ in range(RESAMPLES)], float)


def interval(statistic: Callable[..., Floats], *sums: Floats, counts: Floats) -> Interval:
    """Estimate a statistic of sums over all units, with its bootstrap interval.

    The resampled values are shifted so that their mean is the estimate. Without this shift, an interval of a mean over
    features may exclude its own estimate: a feature that is active in few documents is missing from some resamples, so
    the mean of the resamples is biased.

    Args:
        statistic: a function of sums `(n,)` or `(n, F)`, one row per resample, that returns `(n,)`.
        sums: the sums over each unit, `(units,)` or `(units, F)`: one array per argument of `statistic`.
        counts: the result of `bootstrap_counts`.

    Examples:
        >>> import numpy as np
        >>> from saematch.evaluation.uncertainty import bootstrap_counts, interval, mean_ratio
        >>> active, tokens = np.array([3.0, 5.0, 4.0, 4.0]), np.array([10.0, 10.0, 10.0, 10.0])
        >>> share = interval(mean_ratio, active, tokens, counts=bootstrap_counts(4))
        >>> share.value, share.low < 0.4 < share.high
        (0.4, True)
    """
    value = statistic(*(values.sum(axis=0, keepdims=True) for values in sums))[0]
    parts = np.array_split(counts, max(1, len(counts) // _IN_MEMORY))
    resampled = np.concatenate([statistic(*(part @ values for values in sums)) for part in parts])
    finite = resampled[np.isfinite(resampled)]
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(finite - finite.mean(), (edge, 1 - edge)) if len(finite) else (np.nan, np.nan)
    return Interval(float(value), float(value + low), float(value + high))


def mean_ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return the ratio in each row; for `(n, F)`, the mean over the features whose ratio exists."""
    ratios = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)
    return ratios if ratios.ndim == 1 else mean_of_rows(ratios)


def mean_of_rows(values: Floats) -> Floats:
    """Return the mean of the finite values in each row of `(n, F)`; NaN for a row without finite values."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    means: Floats = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means
