"""All pairs of a block that are below a limit, as a list."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.arguments import launch
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.tiles import TileShape


class TooManyPairsError(MatchError):
    """More pairs are below their limits than the caller allows."""


def pairs_below(
    block: Tensor,
    row_offset: Tensor,
    column_offset: Tensor,
    row_limit: Tensor,
    column_limit: Tensor,
    *,
    capacity: int,
    most: int,
    tile: TileShape,
) -> tuple[Tensor, Tensor, Tensor]:
    """List all pairs with M_ij + column_offset_j <= row_limit_i or M_ij + row_offset_i <= column_limit_j.

    Returns rows (int64), columns (int64) and the float32 M of the pairs, sorted by row and column. Offsets and limits
    are float32, `(R,)` and `(C,)`. Rows and columns with an infinite offset are ignored by all others. The result is
    never truncated: if it exceeds `capacity`, the kernel runs again with enough space. The arguments are not checked,
    see `tile_minima`.

    Raises `TooManyPairsError` beyond `most` pairs, which take 12 bytes each.
    """
    R, C = block.shape
    vectors = {
        "row_offset_ptr": row_offset,
        "column_offset_ptr": column_offset,
        "row_limit_ptr": row_limit,
        "column_limit_ptr": column_limit,
    }
    # The kernel counts all pairs, and writes as many as there are slots.
    slots = min(most, capacity)
    while True:
        count = torch.zeros(1, dtype=torch.int64, device=block.device)
        rows, columns = (torch.empty(slots, dtype=torch.int32, device=block.device) for _ in range(2))
        values = torch.empty(slots, dtype=torch.float32, device=block.device)
        launch(
            pairs_below_kernel,
            (math.prod(tile.counts(R, C)),),
            block.device,
            block_ptr=block,
            **{name: vector.contiguous() for name, vector in vectors.items()},
            count_ptr=count,
            rows_ptr=rows,
            columns_ptr=columns,
            values_ptr=values,
            M=R,
            N=C,
            stride_m=block.stride(0),
            capacity=slots,
            **tile.block_arguments(),
        )
        pairs = int(count)
        if pairs <= slots:
            break
        if pairs > most:
            raise TooManyPairsError(
                f"{pairs:,} pairs are below their limits, and {most:,} were allowed; lower the limits"
            )
        slots = pairs
    # Programs finish in any order: sorting makes the list the same in every run.
    order = torch.argsort(rows[:pairs].long() * C + columns[:pairs])
    return rows[order].long(), columns[order].long(), values[order]
