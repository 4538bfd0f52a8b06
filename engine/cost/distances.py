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
from saematch.cost.products import Float32Products, Int8Products, Products
from saematch.cost.sides import make_sides, over_pairs
from saematch.cost.unmatched import Unmatched
from saematch.numeric.loops import centred_dots, column_sums, square_norms, squared_differences, squared_distances_less
from saematch.numeric.rounding import TINY, UNIT_64, Floats, Indices, Rows, first_alike, gamma


class DistanceCost(Cost):
    """The squared distances between all rows of `x (F_A, K)` and `y (F_B, K)`.

    The passes multiply rows in `precision`, "int8" or "float32", on `device`: in Triton kernels if `backend` is
    "triton", else by torch. Whole numbers are multiplied by torch on the CPU only.
    """

    passes: Products

    def __init__(
        self,
        x: Rows,
        y: Rows,
        device: torch.device,
        *,
        precision: str = "float32",
        backend: str = "torch",
        tile: tuple[int, int] = TILE,
    ) -> None:
        super().__init__((len(x), len(y)), tile)
        self._x, self._y = sides = make_sides(x, y)
        if backend == "triton":
            self.passes = KernelProducts(sides, device, precision)
        elif precision == "int8":
            self.passes = Int8Products(sides, tile)
        else:
            self.passes = Float32Products(sides, device, tile)
        self.largest_residual = self.passes.largest_residual
        self.scale = self._x.scale**2
        self.column_constant = square_norms(self._y.rows, self._x.centre)
        self._between = self._y.centre - self._x.centre
        self._apart = float(np.linalg.norm(self._between))
        self.row_constant = self._x.distance**2 - 2 * centred_dots(self._x.rows, self._x.centre, self._between)

        # Relative to |x'_i| |y'_j|. Exact values: difference, scaling, product and sum of K terms, then one sum with a
        # price.
        self.width = width = x.shape[1]
        self._exact_unit = 2 * gamma(width + 16, UNIT_64)
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
    def _pads(self) -> tuple[Floats, Floats]:
        return self.passes.pads


def squared_distances(x: Rows, y: Rows, permutation: Indices) -> Floats:
    """Return |x_i - y_perm(i)|^2 of every row of `x` in float64, as a sum of squared differences; 0.0 for perm -1."""
    rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(x))
    of_pairs = np.empty(len(rows))
    squared_differences(x, y, rows, permutation[rows], of_pairs)
    costs[rows] = of_pairs
    return costs
