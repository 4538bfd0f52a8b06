"""Curves of the recovered share of the loss over the number of pairs of features, and the area under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saematch.analysis.tables import Row
from saematch.evaluation.loss import LossSums
from saematch.evaluation.uncertainty import UNKNOWN, bootstrap_counts, interval, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.options import ReplacedBy

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the pairs at the end of a curve, at its points


@dataclass(frozen=True)
class Pairing:
    """A source for each of some targets.

    Attributes:
        method: the method whose pairs have these targets, which are in its order.
        replaced_by: where the sources are from; None if the targets are left out.
        sources: source features, int64 `(pairs,)`.
        targets: target features, int64 `(pairs,)`.
    """

    method: str
    replaced_by: ReplacedBy | None
    sources: Indices
    targets: Indices


def curve_of(pairs: int) -> list[int]:
    """Return the numbers of pairs at the points of a curve that ends at `pairs`.

    >>> curve_of(2000)
    [100, 200, 500, 1000, 2000]
    """
    return sorted({max(1, round(share * pairs)) for share in SHARES})


class Curve(NamedTuple):
    """The losses of a pairing at each number of pairs, `(units, sizes)`, and those of the same targets left out."""

    pairing: Pairing
    loss: Floats
    without: Floats
    sums: LossSums

    def is_known(self) -> NDArray[np.bool_]:
        """Return whether the loss rises for certain if the targets are left out, at each number of pairs `(sizes,)`.

        Otherwise, the denominator of the recovered share may be 0, and the share any number.
        """
        counts, (_, lost) = bootstrap_counts(len(self.loss)), self._sums()
        return np.array([interval(_sum, of_size, counts=counts).low > 0 for of_size in lost.T])

    def points(self, sizes: Sequence[int], active: NDArray[np.bool_]) -> Iterator[Row]:
        """Yield one row for each number of pairs; `active (F,)` says which targets are ever active."""
        counts, tokens = bootstrap_counts(len(self.loss)), float(self.sums.tokens.sum())
        is_known = self.is_known()
        for place, size in enumerate(sizes):
            saved, lost = (sums[:, place] for sums in self._sums())
            share = interval(mean_ratio, saved, lost, counts=counts) if is_known[place] else UNKNOWN
            yield {
                **self._names(),
                "pairs": size,
                "active": int(active[self.pairing.targets[:size]].sum()),
                "loss": float(self.loss[:, place].sum()) / tokens,
                "loss_without": float(self.without[:, place].sum()) / tokens,
                "clean_loss": float(self.sums.clean.sum()) / tokens,
                **vars(share),
            }

    def area(self, sizes: Sequence[int], first: int, evaluated: Curve) -> Row:
        """Return the row of the area from a point on, and of its difference from that of the evaluated run.

        `first` is the number of the point, see `first_known`. Without points, there are no values.
        """
        kept, value, less = sizes[first:], UNKNOWN, UNKNOWN
        if kept:
            area, counts = partial(_area, _area_weights(kept)), bootstrap_counts(len(self.loss))
            own, other = ([sums[:, first:] for sums in curve._sums()] for curve in (self, evaluated))
            value = interval(area, *own, counts=counts)
            less = interval(lambda *sums: area(*sums[:2]) - area(*sums[2:]), *own, *other, counts=counts)
        return {
            **self._names(),
            "fewest": min(kept, default=None),
            "most": max(kept, default=None),
            **vars(value),
            "difference": less.value,
            "difference_low": less.low,
            "difference_high": less.high,
        }

    def _sums(self) -> tuple[Floats, Floats]:
        """Return what is recovered and what is lost, `(units, sizes)` each."""
        return self.without - self.loss, self.without - self.sums.clean[:, None]

    def _names(self) -> Row:
        return {"method": self.pairing.method, "replaced_by": self.pairing.replaced_by}


def first_known(curves: Sequence[Curve]) -> int:
    """Return the number of the first point from which on all curves are known, see `Curve.is_known`."""
    is_known = np.all([curve.is_known() for curve in curves], axis=0)
    return len(is_known) - int(np.cumprod(is_known[::-1]).sum())


def _area_weights(sizes: Sequence[int]) -> Floats:
    """Return the weights of the trapezoidal rule over the logarithm of the sizes, with sum 1.

    Over the sizes themselves, the last step alone would have half of the weight: the sizes about double at each step.
    """
    steps = np.diff(np.log(sizes))
    weights = np.append(steps, 0.0) + np.append(0.0, steps)
    return weights / weights.sum() if len(sizes) > 1 else np.ones(1)


def _sum(values: Floats) -> Floats:
    return values


def _area(weights: Floats, saved: Floats, lost: Floats) -> Floats:
    shares = np.divide(saved, lost, out=np.full(saved.shape, np.nan), where=lost != 0)
    area: Floats = shares @ weights
    return area
