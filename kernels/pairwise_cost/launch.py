"""The costs of all pairs, or of some rows, written to memory."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import Costs, check_device, check_matrix, check_rows, check_vector, is_interpreted, launch
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.tiles import TileShape, default_tile


def pairwise_cost(
    costs: Costs,
    rows: Tensor | None = None,
    row_constant: Tensor | None = None,
    column_constant: Tensor | None = None,
    out: Tensor | None = None,
    tile: TileShape | None = None,
) -> Tensor:
    """Return M_ij + p_i + q_j in float32, `(R, F_B)`.

    With p_i = |x_i|^2, q_j = |y_j|^2 and M = <-2 x_i, y_j>, the results are the squared distances of all rows: for
    folded weights as rows, the costs that are matched. The error of the product is at most `Precision.error(K)` |x_i|
    |y_j|; each of the two sums adds one rounding.

    Args:
        costs: M, made by `products`, or by `stored`.
        rows: indices of rows of M, `(R,)`; all rows unless given.
        row_constant: p, float32 `(R,)`; 0 unless given.
        column_constant: q, float32 `(F_B,)`; 0 unless given.
        out: a float32 matrix to write to, whose rows may be apart in memory; a new one unless given.
        tile: the tile shape; the default of the device unless given.

    Raises:
        MatchError: for arguments of another shape, type or device.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> costs = kernels.products(-2 * x, y)
        >>> kernels.pairwise_cost(costs, None, (x**2).sum(1), (y**2).sum(1))
        tensor([[0., 2.],
                [5., 1.]])
    """
    # The arguments, and the defaults of those that are not given.
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
    # A stored matrix needs no product, and no kernel.
    if costs.right is None:
        return out.copy_(costs.left.detach()[rows.long()]).add_(p[:, None]).add_(q)
    # One program per tile.
    chosen = tile or default_tile(device, costs.operand)
    grid = (-(-size[0] // chosen.BLOCK_M) * -(-size[1] // chosen.BLOCK_N),)
    launch(
        pairwise_cost_kernel,
        grid,
        device,
        left_ptr=costs.left,
        right_ptr=costs.right,
        rows_ptr=rows,
        row_constant_ptr=p.contiguous(),
        column_constant_ptr=q.contiguous(),
        out_ptr=out,
        M=size[0],
        N=size[1],
        K=costs.left.shape[1],
        stride_i=costs.left.stride(0),
        stride_j=costs.right.stride(0),
        stride_om=out.stride(0),
        PRECISION=costs.precision.dot,
        UPCAST=is_interpreted(),
        **chosen.arguments(),
    )
    return out
