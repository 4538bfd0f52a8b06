"""The two smallest entries of every row and every column of each tile of a stored matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.costs import launch
from saematch.kernels.tile_minima.kernel import tile_minima_kernel
from saematch.kernels.tile_minima.reference import Minima
from saematch.kernels.tiles import TileShape


def tile_minima(
    matrix: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor, tile: TileShape
) -> tuple[Minima, Minima]:
    """Return the minima of each listed row by M_ij + column_offset_j, `(tiles of columns, R)`, and of each column by
    M_ij + row_offset_i, `(tiles of rows, F_B)`.

    `matrix (F_A, F_B)`, `row_offset (R,)` and `column_offset (F_B,)` are float32, `rows (R,)` are int32. An offset of
    inf excludes its row or column from the minima of all others. The arguments are not checked: `candidates` does that.
    """
    R, N = len(rows), matrix.shape[1]
    tiles_m, tiles_n = -(-R // tile.BLOCK_M), -(-N // tile.BLOCK_N)
    by_row, by_column = _unfilled(tiles_n, R, matrix.device), _unfilled(tiles_m, N, matrix.device)
    launch(
        tile_minima_kernel,
        (tiles_m * tiles_n,),
        matrix.device,
        matrix_ptr=matrix,
        rows_ptr=rows,
        row_offset_ptr=row_offset.contiguous(),
        column_offset_ptr=column_offset.contiguous(),
        row_value_ptr=by_row.value,
        row_second_ptr=by_row.second,
        column_value_ptr=by_column.value,
        column_second_ptr=by_column.second,
        M=R,
        N=N,
        stride_i=matrix.stride(0),
        stride_j=matrix.stride(1),
        **tile.matrix_arguments(),
    )
    return by_row, by_column


def _unfilled(tiles: int, lines: int, device: torch.device) -> Minima:
    value, second = (torch.empty((tiles, lines), dtype=torch.float32, device=device) for _ in range(2))
    return Minima(value, second)
