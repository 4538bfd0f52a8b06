"""The specification of the pass."""

from typing import NamedTuple

import torch
from torch import Tensor


class Minima(NamedTuple):
    """The smallest and second smallest value of each line in each tile, `(tiles, lines)`; inf where there is none."""

    value: Tensor
    second: Tensor


def tile_minima(
    M: Tensor, row_offset: Tensor, column_offset: Tensor, block_m: int, block_n: int
) -> tuple[Minima, Minima]:
    """Return the minima of each row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i.

    A tile has `block_m` rows and `block_n` columns.
    """
    return _two_smallest(M + column_offset, block_n), _two_smallest((M + row_offset[:, None]).T, block_m)


def _two_smallest(values: Tensor, block: int) -> Minima:
    """Return the minima of each row of `values` in each block of columns."""
    lines, length = values.shape
    tiles = -(-length // block)
    padded = torch.nn.functional.pad(values, (0, tiles * block - length), value=torch.inf)
    ordered = padded.reshape(lines, tiles, block).sort(dim=2).values
    return Minima(ordered[:, :, 0].T, ordered[:, :, 1].T)
