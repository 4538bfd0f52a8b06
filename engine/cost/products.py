"""Products of all rows of one side with all rows of the other side, in float32 or in int8."""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.passes import TILE, Passes, Tile, TilePasses
from saematch.cost.quantised import int8_pads, quantised
from saematch.cost.sides import Side
from saematch.numeric.loops import centred_products, scale_sums
from saematch.numeric.rounding import UNIT_32, Floats, Indices, gamma
from saematch.numeric.rows import over_pairs
from saematch.numeric.threads import MULTIPLIED, ThreadPool

MOST_INT32 = 133_120  # entries of int8 rows whose product an int32 sum holds: 127^2 times as much is below 2^31
_COPIED = 128  # rows in float64
_FACTORS = (-2.0, 1.0)  # of the rows of each side in a product, which is then M itself
_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")  # how oneDNN may round float32, by its two names


class Products(Passes, ABC):
    """M_ij = -2 <x'_i, y'_j> for the centred and scaled rows x' and y' of two sides.

    Attributes:
        absolute: whether M_ij is -2 |<x'_i, y'_j>| instead. Bounds for the error hold for both, because the absolute
            values of two numbers differ by no more than the numbers.
    """

    absolute: bool

    def __init__(self, sides: tuple[Side, Side], absolute: bool) -> None:
        super().__init__((len(sides[0].rows), len(sides[1].rows)))
        self._sides, self.absolute = sides, absolute

    @property
    @abstractmethod
    def operands(self) -> Operands:
        """The matrices that are multiplied, made when they are first needed: a small problem needs no pass."""

    @abstractmethod
    def in_float32(self) -> Products:
        """Return the same products, made from float32 numbers from now on."""

    @abstractmethod
    def total(self) -> float:
        """Return the sum of the values of all pairs."""

    @abstractmethod
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x_i - a, y_j - b> of the listed pairs in float64, with the centres a and b."""

    @abstractmethod
    def block(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x'_i, y'_j> of all pairs of the listed rows and columns in float64."""


