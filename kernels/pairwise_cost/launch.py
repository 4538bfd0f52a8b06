"""The costs of all pairs, or of some rows and columns, written to memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saematch.kernels.arguments import (
    ALIGNED,
    check_indices,
    check_operands,
    check_vector,
    launch,
    output,
    up_to_aligned,
)
from saematch.kernels.pairwise_cost.kernel import pairwise_cost_kernel
from saematch.kernels.tiles import TileShape, default_tile


def pairwise_cost(
    x: Tensor,
    y: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    row_constant: Tensor | None = None,
    column_constant: Tensor | None = None,
    out: Tensor | None = None,
    tile: TileShape | None = None,
) -> Tensor:
    """Return <x_i, y_j> + p_i + q_j in float32, `(R, C)`.

    With -2 x as the first operand, p_i = |x_i|^2 and q_j = |y_j|^2, these are the squared distances of all rows. Every
    operation rounds by the IEEE standard, so that the error of the product is at most gamma(K + 8) |x_i| |y_j| in units
    of 2^-24, in any order of summation; the sums with p and q are among the 8 roundings that are to spare.

    The kernel reads both operands K-major: `x.T` and `y.T` have their columns side by side in memory, and their rows
    start at multiples of 16 numbers. Other operands, and listed rows, are first copied into this layout.

    Args:
        x: float32 rows `(F_A, K)`.
        y: float32 rows `(F_B, K)`.
        rows: int32 or int64 indices of rows of `x`, `(R,)`; all rows unless given.
        columns: int32 or int64 indices of rows of `y`, `(C,)`; all rows unless given.
        row_constant: p, float32 `(R,)`; 0 unless given.
        column_constant: q, float32 `(C,)`; 0 unless given.
        out: a float32 matrix to write to, whose rows may be apart in memory; a new one unless given.
        tile: the tile shape; the default of the device unless given.

    Raises:
        MatchError: for arguments of another shape, type or device, or for indices out of range.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> kernels.pairwise_cost(-2 * x, y, row_constant=(x**2).sum(1), column_constant=(y**2).sum(1))
        tensor([[0., 2.],
                [5., 1.]])
    """
    # The arguments, and the defaults of those that are not given.
    check_operands(torch.float32, x=x, y=y)
    check_indices(rows, "rows", len(x), x.device)
    check_indices(columns, "columns", len(y), x.device)
    x, y = k_major(x, rows), k_major(y, columns)
    size, device, float32 = (len(x), len(y)), x.device, torch.float32
    p = torch.zeros(size[0], dtype=float32, device=device) if row_constant is None else row_constant
    q = torch.zeros(size[1], dtype=float32, device=device) if column_constant is None else column_constant
    check_vector(p, "row_constant", size[0], device, float32)
    check_vector(q, "column_constant", size[1], device, float32)
    out, padded = output(out, size, device)
    if 0 in size:
        return out
    # One program per tile.
    chosen = tile or default_tile(device, "float32")
    launch(
        pairwise_cost_kernel,
        (math.prod(chosen.counts(*size)),),
        device,
        x_ptr=x,
        y_ptr=y,
        row_constant_ptr=p.contiguous(),
        column_constant_ptr=q.contiguous(),
        out_ptr=out,
        M=size[0],
        N=size[1],
        K=x.shape[1],
        stride_xk=x.stride(1),
        stride_yk=y.stride(1),
        stride_om=out.stride(0),
        PADDED=padded,
        **chosen.arguments(),
    )
    return out


def k_major(x: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return float32 `x (F, K)`, or listed rows of it, as a view of a K-major matrix that has room for whole loads.

    Without `rows`, what lies in memory like this already is not copied.
    """
    x = x.detach()
    if rows is not None:
        room = rows.new_zeros(-len(rows) % ALIGNED)
        return x.T.index_select(1, torch.cat([rows, room]))[:, : len(rows)].T if len(x) else x[rows]
    F, K = x.shape
    end = x.storage_offset() + (K - 1) * x.stride(1) + up_to_aligned(F)
    has_room = 4 * end <= x.untyped_storage().nbytes()
    if x.stride(0) == 1 and x.stride(1) % ALIGNED == 0 and x.data_ptr() % 16 == 0 and has_room:
        return x
    matrix = x.new_zeros((K, up_to_aligned(F)))
    matrix[:, :F] = x.T
    return matrix[:, :F].T
