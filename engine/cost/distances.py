"""Squared distances between all rows of two matrices.

    M_ij = -2 <x'_i, y'_j>,      q_j = |y_j - a|^2,      p_i = |x_i - a|^2 - 2 <x_i - a, b - a>,

where a and b are the centres of the rows x and of the rows y, and x' = s (x - a), y' = s (y - b) for a power of two s.
The sum p_i + q_j + M_ij / s^2 is the squared distance |x_i - y_j|^2.

Rows may also be compared up to their sign, by the smaller of |x_i - y_j|^2 and |x_i + y_j|^2. Then M_ij is
-2 |<x'_i, y'_j>|, and rows are not centred.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from saematch.cost.base import DENSE, BlockErrors, Cost
from saematch.cost.gpu import KernelProducts, walks_on
from saematch.cost.passes import TILE
from saematch.cost.products import Float32Products, Int8Products, Products
from saematch.cost.sides import make_sides
from saematch.cost.unmatched import Unmatched
from saematch.cost.walks import HostWalks
from saematch.numeric.loops import squared_differences, squared_distances_less
from saematch.numeric.rounding import TINY, UNIT_64, Floats, Indices, gamma
from saematch.numeric.rows import Rows, over_pairs


class DistanceCost(Cost):
    """The squared distances between all rows of `x (F_A, K)` and `y (F_B, K)`.

    The passes multiply rows in `precision`, "int8" or "float32", on `device`: in Triton kernels if `backend` is
    "triton", else by torch. Whole numbers are multiplied by torch on the CPU only. If `up_to_sign`, a pair costs the
    squared distance of its rows or that of a row and the other row times -1, whichever is less.
    """

    passes: Products

    def __init__(
        self,
        x: Rows | NDArray[Any],
        y: Rows | NDArray[Any],
        device: torch.device,
        *,
        precision: str = "float32",
        backend: str = "torch",
        up_to_sign: bool = False,
        tile: tuple[int, int] = TILE,
    ) -> None:
        super().__init__((len(x), len(y)), tile)
        self._up_to_sign = up_to_sign
        rows = Rows.of(x), Rows.of(y)
        walks = walks_on(device, *rows) if backend == "triton" else (HostWalks(rows[0]), HostWalks(rows[1]))
        by_passes = precision == "int8" and math.prod(self.shape) > DENSE
        self._x, self._y = sides = make_sides(walks, centred=not up_to_sign, whole=by_passes)
        if backend == "triton":
            self.passes = KernelProducts(sides, device, precision, up_to_sign)
        elif precision == "int8":
            self.passes = Int8Products(sides, tile, up_to_sign)
        else:
            self.passes = Float32Products(sides, device, tile, up_to_sign)
        self.scale = self._x.scale**2
        self.column_constant = self._y.from_other
        self._apart = float(np.linalg.norm(self._y.centre - self._x.centre))
        self.row_constant = self._x.distance**2 - 2 * self._x.toward_other

        # Relative to |x'_i| |y'_j|. Exact values: difference, scaling, product and sum of K terms, then one sum with a
        # price.
        self.width = width = self._x.rows.width
        self._exact_unit = 2 * gamma(width + 16, UNIT_64)
        self._exact_underflow = (width + 1) * TINY * max(1.0, self.scale)

    @property
    def norms(self) -> tuple[Floats, Floats]:
        """Upper bounds for |x'_i| `(F_A,)` and |y'_j| `(F_B,)`."""
        return self._x.norm, self._y.norm

    @override
    def sharpen(self) -> bool:
        if self.passes.precision == "float32":
            return False
        self.passes = self.passes.in_float32()
        return True

    @property
    @override
    def largest_residual(self) -> float:
        return self.passes.operands.largest_residual

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
            constant = self._y.distance**2 - 2 * self._y.toward_other
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
        if self._stored:
            return self.all_values[rows, columns]
        return self._reduced(self.passes.exact(rows, columns), -2 * self.scale)

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        products: Floats = self._exact_unit * self._x.norm[rows] * self._y.norm[columns] + self._exact_underflow
        return products + price_error[columns]

    @override
    def block_errors(self, price_error: Floats) -> BlockErrors:
        return BlockErrors(
            self._exact_unit * self._x.norm, self._y.norm, self._exact_underflow + price_error, share=0.0
        )

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        return self._reduced(self.passes.block(rows, columns), -2.0)

    def _reduced(self, products: Floats, factor: float) -> Floats:
        """Return M from products <x, y>, for a factor below zero."""
        return (np.abs(products) if self._up_to_sign else products) * factor

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        return _pair_costs(self._x.rows, self._y.rows, rows, columns, self._up_to_sign)

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        sides = self._x.rows, self._y.rows, rows, columns
        found = [
            over_pairs(squared_distances_less, *sides, sign, potentials, prices, results=2) for sign in self._signs
        ]
        value, error = found[0]
        # The error of the smaller value; and more, where the larger one may be below all that the smaller one can be.
        for other, its_error in found[1:]:
            lower, low_error = np.where(other < value, other, value), np.where(other < value, its_error, error)
            upper, high_error = np.where(other < value, value, other), np.where(other < value, error, its_error)
            value, error = lower, low_error + np.maximum(high_error - low_error - (upper - lower), 0.0) * (1 + 2.0**-40)
        return value, error

    @property
    def _signs(self) -> tuple[float, ...]:
        """The factors of y that rows are compared with."""
        return (1.0, -1.0) if self._up_to_sign else (1.0,)

    @property
    @override
    def largest_cost(self) -> float:
        product = 0.0 if self._up_to_sign else 2 * self._x.largest_distance * self._y.largest_distance
        constants = float(self.row_constant.max(initial=0.0) + self.column_constant.max(initial=0.0))
        return (constants + product) * (1 + 1e-9)

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        return self._x.rows.first_alike(), self._y.rows.first_alike()

    @property
    @override
    def random_total(self) -> float:
        return self._random[0]

    @property
    @override
    def random_error(self) -> float:
        return self._random[1]

    @cached_property
    def _random(self) -> tuple[float, float]:
        """The sum of M over a random matching of the whole smaller side, on average, and a bound for its rounding."""
        pairs = max(1, *self.shape)
        if self._up_to_sign and not self._stored:
            row_pad, column_pad = self._pads()
            error = float(row_pad.sum() * self.shape[1] + column_pad.sum() * self.shape[0])
            return self.passes.total() / pairs, error / pairs
        if self._up_to_sign:
            total = float(self.all_values.sum(axis=1).sum())
        else:
            total = float(-2 * (self._x.sum_ @ self._y.sum_)) * self.scale
        terms = sum(self.shape) + self.width + 8
        error = 2 * gamma(terms, UNIT_64) * float(self._x.norm.sum() * self._y.norm.sum())
        return total / pairs, error / pairs

    @override
    def _pads(self) -> tuple[Floats, Floats]:
        return self.passes.operands.pads


def squared_distances(
    x: Rows, y: Rows, permutation: Indices, up_to_sign: bool = False, columns: slice = slice(None)
) -> Floats:
    """Return |x_i - y_perm(i)|^2 of every row of `x` in float64, as a sum of squared differences; 0.0 for perm -1.

    If `up_to_sign`, return |x_i + y_perm(i)|^2 where that is less. Only the given columns count.
    """
    rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(x))
    costs[rows] = _pair_costs(x, y, rows, permutation[rows], up_to_sign, columns)
    return costs


def _pair_costs(
    x: Rows, y: Rows, rows: Indices, columns: Indices, up_to_sign: bool, of_rows: slice = slice(None)
) -> Floats:
    first, stop, _ = of_rows.indices(x.width)
    signs = (1.0, -1.0) if up_to_sign else (1.0,)
    costs = [over_pairs(squared_differences, x, y, rows, columns, first, stop, sign)[0] for sign in signs]
    return np.minimum(costs[0], costs[-1])
