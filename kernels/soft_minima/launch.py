"""Smooth minima of all rows and all columns, in one pass over all pairs: a sweep of Sinkhorn's in logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import Costs, check_rows, check_vector, launch
from saematch.kernels.soft_minima.kernel import soft_minima_kernel
from saematch.kernels.tiles import Tile, default_tile

COLDEST, HOTTEST = 1e-30, 1e30  # float32 holds its inverse too
Number = int | float
PARTIAL_BYTES = 2**28  # of what tiles find, for either side, before it is put together


def soft_minima(
    costs: Costs,
    row_offset: Tensor,
    column_offset: Tensor,
    temperature: float,
    rows: Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """-t log sum exp(-(.) / t) of M_ij + column_offset_j over j, `(R,)`, and of M_ij + row_offset_i over i, `(F_B,)`.

    In float64, from float32 sums within tiles; `temperature` t is in units of M. Between the minimum less t log n, of n
    entries, and the minimum; below it by the rounding of M and a few float32 roundings of it more. Offsets are float32.

    Raises `MatchError` for a temperature that is not positive or leaves float32, and for arguments of another shape,
    type or device.
    """
    if not (isinstance(temperature, Number) and COLDEST <= temperature <= HOTTEST):
        raise MatchError(f"temperature is {temperature!r}; give one above 0, in units of the costs, of ordinary size")
    rows = check_rows(rows, costs)
    R, N = len(rows), costs.shape[1]
    check_vector(row_offset, "row_offset", R, costs.device, torch.float32)
    check_vector(column_offset, "column_offset", N, costs.device, torch.float32)
    by_row = torch.full((R,), torch.inf, dtype=torch.float64, device=costs.device)
    by_column = torch.full((N,), torch.inf, dtype=torch.float64, device=costs.device)
    if 0 in (R, N):
        return by_row, by_column
    chosen = tile or default_tile(costs.device, costs.kind)
    tiles_n = -(-N // chosen.BLOCK_N)
    step = max(1, PARTIAL_BYTES // (8 * tiles_n) // chosen.BLOCK_M) * chosen.BLOCK_M
    for start in range(0, R, step):
        part = slice(start, min(start + step, R))
        length = part.stop - start
        tiles_m = -(-length // chosen.BLOCK_M)
        row_least, row_sum = torch.empty((2, tiles_n, length), dtype=torch.float32, device=costs.device)
        column_least, column_sum = torch.empty((2, tiles_m, N), dtype=torch.float32, device=costs.device)
        launch(
            soft_minima_kernel,
            (tiles_m * tiles_n,),
            costs.device,
            **costs.arguments(),
            rows_ptr=rows[part],
            row_offset_ptr=row_offset[part].contiguous(),
            column_offset_ptr=column_offset.contiguous(),
            row_least_ptr=row_least,
            row_sum_ptr=row_sum,
            column_least_ptr=column_least,
            column_sum_ptr=column_sum,
            M=length,
            N=N,
            sharpness=math.log2(math.e) / temperature,
            **chosen.arguments(),
        )
        by_row[part] = _together(row_least, row_sum, temperature)
        found = _together(column_least, column_sum, temperature)
        by_column = -temperature * torch.logaddexp(by_column / -temperature, found / -temperature)
    return by_row, by_column


def _together(least: Tensor, total: Tensor, temperature: float) -> Tensor:
    """Over the tiles, the first axis. A tile whose least is inf counts for nothing, whatever its sum."""
    exponents = least.double() / -temperature + total.double().log()
    return -temperature * torch.where(least.isinf(), -torch.inf, exponents).logsumexp(dim=0)
