"""Squared distances between all rows of two matrices.

    M_ij = -2 <x'_i, y'_j>,      q_j = |y_j - a|^2,      p_i = |x_i - a|^2 - 2 <x_i - a, b - a>,

where x' and y' are the rows less a centre of their own side, a and b, times a power of two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from saematch.cost.base import TILE, Cost, Tile
from saematch.cost.unmatched import Unmatched
from saematch.numeric.loops import (
    centre_rows,
    centred_dots,
    centred_products,
    column_sums,
    square_norms,
    squared_differences,
    squared_distances_less,
)
from saematch.numeric.rounding import TINY, UNIT_32, UNIT_64, Floats, Indices, Rows, first_alike, gamma
from saematch.numeric.threads import Team

_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")  # what oneDNN may make of float32, by its names


class DistanceCost(Cost):
    """The squared distances of all rows of `x (F_A, K)` and `y (F_B, K)`."""

    def __init__(
        self, x: Rows, y: Rows, device: torch.device, *, memory: int = 0, tile: tuple[int, int] = TILE
    ) -> None:
        super().__init__((len(x), len(y)), memory, tile)
        self.device = device
        self._x, self._y = _Side(x), _Side(y)
        with Team(x.size + y.size) as team:
            team.do([self._x.measure, self._y.measure])
            largest = max(self._x.largest(), self._y.largest())
            side_scale = 2.0 ** min(-np.ceil(np.log2(largest)), 500.0) if largest > 0 else 1.0
            self.scale = float(side_scale**2)
            team.do(
                [partial(self._x.prepare, side_scale, -2.0, device), partial(self._y.prepare, side_scale, 1.0, device)]
            )
        self.column_constant = square_norms(self._y.rows, self._x.centre)
        between = self._y.centre - self._x.centre
        self.row_constant = self._x.distance**2 - 2 * centred_dots(self._x.rows, self._x.centre, between)
        # The bounds below. Exact: difference, scaling, product and sum of K terms, then one sum with a price.
        # Filter: both rows rounded, a product of K terms in any order, the sum with a price that was rounded itself.
        # Underflow: of both factors of a product, of which there are up to six where rows are split.
        self.width = width = x.shape[1]
        self._exact_unit = 2 * gamma(width + 16, UNIT_64)
        self._filter_unit = 2 * self._product_error(width)
        self._underflow = (12 * width + 8) * 2.0**-125
        self._exact_underflow = (width + 1) * TINY * max(1.0, self.scale)

    def _product_error(self, width: int) -> float:
        """Of float32 values of M and their sum with a price, relative to |x'_i| |y'_j|."""
        return gamma(width + 8, UNIT_32)

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return -(self._y.norm**2), -(self._x.norm**2)

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        unit = gamma(len(self._x.centre) + 8, UNIT_64) * self.scale
        between = self._y.centre - self._x.centre
        apart = float(np.linalg.norm(between))
        p_error = unit * (abs(row) + self._x.distance**2 + 2 * self._x.distance * apart)
        constant, q_error, in_common = self.column_constant, unit * (abs(column) + self.column_constant), 0.0
        if np.isinf(row) and np.isfinite(column):  # q less |b - a|^2
            constant = self._y.distance**2 + 2 * centred_dots(self._y.rows, self._y.centre, between)
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
        unit = gamma(len(self._x.centre) + 8, UNIT_64)
        apart = float(np.linalg.norm(self._y.centre - self._x.centre))
        return unit * (self._x.distance**2 + 2 * self._x.distance * apart), unit * self.column_constant

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        (products,) = self._of_pairs(centred_products, rows, columns, self._x.centre, self._y.centre)
        return products * (-2 * self.scale)

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        (costs,) = self._of_pairs(squared_differences, rows, columns)
        return costs

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        value, error = self._of_pairs(squared_distances_less, rows, columns, potentials, prices, results=2)
        return value, error

    def _of_pairs(
        self, loop: Callable[..., None], rows: Indices, columns: Indices, *given: Floats, results: int = 1
    ) -> list[Floats]:
        """What a loop over listed pairs fills arrays with, one number a pair in each."""
        filled = [np.empty(len(rows)) for _ in range(results)]
        with Team(len(rows) * self.width) as team:
            team.do(
                partial(
                    loop, self._x.rows, self._y.rows, rows[part], columns[part], *given, *(out[part] for out in filled)
                )
                for part in team.shares(len(rows))
            )
        return filled

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        products: Floats = self._exact_unit * self._x.norm[rows] * self._y.norm[columns] + self._exact_underflow
        return products + price_error[columns]

    @property
    @override
    def largest_cost(self) -> float:
        product = 2 * self._x.largest() * self._y.largest()
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
        terms = sum(self.shape) + len(self._x.centre) + 8
        return 2 * gamma(terms, UNIT_64) * float(self._x.norm.sum() * self._y.norm.sum()) / max(1, *self.shape)

    def _pads(self, rows: Indices) -> tuple[Floats, Floats]:
        """For any t > 0, by the inequality of means,

            2 gamma(K + 8) |x'_i| |y'_j|  <=  gamma(K + 8) (t |x'_i|^2 + |y'_j|^2 / t),

        a row's part and a column's part, so that a giant norm widens the pad of its own row or column alone. gamma(K)
        of it is the product in any order of summation, the rest covers the rounding of the rows and of a sum with the
        product; underflow, flushed to zero or not, is added absolutely.
        """
        balance = robust_scale(self._y.norm) / robust_scale(self._x.norm)
        row_pad = self._filter_unit / 2 * balance * self._x.norm[rows] ** 2 + self._underflow
        return row_pad, self._filter_unit / 2 / balance * self._y.norm**2

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        product = self._x.float64(rows).to(self.device) @ self._y.float64(columns).to(self.device).T
        return product.cpu().numpy() * -2.0

    def _make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:
        buffer = np.empty((0, 0), dtype=np.float32)
        for top in range(0, len(rows), self.tile[0]):
            at = slice(top, min(top + self.tile[0], len(rows)))
            x = self._x.working[torch.from_numpy(rows[at])]
            for left in range(0, self.shape[1], self.tile[1]):
                to = slice(left, min(left + self.tile[1], self.shape[1]))
                size = (at.stop - top, to.stop - left)
                if keep or buffer.shape != size:  # memory that is new to a process is slow: as little of it as possible
                    buffer = np.empty(size, dtype=np.float32)
                float32_product(x, self._y.working[to], torch.from_numpy(buffer))
                yield Tile(at, to, buffer)


def squared_distances(x: Rows, y: Rows, permutation: Indices) -> Floats:
    """|x_i - y_perm(i)|^2 for every row of `x`, in float64 as the sum of squared differences; 0.0 where perm is -1."""
    rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(x))
    of_pairs = np.empty(len(rows))
    squared_differences(x, y, rows, permutation[rows], of_pairs)
    costs[rows] = of_pairs
    return costs


class _Side:
    """One side's rows, their centre, and what the passes need of them: float32 working copy and norms."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def measure(self) -> None:
        """Find the centre, and how far the rows are from it."""
        rows, origin = self.rows, np.zeros(self.rows.shape[1])
        self.square = square_norms(rows, origin)
        # The mean, but of rows of ordinary size: one outlier would push all the others off their centre. What many rows
        # have in common is ordinary, so that both sides are centred alike where they fall into groups.
        ordinary = self.square <= 16 * np.quantile(self.square, 0.75) if len(rows) else np.zeros(0, dtype=bool)
        count = max(1, int(ordinary.sum()))
        self.centre = column_sums(rows[ordinary] if not ordinary.all() else rows, origin) / count
        self.distance = np.sqrt(square_norms(rows, self.centre))

    def largest(self) -> float:
        return float(self.distance.max(initial=0.0))

    def prepare(self, scale: float, factor: float, device: torch.device) -> None:
        """`factor`, plus or minus a power of two, is that of M: then the product of two working copies is M itself."""
        self.scale = scale
        lost = math.sqrt(self.rows.shape[1] + 1) * 2.0**-536  # by squares that underflow
        self.norm = (self.distance + lost) * scale * (1 + 1e-9)
        working = np.empty(self.rows.shape, dtype=np.float32)
        centre_rows(self.rows, self.centre, scale * factor, working)
        self.working = torch.from_numpy(working).to(device)

    def float64(self, rows: Indices) -> torch.Tensor:
        return torch.from_numpy((self.rows[rows] - self.centre) * self.scale)


def float32_product(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> None:
    """Out = x @ y.T in IEEE float32 whatever the host program told torch: in float64 where it asked for less."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if not _float32_is_ieee(x.device.type):
            out.copy_(x.double() @ y.double().T)
        elif x.device == out.device:
            torch.mm(x, y.T, out=out)
        else:
            out.copy_(x @ y.T)


def _float32_is_ieee(device: str) -> bool:
    """By torch's settings, and on a CPU by those that oneDNN reads itself."""
    strict = all(os.environ.get(name, "STRICT").upper() == "STRICT" for name in _FPMATH)
    if device == "cpu" and not strict:
        return False
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    levels = (backend.matmul, backend, torch.backends)  # a level that says "none" leaves it to the next
    return all(getattr(level, "fp32_precision", "none") in ("none", "ieee") for level in levels)


def robust_scale(norms: Floats) -> float:
    """Return the median of the norms that are not 0; 1.0 if there is none."""
    return float(np.median(norms[norms > 0])) if (norms > 0).any() else 1.0
