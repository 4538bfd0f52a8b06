"""The costs of all pairs, or of some rows, written to memory."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import Costs, check_device, check_matrix, check_rows, check_vector, launch
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.tiles import Tile, default_tile


def pairwise_cost(
    costs: Costs,
    rows: Tensor | None = None,
    row_constant: Tensor | None = None,
    column_constant: Tensor | None = None,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """M_ij + p_i + q_j in float32, `(R, F_B)`, for all rows or the listed ones; the constants are 0 unless given.

    With p_i = |x_i|^2 and q_j = |y_j|^2 and M = <-2 x_i, y_j> these are squared distances. The product is off by
    at most `Precision.error(K)` |x_i| |y_j|, each of the two sums by a rounding. Written into `out`, whose rows may be
    apart, if it is given.

    Raises `MatchError` for arguments of another shape, type or device.
    """
    rows = check_rows(rows, costs)
    size = (len(rows), costs.shape[1])
    device, float32 = costs.device, torch.float32
    p = torch.zeros(size[0], dtype=float32, device=device) if row_constant is None else row_constant
    q = torch.zeros(size[1], dtype=float32, device=device) if column_constant is None else column_constant
    check_vector(p, "row_constant", size[0], device, float32)
    check_vector(q, "column_constant", size[1], device, float32)
    if out is None:
        out = torch.empty(size, dtype=float32, device=device)
    check_matrix(out, "out", float32)
    if out.shape != size or out.stride(1) != 1 or out.stride(0) < size[1]:
        raise MatchError(f"out is {tuple(out.shape)}; expected {size} with columns side by side and rows apart")
    check_device(device, out=out)
    if 0 in size:
        return out
    chosen = tile or default_tile(device, costs.kind)
    grid = (-(-size[0] // chosen.BLOCK_M) * -(-size[1] // chosen.BLOCK_N),)
    launch(
        pairwise_cost_kernel,
        grid,
        device,
        **costs.arguments(),
        rows_ptr=rows,
        row_constant_ptr=p.contiguous(),
        column_constant_ptr=q.contiguous(),
        out_ptr=out,
        M=size[0],
        N=size[1],
        stride_om=out.stride(0),
        **chosen.arguments(),
    )
    return out
