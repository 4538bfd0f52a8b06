"""The orthogonal transform of rows before they are rounded to whole numbers, and the rounding: loops and torch.

The transform consists of signs, a permutation and Hadamard matrices of 64 entries, twice. It makes the entries of a row
similar in size, and changes no product of two rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.numeric.compiled import compiled
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
def quantise_rows(
    x: Any, first: Any, last: Any, centre: Any, unit: Any, order: Any, signs: Any, values: Any, scale: Any, square: Any
) -> None:
    """Round the rows from `first` to `last`, centred and multiplied by their `unit`, to whole numbers.

    `scale` is in the same units, and `square` is the square of the residual, see `quantised`. All operations are those
    of IEEE arithmetic, in the order in which they are written, so that `quantised_tensor` makes the same numbers.
    """
    width, padded = len(centre), values.shape[1]
    row, lanes = np.empty(width), np.empty(BLOCK, dtype=np.float32)
    z, w = np.zeros(padded, dtype=np.float32), np.empty(padded, dtype=np.float32)
    for i in range(first, last):
        # The centred row. Two Hadamard matrices divided by 8 are orthogonal: `unit` holds the division by 64.
        unfold(x, i, row)
        power = unit[i]
        for k in range(width):
            z[k] = np.float32((row[k] - centre[k]) * power)
        z[width:] = np.float32(0)
        for turn in range(len(order)):
            places, sign = order[turn], signs[turn]
            for k in range(padded):
                w[k] = z[places[k]] * sign[k]
            # Three steps of the Hadamard matrices at a time, on eight rows of entries. The same entry of all blocks
            # lies side by side, so that the innermost loop is long, and vectorises.
            step = padded // BLOCK
            while step < padded:
                for start in range(0, padded, 8 * step):
                    rows = w[start : start + 8 * step].reshape(8, step)
                    a, b, c, d, e, f, g, h = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
                    for k in range(step):
                        p, q, r, s = a[k] + b[k], a[k] - b[k], c[k] + d[k], c[k] - d[k]
                        t, u, v, y = e[k] + f[k], e[k] - f[k], g[k] + h[k], g[k] - h[k]
                        p, q, r, s = p + r, q + s, p - r, q - s
                        t, u, v, y = t + v, u + y, t - v, u - y
                        a[k], b[k], c[k], d[k] = p + t, q + u, r + v, s + y
                        e[k], f[k], g[k], h[k] = p - t, q - u, r - v, s - y
                step *= 8
            z, w = w, z
        # The whole numbers, and what they leave.
        lanes[:] = np.float32(0)
        for start in range(0, padded, BLOCK):
            block = z[start : start + BLOCK]
            for n in range(BLOCK):
                size = abs(block[n])
                lanes[n] = size if size > lanes[n] else lanes[n]
        largest = lanes.max()
        step_size = largest / np.float32(127)
        inverse = np.float32(127) / largest if largest > 0 else np.float32(0)
        lanes[:] = np.float32(0)
        for start in range(0, padded, BLOCK):
            block, filled = z[start : start + BLOCK], values[i, start : start + BLOCK]
            for n in range(BLOCK):
                whole = np.rint(block[n] * inverse)
                filled[n] = np.int8(whole)
                left = block[n] - step_size * whole
                lanes[n] += left * left
        total = 0.0
        for n in range(BLOCK):
            total += np.float64(lanes[n])
        scale[i], square[i] = step_size, total


def quantised_tensor(rows: Tensor, order: Tensor, signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the whole numbers, the scale and the square of the residual of `rows`, which `quantise_rows` would fill.

    `rows` are centred and multiplied by their unit, in float32, and padded. The squares are added up in another order.
    """
    for places, sign in zip(order, signs, strict=True):
        rows = _mixed(rows[:, places] * sign)
    largest = rows.abs().amax(dim=1)
    scale, inverse = largest / 127, torch.where(largest > 0, 127 / largest, 0.0)
    whole = (rows * inverse[:, None]).round_()
    left = rows - scale[:, None] * whole
    square = left.square_().view(len(rows), -1, BLOCK).sum(dim=1).double().sum(dim=1)
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
