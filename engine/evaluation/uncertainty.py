"""How sure a mean is: intervals from drawing whole documents again, with replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saematch.numeric.rounding import Floats

DRAWS, LEVEL = 1000, 0.95
UNITS = 200  # what is drawn: documents, or groups of them where there are more
_AT_ONCE = 50  # draws whose sums over features are in memory together

COLUMNS = {
    "documents": f"drawn again, {DRAWS} times, for the interval; more than {UNITS} are drawn in {UNITS} groups",
    "low": f"lower end of the {LEVEL:.0%} bootstrap interval, its mean moved onto the value",
    "high": f"upper end of the {LEVEL:.0%} bootstrap interval, its mean moved onto the value",
}


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval."""

    value: float
    low: float
    high: float


def draws(units: int, seed: int = 0) -> Floats:
    """How often each of `units` comes up in each draw, `(DRAWS, units)`."""
    r = np.random.default_rng(seed)
    return np.array([np.bincount(r.integers(0, units, units), minlength=units) for _ in range(DRAWS)], float)


def interval(statistic: Callable[..., Floats], *sums: Floats, draws: Floats) -> Interval:
    """`statistic(*sums)` of sums over all units, and how it varies where units are drawn again.

    The draws are moved onto the value: a mean over features is biased in them, since what fires in few documents is in
    some draws not there at all.

    Args:
        statistic: takes sums `(n,)` or `(n, F)` of some draws, each in a row of its own, and returns `(n,)`.
        sums: of each unit, `(units,)` or `(units, F)`.
        draws: of the function `draws`.
    """
    value = statistic(*(each.sum(axis=0, keepdims=True) for each in sums))[0]
    parts = np.array_split(draws, max(1, len(draws) // _AT_ONCE))
    drawn = np.concatenate([statistic(*(part @ each for each in sums)) for part in parts])
    known = drawn[np.isfinite(drawn)]
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(known - known.mean(), (edge, 1 - edge)) if len(known) else (np.nan, np.nan)
    return Interval(float(value), float(value + low), float(value + high))


def mean_ratio(above: Floats, below: Floats) -> Floats:
    """The ratio in each row; of `(n, F)`, the mean over features of the ratios that exist."""
    ratios = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return ratios if ratios.ndim == 1 else mean_of_rows(ratios)


def mean_of_rows(values: Floats) -> Floats:
    """Of the finite values in each row `(n, F)`; NaN where there is none."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    means: Floats = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return means
