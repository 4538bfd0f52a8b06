"""Curves of the recovered share of the loss over the number of pairs of features, and the area under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from saematch.analysis.tables import Row
from saematch.evaluation.loss import LossSums
from saematch.evaluation.uncertainty import Interval, bootstrap_counts, interval, mean_ratio
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

    def points(self, sizes: Sequence[int], active: Floats) -> Iterator[Row]:
        """Yield one row for each number of pairs."""
        counts, tokens = bootstrap_counts(len(self.loss)), float(self.sums.tokens.sum())
        for place, size in enumerate(sizes):
            saved, lost = (sums[:, place] for sums in self._sums())
            yield {
                **self._names(),
                "pairs": size,
                "active": int(active[self.pairing.targets[:size]].sum()),
                "loss": float(self.loss[:, place].sum()) / tokens,
                "loss_without": float(self.without[:, place].sum()) / tokens,
                "clean_loss": float(self.sums.clean.sum()) / tokens,
                **vars(interval(mean_ratio, saved, lost, counts=counts)),
            }

    def area(self, sizes: Sequence[int], evaluated: Curve) -> Row:
        """Return the row of the area, and of its difference from that of the evaluated run."""
        counts = bootstrap_counts(len(self.loss))
        area = partial(_area, _area_weights(sizes))

        def difference(saved: Floats, lost: Floats, other_saved: Floats, other_lost: Floats) -> Floats:
            return area(saved, lost) - area(other_saved, other_lost)

        less = Interval(0.0, 0.0, 0.0)
        if self is not evaluated:
            less = interval(difference, *self._sums(), *evaluated._sums(), counts=counts)
        return {
            **self._names(),
            "fewest": sizes[0],
            "most": sizes[-1],
            **vars(interval(area, *self._sums(), counts=counts)),
            "difference": less.value,
            "difference_low": less.low,
            "difference_high": less.high,
        }

    def _sums(self) -> tuple[Floats, Floats]:
        """Return what is recovered and what is lost, `(units, sizes)` each."""
        return self.without - self.loss, self.without - self.sums.clean[:, None]

    def _names(self) -> Row:
        return {"method": self.pairing.method, "replaced_by": self.pairing.replaced_by}


def _area_weights(sizes: Sequence[int]) -> Floats:
    """Return the weights of the trapezoidal rule over the logarithm of the sizes, with sum 1.

    Over the sizes themselves, the last step alone would have half of the weight: the sizes about double at each step.
    """
    steps = np.diff(np.log(sizes))
    weights = np.append(steps, 0.0) + np.append(0.0, steps)
    return weights / weights.sum() if len(sizes) > 1 else np.ones(1)


def _area(weights: Floats, saved: Floats, lost: Floats) -> Floats:
    shares = np.divide(saved, lost, out=np.full(saved.shape, np.nan), where=lost != 0)
    area: Floats = shares @ weights
    return area
