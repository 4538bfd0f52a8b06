"""The rows of the source and of the target: their centre, their norms, and loops over listed pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from saematch.numeric.loops import centre_rows, column_sums, square_norms
from saematch.numeric.rounding import Floats, Indices, Rows, lower_quantile, robust_scale
from saematch.numeric.threads import ThreadPool


class Side:
    """The rows `(F, K)` of the source or of the target.

    Attributes:
        rows: the rows themselves.
        square: |x_i|^2 `(F,)`.
        centre: the centre `(K,)` that is subtracted from all rows; 0 unless they are to be `centred`.
        distance: |x_i - centre| `(F,)`.
        scale: a power of two that brings the largest distance of both sides to about 1.
        norm: upper bounds for |x_i - centre| * scale `(F,)`.
    """

    def __init__(self, rows: Rows, centred: bool = True) -> None:
        self.rows = rows
        origin = np.zeros(rows.shape[1])
        self.square = square_norms(rows, origin)
        self.centre = _centre(rows, self.square) if centred else origin
        self.distance = np.sqrt(square_norms(rows, self.centre))

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
        lost = math.sqrt(self.rows.shape[1] + 1) * 2.0**-536  # by squares that underflow
        self.norm = (self.distance + lost) * scale * (1 + 1e-9)

    def working_copy(self, factor: float) -> torch.Tensor:
        """Return the centred and scaled rows times `factor`, rounded once to float32."""
        copy = np.empty(self.rows.shape, dtype=np.float32)
        with ThreadPool(self.rows.size) as pool:
            pool.run(
                partial(centre_rows, self.rows[part], self.centre, self.scale * factor, copy[part])
                for part in pool.split(len(self.rows))
            )
        return torch.from_numpy(copy)

    def float64(self, rows: Indices) -> torch.Tensor:
        """Return listed rows, centred and scaled, in float64."""
        return torch.from_numpy((self.rows[rows] - self.centre) * self.scale)


def _centre(rows: Rows, square: Floats) -> Floats:
    """Return the mean of the rows, without outliers, of which one would push all other rows off their centre.

    A row is no outlier up to four times the norm of the upper quartile: a size that many rows have in common is part of
    the mean. So both sides have similar centres even where their rows fall into groups.
    """
    included = square <= 16 * lower_quantile(square, 0.75) if len(rows) else np.zeros(0, dtype=bool)
    count = max(1, int(included.sum()))
    centre: Floats = column_sums(rows if included.all() else rows[included], np.zeros(rows.shape[1])) / count
    return centre


def make_sides(x: Rows, y: Rows, centred: bool = True) -> tuple[Side, Side]:
    """Return both sides with a common scale."""
    with ThreadPool(x.size + y.size) as pool:
        sides = pool.run([partial(Side, x, centred), partial(Side, y, centred)])
    largest = max(side.largest_distance for side in sides)
    scale = float(2.0 ** min(-np.ceil(np.log2(largest)), 500.0)) if largest > 0 else 1.0
    for side in sides:
        side.set_scale(scale)
    return sides[0], sides[1]


def over_pairs(
    loop: Callable[..., None],
    x: Rows,
    y: Rows,
    rows: Indices,
    columns: Indices,
    *arguments: NDArray[np.float64] | float,
    results: int = 1,
) -> list[Floats]:
    """Run a compiled loop over the listed pairs of rows of `x` and `y`, on all threads.

    Returns the arrays that the loop fills, `results` of them, each with one number per pair.
    """
    filled = [np.empty(len(rows)) for _ in range(results)]
    with ThreadPool(len(rows) * x.shape[1]) as pool:
        pool.run(
            partial(loop, x, y, rows[part], columns[part], *arguments, *(out[part] for out in filled))
            for part in pool.split(len(rows))
        )
    return filled
