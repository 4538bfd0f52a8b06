"""The smallest and second smallest of every row and every column, in one pass over all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.costs import Costs, check_rows, check_vector, launch
from saematch.kernels.reduced_minima.kernel import reduced_minima_kernel
from saematch.kernels.reduced_minima.reference import Minima
from saematch.kernels.tiles import Tile, default_tile

PARTIAL_BYTES = 2**28  # of what tiles find, for either side, before it is put together


def reduced_minima(
    costs: Costs, row_offset: Tensor, column_offset: Tensor, rows: Tensor | None = None, tile: Tile | None = None
) -> tuple[Minima, Minima]:
    """Of each row by M_ij + column_offset_j, and of each column, among these rows, by M_ij + row_offset_i.

    With offsets -v and -u these are reduced costs C_ij - v_j and C_ij - u_i, in float32: off by at most
    `Precision.error(K)` |x_i| |y_j| and one rounding. `where` is int64, a column's is the place in `rows`; ties go to
    the first. `row_offset (R,)` and `column_offset (F_B,)` are float32; inf keeps a line out of the others' minima.

    Raises `MatchError` for arguments of another shape, type or device.
    """
    rows = check_rows(rows, costs)
    chosen = tile or default_tile(costs.device, costs.kind)
    check_vector(row_offset, "row_offset", len(rows), costs.device, torch.float32)
    check_vector(column_offset, "column_offset", costs.shape[1], costs.device, torch.float32)
    by_row, by_column = _nothing(len(rows), costs.device), _nothing(costs.shape[1], costs.device)
    if 0 in (len(rows), costs.shape[1]):
        return by_row, by_column
    tiles_n = -(-costs.shape[1] // chosen.BLOCK_N)
    step = max(1, PARTIAL_BYTES // (12 * tiles_n) // chosen.BLOCK_M) * chosen.BLOCK_M
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        tile_rows, tile_columns = tile_minima(costs, rows[part], row_offset[part], column_offset, chosen)
        for whole, found in zip(by_row, _least(*tile_rows), strict=True):
            whole[part] = found
        tile_columns.where.add_(start)
        both = [torch.cat([whole[None], new]) for whole, new in zip(by_column, tile_columns, strict=True)]
        by_column = _least(*both)
    return _marked(by_row), _marked(by_column)


def tile_minima(
    costs: Costs, rows: Tensor, row_offset: Tensor, column_offset: Tensor, tile: Tile
) -> tuple[Minima, Minima]:
    """The same before the tiles are put together: `(tiles of columns, R)` and `(tiles of rows, F_B)`, int32 indices."""
    R, N = len(rows), costs.shape[1]
    tiles_m, tiles_n = -(-R // tile.BLOCK_M), -(-N // tile.BLOCK_N)
    by_row, by_column = _space((tiles_n, R), costs.device), _space((tiles_m, N), costs.device)
    launch(
        reduced_minima_kernel,
        (tiles_m * tiles_n,),
        costs.device,
        **costs.arguments(),
        rows_ptr=rows,
        row_offset_ptr=row_offset.contiguous(),
        column_offset_ptr=column_offset.contiguous(),
        row_value_ptr=by_row.value,
        row_index_ptr=by_row.where,
        row_second_ptr=by_row.second,
        column_value_ptr=by_column.value,
        column_index_ptr=by_column.where,
        column_second_ptr=by_column.second,
        M=R,
        N=N,
        **tile.arguments(),
    )
    return by_row, by_column


def _least(value: Tensor, index: Tensor, second: Tensor) -> Minima:
    """Over the tiles, the first axis. The tile that holds the least gives its second, the others their first."""
    least = value.amin(dim=0)
    where = index.masked_fill(value != least, torch.iinfo(index.dtype).max).amin(dim=0)
    return Minima(least, where, torch.where((index == where) & (value == least), second, value).amin(dim=0))


def _marked(minima: Minima) -> Minima:
    return minima._replace(where=minima.where.masked_fill(minima.value == torch.inf, -1).long())


def _space(size: tuple[int, ...], device: torch.device) -> Minima:
    value, second = (torch.empty(size, dtype=torch.float32, device=device) for _ in range(2))
    return Minima(value, torch.empty(size, dtype=torch.int32, device=device), second)


def _nothing(length: int, device: torch.device) -> Minima:
    inf = torch.full((length,), torch.inf, dtype=torch.float32, device=device)
    return Minima(inf, torch.full((length,), -1, dtype=torch.int32, device=device), inf.clone())
