"""Rows as whole numbers between -127 and 127, and what their products can be away from the truth.

A product of such rows is a sum of whole numbers, which no hardware rounds. The whole error of the product is therefore
that of the rows, which is known row by row. It is small for rows whose entries are of similar size. An orthogonal
transform, which changes no product, makes them so: signs, a permutation and Hadamard matrices of 64 entries, twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.cost.sides import Side
from saematch.cost.transform import BLOCK
from saematch.numeric.rounding import UNIT_32, Floats, gamma, robust_scale

_LEAST_SCALE = np.float32(2.0**-120)  # the product of a scale and a whole number does not underflow
_ERROR = 24 * UNIT_32  # of the transform and of the residual, relative to the norm of a row, see `quantised`


@dataclass(frozen=True)
class Quantised:
    """Rows z_i of an orthogonal transform of x'_i, as z_i = scale_i values_i + a residual.

    Attributes:
        values: int8, `(F, 64 n)`, on the device of the rows.
        scale: float32, `(F,)`.
        residual: upper bounds for the norm of the residual, `(F,)`.
        norm: upper bounds for |x'_i|, `(F,)`.
        is_zero: whether all entries of a row are 0, or so small that their squares vanish, `(F,)`.
    """

    values: Tensor
    scale: NDArray[np.float32]
    residual: Floats
    norm: Floats
    is_zero: NDArray[np.bool_]

    @cached_property
    def size(self) -> Floats:
        """Upper bounds for the norm of scale_i values_i, `(F,)`."""
        return self.norm + self.residual

    @property
    def largest_residual(self) -> float:
        """The largest norm of a residual, relative to the norm of its row; 0.0 if all rows are 0."""
        ratios = self.residual[~self.is_zero] / self.norm[~self.is_zero]
        return float(ratios.max(initial=0.0))

    def typical(self, sizes: Floats) -> float:
        """Return a typical size of the rows that are not 0, from numbers for all rows."""
        return robust_scale(sizes[~self.is_zero])


def quantised(side: Side, factor: float) -> Quantised:
    """Quantise the centred and scaled rows of a side times `factor`, a power of two.

    Each row is centred in float64, multiplied by a power of two that brings its norm below 1, and rounded to float32,
    in which it is transformed. The residual is measured, as the norm of the difference between the transformed row and
    the whole numbers times the scale. Two bounds are added for rounding, in the units of 2^-24 of the norm of the row:

    1. The transformed row differs from the true one by at most 14: one rounding to float32, and twelve in the steps of
       two Hadamard transforms, each relative to the entries of a vector of the same norm as the row, but for powers of
       two. Signs, permutations and scaling by a power of two are exact. The difference from the whole numbers times the
       scale is rounded twice more, once relative to the row and once to the residual. Eight more cover what underflows,
       and the higher orders.
    2. A square of the residual is rounded, and so is the sum of 64 successive squares, in float32 and in any order;
       these sums are added up in float64.
    """
    values, unit, scale, square = side.whole()
    norm = side.norm * abs(factor)
    in_units = side.scale * factor / (unit * BLOCK)
    summed = gamma(BLOCK + 2, UNIT_32) + 1e-9
    residual = (np.sqrt(square) * (1 + summed) + _ERROR) * np.abs(in_units)
    # Rows that are so small that their scale would underflow are left out as a whole.
    scale_64 = scale * in_units
    lost = np.nonzero(np.abs(scale_64) < _LEAST_SCALE)[0]
    values[torch.from_numpy(lost).to(values.device)] = 0
    scale_64[lost], residual[lost] = _LEAST_SCALE, norm[lost]
    return Quantised(values, scale_64.astype(np.float32), residual, norm, side.distance == 0)


def int8_pads(x: Quantised, y: Quantised) -> tuple[Floats, Floats]:
    """Return a `(F_A,)` and b `(F_B,)`: in a sum with a price, the value of a pair is wrong by a_i + b_j at most.

    Let z_i and z_j be the transformed rows, whose product M_ij is that of the rows themselves; s_i and t_j the scales,
    q_i and p_j the whole numbers, d_i = |z_i - s_i q_i| and d_j = |z_j - t_j p_j| the residuals. The value of the pair
    is s_i t_j <q_i, p_j>, in which the sum <q_i, p_j> is exact.

    **Theorem.** |M_ij - s_i t_j <q_i, p_j>| <= d_i |z_j| + |s_i q_i| d_j.

    *Proof.* The difference is <z_i, z_j> - <s_i q_i, t_j p_j> = <z_i - s_i q_i, z_j> + <s_i q_i, z_j - t_j p_j>. By the
    inequality of Cauchy and Schwarz, the first product is at most d_i |z_j|, and the second at most |s_i q_i| d_j.

    Three roundings follow, each relative to at most |s_i q_i| |t_j p_j| by the same inequality: of the sum to float32,
    and of its products with t_j and with s_i. The sum with a price rounds once more. Eight units of 2^-24 are counted,
    which leaves room for the higher orders. What underflows is less than 2^-125.

    Each of these products of a row's number and a column's number is split by the inequality of means: for any r > 0,

        d_i |z_j|  <=  (d_i^2 / r + r |z_j|^2) / 2,

    where r is the typical ratio of both. So a row with a large residual widens the bound of its own pairs only.

    The theorem asks of the hardware only that it adds and multiplies whole numbers, and the roundings, that float32
    operations round to nearest.
    """
    row_pad, column_pad = np.full(len(x.norm), 2.0**-124), np.zeros(len(y.norm))
    for row, column in ((x.residual, y.norm), (x.size, y.residual), (8 * UNIT_32 * x.size, y.size)):
        ratio = x.typical(row) / y.typical(column)
        row_pad += row**2 / (2 * ratio)
        column_pad += column**2 * (ratio / 2)
    # One spare unit for the share of the column's part in the rounding of the sum with a price.
    return row_pad * (1 + 2.0**-20), column_pad * (1 + 2.0**-20)
