"""A walk over rows that measures them and rounds them to whole numbers, as a compiled loop; the rounding in torch, too.

Rows are transformed before they are rounded. The transform consists of signs, a permutation and Hadamard matrices of 64
entries, twice. It makes the entries of a row similar in size, and changes no product of two rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.numeric.compiled import compiled, compiled_sums
from saematch.numeric.rows import unfold

BLOCK = 64  # entries that one Hadamard matrix mixes: the width of quantised rows is a multiple of it
_TURNS = 2
_SEED = 0


class Transform(NamedTuple):
    """The permutation and the signs of each turn, `(2, width)`; the same for all rows of a width."""

    order: NDArray[np.uint32]
    signs: NDArray[np.float32]

    @classmethod
    def of(cls, width: int) -> Transform:
        """Return the transform of rows of a width, which it pads to a multiple of `BLOCK`."""
        random, padded = np.random.default_rng(_SEED), -(-width // BLOCK) * BLOCK
        order = np.stack([random.permutation(padded).astype(np.uint32) for _ in range(_TURNS)])
        return cls(order, random.choice([-1.0, 1.0], size=(_TURNS, padded)).astype(np.float32))

    @property
    def width(self) -> int:
        """The padded width."""
        return int(self.order.shape[1])


@compiled
def measure_rows(x: Any, first: Any, last: Any, points: Any, measures: Any, row: Any) -> None:
    """Measure the rows from `first` to `last` from two points.

    Args:
        x: the arrays of `Rows`.
        first: the first row.
        last: the row after the last one.
        points: the centre of the rows, another point, and their difference other - centre, `(K,)`.
        measures: three arrays `(F,)` and one `(K,)`. Filled are |x_i - centre|^2, <x_i - centre, other - centre> and
            |x_i - other|^2; the sum of x_i - centre is added to the last one.
        row: memory `(K,)`.
    """
    square, toward, from_other, sums = measures
    for i in range(first, last):
        unfold(x, i, row)
        square[i], toward[i], from_other[i] = _measure(row, points, sums)


@compiled
def measure_and_round_rows(
    x: Any, first: Any, last: Any, points: Any, measures: Any, row: Any, transform: Any, rounded: Any, mixed: Any
) -> None:
    """Measure the rows from `first` to `last`, and round them to whole numbers in the same walk.

    Args:
        x: see `measure_rows`, like the next five.
        first: the first row.
        last: the row after the last one.
        points: the centre of the rows, another point, and their difference.
        measures: the arrays of the measures.
        row: memory `(K,)`.
        transform: the permutations and the signs of the `Transform`.
        rounded: filled are the whole numbers `(F, width)`; a power of two for each row that brings |x_i - centre| times
            64 times this `unit` below 1, `(F,)`; what one whole number stands for, in the same units, `(F,)`; and the
            square of the residual, in the same units, `(F,)`, see `quantised`.
        mixed: memory `(2, width)`.
    """
    square, toward, from_other, sums = measures
    order, signs = transform
    values, unit, scale, residual = rounded
    z = mixed[0]
    for i in range(first, last):
        unfold(x, i, row)
        square[i], toward[i], from_other[i] = _measure(row, points, sums)
        # Two Hadamard matrices divided by 8 are orthogonal: the unit holds the division by 64.
        power = math.ldexp(1.0 / BLOCK, -math.frexp(math.sqrt(square[i]))[1])
        for k in range(len(row)):
            z[k] = np.float32(row[k] * power)
        z[len(row) :] = np.float32(0)
        _mix(mixed, order, signs)
        largest = _largest(z)
        step, inverse = largest / np.float32(127), np.float32(127) / largest if largest > 0 else np.float32(0)
        residual[i] = _round(z, step, inverse, values[i])
        unit[i], scale[i] = power, step


@compiled_sums
def _measure(row: Any, points: Any, sums: Any) -> Any:
    """Subtract the centre from a row, add what is left to `sums`, and return the measures of the row."""
    centre, other, direction = points
    total, product, far = 0.0, 0.0, 0.0
    for k in range(len(row)):
        difference = row[k] - centre[k]
        far += (row[k] - other[k]) ** 2
        total += difference**2
        product += difference * direction[k]
        sums[k] += difference
        row[k] = difference
    return total, product, far


@compiled
def _mix(mixed: Any, order: Any, signs: Any) -> None:
    """Transform the vector `mixed[0]`, but for a factor of 64; `mixed[1]` is memory.

    All operations are those of IEEE arithmetic, in the order in which they are written, so that `quantised_tensor`
    makes the same numbers.
    """
    z, w, padded = mixed[0], mixed[1], mixed.shape[1]
    for turn in range(len(order)):
        places, sign = order[turn], signs[turn]
        for k in range(padded):
            w[k] = z[places[k]] * sign[k]
        # Three steps of the Hadamard matrices at a time, on eight entries. The same entry of all blocks lies side by
        # side, so that the innermost loop is long, and vectorises.
        step = padded // BLOCK
        while step < padded:
            v = w.reshape(padded // (8 * step), 8, step)
            for i in range(len(v)):
                for k in range(step):
                    a, b, c, d = v[i, 0, k], v[i, 1, k], v[i, 2, k], v[i, 3, k]
                    e, f, g, h = v[i, 4, k], v[i, 5, k], v[i, 6, k], v[i, 7, k]
                    a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
                    a, b, c, d, e, f, g, h = a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h
                    v[i, 0, k], v[i, 1, k], v[i, 2, k], v[i, 3, k] = a + e, b + f, c + g, d + h
                    v[i, 4, k], v[i, 5, k], v[i, 6, k], v[i, 7, k] = a - e, b - f, c - g, d - h
            step *= 8
        z, w = w, z


@compiled
def _largest(z: Any) -> Any:
    """Return the largest absolute value of an entry, of which none is NaN.

    Without their sign bits, floats are in the order of their bits as whole numbers, of which a maximum vectorises.
    """
    bits, largest = z.view(np.int32), np.int32(0)
    for k in range(len(bits)):
        size = bits[k] & np.int32(0x7FFFFFFF)
        largest = size if size > largest else largest
    return np.int32(largest).view(np.float32)


@compiled_sums
def _round(z: Any, step: Any, inverse: Any, values: Any) -> Any:
    """Fill `values` with z * inverse, rounded to whole numbers; return the square of z - step * values."""
    total = 0.0
    for start in range(0, len(z), BLOCK):
        block, filled, square = z[start : start + BLOCK], values[start : start + BLOCK], np.float32(0)
        for n in range(BLOCK):
            whole = np.rint(block[n] * inverse)
            filled[n] = np.int8(whole)
            left = block[n] - step * whole
            square += left * left
        total += np.float64(square)
    return total


def quantised_tensor(rows: Tensor, order: Tensor, signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the whole numbers, the scale and the square of the residual of `rows`, as `measure_and_round_rows` does.

    `rows` are centred and multiplied by their unit, in float32, and padded. The squares are rounded in another order.
    """
    for places, sign in zip(order, signs, strict=True):
        rows = _mixed(rows[:, places] * sign)
    largest = rows.abs().amax(dim=1)
    scale, inverse = largest / 127, torch.where(largest > 0, 127 / largest, 0.0)
    whole = (rows * inverse[:, None]).round_()
    left = rows - scale[:, None] * whole
    square = left.square_().view(len(rows), -1, BLOCK).sum(dim=2).double().sum(dim=1)
    return whole.to(torch.int8), scale, square


def _mixed(rows: Tensor) -> Tensor:
    """Multiply by the Hadamard matrices, two steps of these at a time."""
    count, padded = rows.shape
    step = padded // BLOCK
    while step < padded:
        a, b, c, d = rows.view(count, -1, 4, step).unbind(dim=2)
        plus, minus, plus_2, minus_2 = a + b, a - b, c + d, c - d
        mixed = torch.stack([plus + plus_2, minus + minus_2, plus - plus_2, minus - minus_2], dim=2)
        rows, step = mixed.view(count, padded), 4 * step
    return rows
