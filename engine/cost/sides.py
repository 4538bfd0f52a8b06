"""The rows of the source and of the target: their centres, and their distances from both centres."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch

from saematch.cost.walks import Walks, Whole
from saematch.numeric.rounding import Floats, Indices, lower_quantile, robust_scale
from saematch.numeric.rows import Rows


class Side:
    """The rows `(F, K)` of the source or of the target.

    Attributes:
        walks: what computes something of all rows, and where.
        rows: the rows themselves.
        centre: the centre `(K,)` that is subtracted from all rows.
        distance: |x_i - centre| `(F,)`.
        toward_other: <x_i - centre, other - centre> `(F,)`, where `other` is the centre of the other side.
        from_other: |x_i - other|^2 `(F,)`.
        sum_: the sum of x_i - centre over all rows, `(K,)`.
        scale: a power of two that brings the largest distance of both sides to about 1.
        norm: upper bounds for |x_i - centre| * scale `(F,)`.
    """

    def __init__(self, walks: Walks, centre: Floats, other: Floats, whole: bool = False) -> None:
        self.walks, self.rows, self.centre = walks, walks.rows, centre
        square, self.toward_other, self.from_other, self.sum_, self._whole = walks.prepared(centre, other, whole)
        self.distance = np.sqrt(square)

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

    def whole(self) -> Whole:
        """Return the centred rows as whole numbers, which are not kept; they are made again by another walk."""
        whole, self._whole = self._whole, None
        return whole or cast(Whole, self.walks.prepared(self.centre, self.centre, whole=True).whole)

    def working_copy(self, factor: float) -> torch.Tensor:
        """Return the centred and scaled rows times `factor`, rounded once to float32, on the device of the walks."""
        return self.walks.float32(self.centre, self.scale * factor)

    def float64(self, rows: Indices) -> torch.Tensor:
        """Return listed rows, centred and scaled, in float64.

        The memory is torch's, which is aligned: the last bits of a product by a library may depend on the alignment.
        """
        out = torch.empty((len(rows), self.rows.width), dtype=torch.float64, device="cpu")
        self.rows.centred(rows, self.centre, self.scale, out.numpy())
        return out


def _centre(rows: Rows) -> Floats:
    """Return the mean of the rows, without outliers, of which one would push all other rows off their centre.

    A row is no outlier up to four times the norm of the upper quartile: a size that many rows have in common is part of
    the mean. So both sides have similar centres even where their rows fall into groups.
    """
    square = rows.square
    included = square <= 16 * lower_quantile(square, 0.75) if len(rows) else np.zeros(0, dtype=np.bool_)
    return rows.column_sums(included) / max(1, int(included.sum()))


def make_sides(walks: tuple[Walks, Walks], centred: bool = True, whole: bool = False) -> tuple[Side, Side]:
    """Return both sides with a common scale.

    Args:
        walks: the walks over the rows of both sides.
        centred: whether rows are centred; the centres are 0 otherwise.
        whole: whether rows are rounded to whole numbers at once, because passes will multiply these.
    """
    x, y = walks
    a, b = (_centre(one.rows) if centred else np.zeros(one.rows.width) for one in walks)
    sides = Side(x, a, b, whole), Side(y, b, a, whole)
    largest = max(side.largest_distance for side in sides)
    scale = float(2.0 ** min(-np.ceil(np.log2(largest)), 500.0)) if largest > 0 else 1.0
    for side in sides:
        side.set_scale(scale)
    return sides
