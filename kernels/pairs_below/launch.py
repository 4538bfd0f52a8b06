"""All pairs below a bound, as a list."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import Costs, check_rows, check_vector, launch
from saematch.kernels.pairs_below.kernel import pairs_below_kernel
from saematch.kernels.tiles import Tile, default_tile
from saematch.numeric.numbers import checked_count


class TooManyPairsError(MatchError):
    """More pairs are below their limits than were asked for."""


def pairs_below(
    costs: Costs,
    row_offset: Tensor,
    column_offset: Tensor,
    row_limit: Tensor,
    column_limit: Tensor,
    rows: Tensor | None = None,
    capacity: int | None = None,
    most: int = 2**28,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs with M_ij + column_offset_j <= row_limit_i or M_ij + row_offset_i <= column_limit_j, and their M.

    Returns places in `rows` (int64), columns (int64) and float32 values, sorted by place and column. Offsets and limits
    are float32, `(R,)` and `(F_B,)`; a line whose offset is inf counts for none of the others. Nothing is cut: a list
    that is longer than `capacity` (a guess unless given) is counted, and made again with the room it needs.

    Raises `TooManyPairsError`, a `MatchError`, beyond `most` pairs, 12 bytes each, and `MatchError` for bad arguments.
    """
    rows = check_rows(rows, costs)
    R, N = len(rows), costs.shape[1]
    by_row, by_column = (
        {"row_offset": row_offset, "row_limit": row_limit},
        {"column_offset": column_offset, "column_limit": column_limit},
    )
    for lines, length in ((by_row, R), (by_column, N)):
        for name, vector in lines.items():
            check_vector(vector, name, length, costs.device, torch.float32)
    chosen = tile or default_tile(costs.device, costs.kind, lists=True)
    grid = (-(-R // chosen.BLOCK_M) * -(-N // chosen.BLOCK_N),)
    wrong = "is {!r}; give a number of pairs, at least 1"
    most = checked_count(most, 1, f"most {wrong.format(most)}")
    capacity = None if capacity is None else checked_count(capacity, 1, f"capacity {wrong.format(capacity)}")
    room = min(most, 16 * (R + N) if capacity is None else capacity)
    while True:
        count = torch.zeros(1, dtype=torch.int64, device=costs.device)
        places, columns = (torch.empty(room, dtype=torch.int32, device=costs.device) for _ in range(2))
        values = torch.empty(room, dtype=torch.float32, device=costs.device)
        if 0 not in (R, N):
            vectors = {f"{name}_ptr": vector.contiguous() for name, vector in (by_row | by_column).items()}
            launch(
                pairs_below_kernel,
                grid,
                costs.device,
                **costs.arguments(),
                **vectors,
                rows_ptr=rows,
                count_ptr=count,
                places_ptr=places,
                columns_ptr=columns,
                values_ptr=values,
                M=R,
                N=N,
                capacity=room,
                **chosen.arguments(),
            )
        found = int(count)
        if found <= room:
            break
        if found > most:
            raise TooManyPairsError(
                f"{found:,} pairs are below their limits, and {most:,} were allowed; lower the limits"
            )
        room = found
    order = torch.argsort(places[:found].long() * N + columns[:found])
    return places[order].long(), columns[order].long(), values[order]
