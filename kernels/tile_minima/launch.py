"""The two smallest entries of every row and every column of each tile of a block."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.arguments import launch
from saematch.kernels.tile_minima.kernel import tile_minima_kernel
from saematch.kernels.tile_minima.reference import Minima
from saematch.kernels.tiles import TileShape


def tile_minima(block: Tensor, row_offset: Tensor, column_offset: Tensor, tile: TileShape) -> tuple[Minima, Minima]:
    """Return the minima of each row by M_ij + column_offset_j, `(tiles of columns, R)`, and of each column by
    M_ij + row_offset_i, `(tiles of rows, C)`.

    `block (R, C)`, `row_offset (R,)` and `column_offset (C,)` are float32. An offset of inf excludes its row or column
    from the minima of all others. The arguments are not checked: `candidates` does that, and the block is one that
    `arguments.output` has made, whose rows can be read up to the next multiple of 16 columns.
    """
    R, C = block.shape
    tiles_m, tiles_n = tile.counts(R, C)
    by_row, by_column = _unfilled(tiles_n, R, block.device), _unfilled(tiles_m, C, block.device)
    launch(
        tile_minima_kernel,
        (tiles_m * tiles_n,),
        block.device,
        block_ptr=block,
        row_offset_ptr=row_offset.contiguous(),
        column_offset_ptr=column_offset.contiguous(),
        row_value_ptr=by_row.value,
        row_second_ptr=by_row.second,
        column_value_ptr=by_column.value,
        column_second_ptr=by_column.second,
        M=R,
        N=C,
        stride_m=block.stride(0),
        **tile.block_arguments(),
    )
    return by_row, by_column


def _unfilled(tiles: int, lines: int, device: torch.device) -> Minima:
    value, second = (torch.empty((tiles, lines), dtype=torch.float32, device=device) for _ in range(2))
    return Minima(value, second)
