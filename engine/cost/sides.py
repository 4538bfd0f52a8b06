"""The rows of the source and of the target: their centres, and their distances from both centres."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from saematch.numeric.loops import centre_rows, measure_rows
from saematch.numeric.rounding import Floats, Indices, lower_quantile, robust_scale
from saematch.numeric.rows import Rows, chunks
from saematch.numeric.threads import ThreadPool


class Side:
    """The rows `(F, K)` of the source or of the target.

    Attributes:
        rows: the rows themselves.
        centre: the centre `(K,)` that is subtracted from all rows.
        distance: |x_i - centre| `(F,)`.
        toward_other: <x_i - centre, other - centre> `(F,)`, where `other` is the centre of the other side.
        from_other: |x_i - other|^2 `(F,)`.
        sum_: the sum of x_i - centre over all rows, `(K,)`.
        scale: a power of two that brings the largest distance of both sides to about 1.
        norm: upper bounds for |x_i - centre| * scale `(F,)`.
    """

    def __init__(self, rows: Rows, centre: Floats, other: Floats) -> None:
        self.rows, self.centre = rows, centre
        square, self.toward_other, self.from_other = (np.empty(len(rows)) for _ in range(3))
        parts = chunks(len(rows))
        sums = np.zeros((len(parts), rows.width))
        with ThreadPool(rows.size) as pool:
            pool.run(
                partial(
                    measure_rows,
                    rows.arrays,
                    part.start,
                    part.stop,
                    centre,
                    other,
                    square,
                    self.toward_other,
                    self.from_other,
                    sums[n],
                )
                for n, part in enumerate(parts)
            )
        self.distance, self.sum_ = np.sqrt(square), sums.sum(axis=0)

    @property
    def largest_distance(self) -> float:
        """The largest distance of a row from the centre; 0.0 without rows."""
        return float(self.distance.max(initial=0.0))

    @property
    def typical_norm(self) -> float:
        """A typical norm of the rows that differ from the centre."""
        return robust_scale(self.norm[self.distance > 0])

    def set_scale(self, scale: float) -> None:
        """Set the scale, and the norms in its units."""
        self.scale = scale
        lost = math.sqrt(self.rows.width + 1) * 2.0**-536  # by squares that underflow
        self.norm = (self.distance + lost) * scale * (1 + 1e-9)

    def working_copy(self, factor: float) -> torch.Tensor:
        """Return the centred and scaled rows times `factor`, rounded once to float32."""
        copy = np.empty((len(self.rows), self.rows.width), dtype=np.float32)
        with ThreadPool(self.rows.size) as pool:
            pool.run(
                partial(centre_rows, self.rows.arrays, part.start, part.stop, self.centre, self.scale * factor, copy)
                for part in pool.split(len(self.rows))
            )
        return torch.from_numpy(copy)

    def float64(self, rows: Indices) -> torch.Tensor:
        """Return listed rows, centred and scaled, in float64."""
        return torch.from_numpy((self.rows.float64(rows) - self.centre) * self.scale)


def _centre(rows: Rows) -> Floats:
    """Return the mean of the rows, without outliers, of which one would push all other rows off their centre.

    A row is no outlier up to four times the norm of the upper quartile: a size that many rows have in common is part of
    the mean. So both sides have similar centres even where their rows fall into groups.
    """
    square = rows.square
    included = square <= 16 * lower_quantile(square, 0.75) if len(rows) else np.zeros(0, dtype=np.bool_)
    return rows.column_sums(included) / max(1, int(included.sum()))


def make_sides(x: Rows, y: Rows, centred: bool = True) -> tuple[Side, Side]:
    """Return both sides with a common scale; the centres are 0 unless rows are to be `centred`."""
    a, b = (_centre(rows) if centred else np.zeros(rows.width) for rows in (x, y))
    sides = Side(x, a, b), Side(y, b, a)
    largest = max(side.largest_distance for side in sides)
    scale = float(2.0 ** min(-np.ceil(np.log2(largest)), 500.0)) if largest > 0 else 1.0
    for side in sides:
        side.set_scale(scale)
    return sides
