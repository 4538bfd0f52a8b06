"""Squared distances between all rows of two matrices.

    M_ij = -2 <x'_i, y'_j>,      q_j = |y_j - a|^2,      p_i = |x_i - a|^2 - 2 <x_i - a, b - a>,

where a and b are the centres of the rows x and of the rows y, and x' = s (x - a), y' = s (y - b) for a power of two s.
The sum p_i + q_j + M_ij / s^2 is the squared distance |x_i - y_j|^2.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from typing_extensions import override

from saematch.cost.base import Cost
from saematch.cost.gpu import KernelProducts
from saematch.cost.passes import TILE
from saematch.cost.products import TorchProducts
from saematch.cost.sides import make_sides, over_pairs
from saematch.cost.unmatched import Unmatched
from saematch.numeric.loops import centred_dots, column_sums, square_norms, squared_differences, squared_distances_less
from saematch.numeric.rounding import TINY, UNIT_64, Floats, Indices, Rows, first_alike, gamma


class DistanceCost(Cost):
    """The squared distances between all rows of `x (F_A, K)` and `y (F_B, K)`.

    The float32 products are made by torch on `device`, or, with a `precision`, by Triton kernels: see
    `saematch.kernels.Precision`. They are stored if they fit into `memory`, in bytes.
    """

    passes: TorchProducts | KernelProducts

    def __init__(
        self,
        x: Rows,
        y: Rows,
        device: torch.device,
        *,
        memory: int = 0,
        tile: tuple[int, int] = TILE,
        precision: str | None = None,
    ) -> None:
        super().__init__((len(x), len(y)), tile)
        self._x, self._y = sides = make_sides(x, y)
        if precision is None:
            self.passes = TorchProducts(sides, device, memory, tile)
        else:
            self.passes = KernelProducts(sides, device, memory, precision)
        self.scale = self._x.scale**2
        self.column_constant = square_norms(self._y.rows, self._x.centre)
        self._between = self._y.centre - self._x.centre
        self._apart = float(np.linalg.norm(self._between))
        self.row_constant = self._x.distance**2 - 2 * centred_dots(self._x.rows, self._x.centre, self._between)

        # Relative to |x'_i| |y'_j|. Exact values: difference, scaling, product and sum of K terms, then one sum with a
        # price. Float32 values: see `relative_error`.
        self.width = width = x.shape[1]
        self._exact_unit = 2 * gamma(width + 16, UNIT_64)
        self._filter_unit = 2 * self.passes.relative_error(width)
        # Absolute: underflow of both factors of a product, of which there are up to six where rows are split.
        self._underflow = (12 * width + 8) * 2.0**-125
        self._exact_underflow = (width + 1) * TINY * max(1.0, self.scale)

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return -(self._y.norm**2), -(self._x.norm**2)

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        unit = gamma(self.width + 8, UNIT_64) * self.scale
        apart = self._apart
        p_error = unit * (abs(row) + self._x.distance**2 + 2 * self._x.distance * apart)
        constant, q_error, in_common = self.column_constant, unit * (abs(column) + self.column_constant), 0.0
        # If only columns may be unmatched, the part |b - a|^2 that all q have in common is left out of q.
        if np.isinf(row) and np.isfinite(column):
            constant = self._y.distance**2 + 2 * centred_dots(self._y.rows, self._y.centre, self._between)
            q_error = unit * (abs(column) + self._y.distance**2 + 2 * self._y.distance * apart)
            in_common = apart**2
        return Unmatched(
            costs=(row, column),
            price_shift=-in_common,
            rows=(row - self.row_constant) * self.scale,
            columns=(column - constant) * self.scale,
            row_error=p_error if np.isfinite(row) else np.zeros(self.shape[0]),
            column_error=q_error if np.isfinite(column) else np.zeros(self.shape[1]),
        )

    @override
    def constant_error(self) -> tuple[Floats, Floats]:
        unit = gamma(self.width + 8, UNIT_64)
        return unit * (self._x.distance**2 + 2 * self._x.distance * self._apart), unit * self.column_constant

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        return self.passes.exact(rows, columns) * (-2 * self.scale)

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        products: Floats = self._exact_unit * self._x.norm[rows] * self._y.norm[columns] + self._exact_underflow
        return products + price_error[columns]

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        return self.passes.block(rows, columns) * -2.0

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        (costs,) = over_pairs(squared_differences, self._x.rows, self._y.rows, rows, columns)
        return costs

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        value, error = over_pairs(
            squared_distances_less, self._x.rows, self._y.rows, rows, columns, potentials, prices, results=2
        )
        return value, error

    @property
    @override
    def largest_cost(self) -> float:
        product = 2 * self._x.largest_distance * self._y.largest_distance
        constants = float(self.row_constant.max(initial=0.0) + self.column_constant.max(initial=0.0))
        return (constants + product) * (1 + 1e-9)

    @property
    @override
    def smallest_cost(self) -> float:
        return 0.0

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        return first_alike(self._x.rows, self._x.square), first_alike(self._y.rows, self._y.square)

    @cached_property
    @override
    def random_total(self) -> float:
        sums = [column_sums(side.rows, side.centre) for side in (self._x, self._y)]
        return float(-2 * (sums[0] @ sums[1])) * self.scale / max(1, *self.shape)

    @property
    @override
    def random_error(self) -> float:
        terms = sum(self.shape) + self.width + 8
        return 2 * gamma(terms, UNIT_64) * float(self._x.norm.sum() * self._y.norm.sum()) / max(1, *self.shape)

    @override
    def _pads(self, rows: Indices) -> tuple[Floats, Floats]:
        """Return a and b, which bound the error of float32 values in a sum with a price.

        1. The error is at most 2 r |x'_i| |y'_j|, where r is the `relative_error` of the products: gamma(K + 8) in
           float32. gamma(K) of it is the product, in any order of summation; the rest covers the rounding of both rows
           and of the sum with a price.
        2. For any t > 0, by the inequality of means,

               2 r |x'_i| |y'_j|  <=  r (t |x'_i|^2 + |y'_j|^2 / t),

           a part for the row and a part for the column. So a row of very large norm widens the bound of its own pairs
           only, not of all others. Here t is the ratio of the typical norms.
        3. Underflow, whether it is flushed to zero or not, is added absolutely, to the part of the row.
        """
        balance = robust_scale(self._y.norm) / robust_scale(self._x.norm)
        row_pad = self._filter_unit / 2 * balance * self._x.norm[rows] ** 2 + self._underflow
        return row_pad, self._filter_unit / 2 / balance * self._y.norm**2


def squared_distances(x: Rows, y: Rows, permutation: Indices) -> Floats:
    """Return |x_i - y_perm(i)|^2 of every row of `x` in float64, as a sum of squared differences; 0.0 for perm -1."""
    rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(x))
    of_pairs = np.empty(len(rows))
    squared_differences(x, y, rows, permutation[rows], of_pairs)
    costs[rows] = of_pairs
    return costs


def robust_scale(norms: Floats) -> float:
    """Return the median of the norms that are not 0; 1.0 if there is none."""
    return float(np.median(norms[norms > 0])) if (norms > 0).any() else 1.0
