"""All pairs of a stored matrix that are below a limit, as a list."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import launch
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.tiles import TileShape


class TooManyPairsError(MatchError):
    """More pairs are below their limits than the caller allows."""


def pairs_below(
    matrix: Tensor,
    rows: Tensor,
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

    Returns places in `rows` (int64), columns (int64) and the float32 M of the pairs, sorted by place and column.
    Offsets and limits are float32, `(R,)` and `(F_B,)`, and `rows (R,)` are int32. Rows and columns with an infinite
    offset are ignored by all others. The result is never truncated: if it exceeds `capacity`, the kernel runs again
    with enough space. The arguments are not checked: `candidates` does that.

    Raises `TooManyPairsError` beyond `most` pairs, which take 12 bytes each.
    """
    R, N = len(rows), matrix.shape[1]
    vectors = {
        "row_offset_ptr": row_offset,
        "column_offset_ptr": column_offset,
        "row_limit_ptr": row_limit,
        "column_limit_ptr": column_limit,
    }
    # The kernel counts all pairs, and writes as many as there are slots.
    slots = min(most, capacity)
    while True:
        count = torch.zeros(1, dtype=torch.int64, device=matrix.device)
        places, columns = (torch.empty(slots, dtype=torch.int32, device=matrix.device) for _ in range(2))
        values = torch.empty(slots, dtype=torch.float32, device=matrix.device)
        launch(
            pairs_below_kernel,
            (-(-R // tile.BLOCK_M) * -(-N // tile.BLOCK_N),),
            matrix.device,
            matrix_ptr=matrix,
            rows_ptr=rows,
            **{name: vector.contiguous() for name, vector in vectors.items()},
            count_ptr=count,
            places_ptr=places,
            columns_ptr=columns,
            values_ptr=values,
            M=R,
            N=N,
            stride_i=matrix.stride(0),
            stride_j=matrix.stride(1),
            capacity=slots,
            **tile.matrix_arguments(),
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
    order = torch.argsort(places[:pairs].long() * N + columns[:pairs])
    return places[order].long(), columns[order].long(), values[order]