class TileProducts(Products, TilePasses):
    """Products that torch makes tile by tile, and that are searched on the CPU."""

    def __init__(
        self, sides: tuple[Side, Side], device: torch.device, tile: tuple[int, int] = TILE, absolute: bool = False
    ) -> None:
        super().__init__(sides, absolute)
        self.device, self._tile = device, tile

    @override
    def in_float32(self) -> Products:
        return Float32Products(self._sides, self.device, self._tile, self.absolute)

    @override
    def total(self) -> float:
        every = (np.arange(size) for size in self.shape)
        return math.fsum(float(tile.values.sum(dtype=np.float64)) for tile in self.make_tiles(*every))

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        x, y = self._sides
        (products,) = over_pairs(centred_products, x.rows, y.rows, rows, columns, x.centre, y.centre)
        return products

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        x, y = self._sides
        right = y.float64(columns).to(self.device)
        out = torch.empty((len(rows), len(columns)), dtype=torch.float64, device="cpu")

        def multiply(part: slice) -> None:
            out[part] = x.float64(rows[part]).to(self.device) @ right.T

        # Memory that is new to a process is slow: the rows of the left side are copied a few at a time. The bits of a
        # product depend on the threads that share it: each of these products has one.
        parts = [slice(top, top + _COPIED) for top in range(0, len(rows), _COPIED)]
        with ThreadPool(right.numel() * len(rows) // MULTIPLIED) as pool:
            pool.run((partial(multiply, part) for part in parts), torch_threads=1)
        return out.numpy()

    @override
    def make_tiles(self, rows: Indices, columns: Indices) -> Iterator[Tile]:
        x, y = self.operands.values
        y = _listed(y, columns)
        # Memory that is new to a process is slow: one buffer serves all tiles.
        height, width = min(self._tile[0], len(rows)), min(self._tile[1], len(columns))
        buffer = np.empty(height * width, dtype=np.float32)
        for top in range(0, len(rows), self._tile[0]):
            places = slice(top, min(top + self._tile[0], len(rows)))
            left = _listed(x, rows[places])
            for start in range(0, len(columns), self._tile[1]):
                part = slice(start, min(start + self._tile[1], len(columns)))
                size = (len(left), part.stop - start)
                values = buffer[: size[0] * size[1]].reshape(size)
                self._multiply(left, y[part], rows[places], columns[part], values)
                if self.absolute:
                    np.copysign(values, np.float32(-1), out=values)
                yield Tile(places, part, values)

    @abstractmethod
    def _multiply(self, x: Tensor, y: Tensor, rows: Indices, columns: Indices, out: NDArray[np.float32]) -> None:
        """Fill `out` with M of the listed rows and columns, whose operands are `x` and `y`."""


class Float32Products(TileProducts):
    """Products of rows that are rounded to float32, on a device."""

    precision = "float32"

    @cached_property
    @override
    def operands(self) -> Operands:
        made = float32_operands(self._sides)
        return made._replace(values=[values.to(self.device) for values in made.values])

    @override
    def _multiply(self, x: Tensor, y: Tensor, rows: Indices, columns: Indices, out: NDArray[np.float32]) -> None:
        float32_product(x, y, torch.from_numpy(out))


class Int8Products(TileProducts):
    """Products of rows that are rotated and rounded to whole numbers, on the CPU."""

    precision = "int8"

    def __init__(self, sides: tuple[Side, Side], tile: tuple[int, int] = TILE, absolute: bool = False) -> None:
        super().__init__(sides, torch.device("cpu"), tile, absolute)
        self._of_thread = threading.local()

    @cached_property
    @override
    def operands(self) -> Operands:
        return int8_operands(self._sides)

    @override
    def _multiply(self, x: Tensor, y: Tensor, rows: Indices, columns: Indices, out: NDArray[np.float32]) -> None:
        sums = integer_products(x, y, self._buffer(out.size).view(out.shape)).numpy()
        row_scale, column_scale = (scale.numpy() for scale in self.operands.scales)
        scale_sums(sums, row_scale[rows], column_scale[columns], out)

    def _buffer(self, size: int) -> Tensor:
        """Return memory for sums, which a thread keeps from tile to tile."""
        buffer: Tensor | None = getattr(self._of_thread, "sums", None)
        if buffer is None or len(buffer) < size:
            buffer = self._of_thread.sums = torch.empty(size, dtype=torch.int32, device="cpu")
        return buffer[:size]


def _listed(matrix: Tensor, rows: Indices) -> Tensor:
    """Return the listed rows of a matrix, which ascend; without a copy if they are successive."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return matrix[rows[0] : rows[-1] + 1]
    return matrix[torch.from_numpy(rows)]


class Operands(NamedTuple):
    """The matrices that products multiply, and what is known of them.

    Attributes:
        values: one matrix for each side, on the device of the walks. The factor -2 of M is in the first one.
        scales: a vector for each side, by which products of int8 numbers are multiplied; empty for float32.
        pads: a `(F_A,)` and b `(F_B,)`: the value of a pair (i, j), in a sum with a price, is wrong by at most a_i +
            b_j.
        largest_residual: the largest part of a row that the operands leave out, relative to the row.
    """

    values: list[Tensor]
    scales: list[Tensor]
    pads: tuple[Floats, Floats]
    largest_residual: float


def float32_operands(sides: tuple[Side, Side]) -> Operands:
    """Return the rows of both sides, rounded to float32."""
    copies = [side.working_copy(factor) for side, factor in zip(sides, _FACTORS, strict=True)]
    return Operands(copies, [], float32_pads(*sides), UNIT_32)


def int8_operands(sides: tuple[Side, Side]) -> Operands:
    """Return the rows of both sides, rotated and rounded to whole numbers."""
    x, y = (quantised(side, factor) for side, factor in zip(sides, _FACTORS, strict=True))
    scales = [torch.from_numpy(rows.scale) for rows in (x, y)]
    return Operands([x.values, y.values], scales, int8_pads(x, y), max(x.largest_residual, y.largest_residual))


def float32_pads(x: Side, y: Side) -> tuple[Floats, Floats]:
    """Return a `(F_A,)` and b `(F_B,)`: a float32 value of M, in a sum with a price, is wrong by at most a_i + b_j.

    1. The error is at most 2 r |x'_i| |y'_j|, where r is gamma(K + 8) in units of 2^-24. gamma(K) of it is the product,
       in any order of summation; the rest covers the rounding of both rows and of the sum with a price.
    2. For any t > 0, by the inequality of means,

           2 r |x'_i| |y'_j|  <=  r (t |x'_i|^2 + |y'_j|^2 / t),

       a part for the row and a part for the column. So a row of very large norm widens the bound of its own pairs only,
       not of all others. Here t is the ratio of the typical norms.
    3. Underflow, whether it is flushed to zero or not, is added absolutely, to the part of the row.
    """
    width = x.rows.width
    r, t = gamma(width + 8, UNIT_32), y.typical_norm / x.typical_norm
    underflow = (12 * width + 8) * 2.0**-125
    return r * t * x.norm**2 + underflow, r / t * y.norm**2


def integer_products(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the products of all rows of two int8 matrices of one width, without any rounding.

    They are int32, and fill `out` if it is given; or int64, if the rows are too long for int32.

    >>> integer_products(torch.tensor([[127, -127]], dtype=torch.int8), torch.tensor([[2, 3]], dtype=torch.int8))
    tensor([[-127]], dtype=torch.int32)
    """
    if x.shape[1] <= MOST_INT32:
        return torch._int_mm(x, y.T) if out is None else torch._int_mm(x, y.T, out=out)
    pieces = [slice(start, start + MOST_INT32) for start in range(0, x.shape[1], MOST_INT32)]
    return torch.stack([torch._int_mm(x[:, piece], y[:, piece].T).long() for piece in pieces]).sum(dim=0)


@cache
def int8_obstacle() -> str | None:
    """Return why whole numbers are not multiplied on this processor; None if they are, fast and exactly.

    Processors without VNNI and AMX would add pairs of products in 16 bits, which is slow, and which may saturate.
    """
    fast = [getattr(torch.cpu, name, bool)() for name in ("_is_vnni_supported", "_is_amx_tile_supported")]
    if not any(fast):
        return "this processor has neither VNNI nor AMX"
    extreme = torch.full((32, 4 * 64), 127, dtype=torch.int8, device="cpu")
    sums = integer_products(extreme, -extreme)
    return None if bool((sums == -(127**2) * extreme.shape[1]).all()) else "torch._int_mm is not exact here"


def float32_product(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Compute out = x @ y.T in IEEE float32, whatever precision the host program asked torch for.

    Where torch would compute in less than float32, the product is made in float64.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if not _float32_is_ieee(x.device.type):
            out.copy_(x.double() @ y.double().T)
        elif x.device == out.device:
            torch.mm(x, y.T, out=out)
        else:
            out.copy_(x @ y.T)


def _float32_is_ieee(device: str) -> bool:
    """Return whether torch computes float32 products in float32, by its settings and, on a CPU, by those of oneDNN."""
    strict = all(os.environ.get(name, "STRICT").upper() == "STRICT" for name in _FPMATH)
    if device == "cpu" and not strict:
        return False
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    levels = (backend.matmul, backend, torch.backends)  # a level that says "none" leaves the choice to the next one
    return all(getattr(level, "fp32_precision", "none") in ("none", "ieee") for level in levels)
