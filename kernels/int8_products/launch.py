"""Products of int8 rows, whose integer sums are exact, scaled to float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.arguments import ALIGNED, check_indices, check_operands, check_vector, launch, output
from saematch.kernels.int8_products.kernel import int8_products_kernel
from saematch.kernels.tiles import TileShape, default_tile

WIDTH = 64  # columns of int8 rows come in multiples of this


def int8_products(
    left: Tensor,
    right: Tensor,
    left_scale: Tensor,
    right_scale: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    out: Tensor | None = None,
    tile: TileShape | None = None,
) -> Tensor:
    """Return fl(fl(fl(a_ij) t_j) s_i) in float32, `(R, C)`, where a_ij is the sum over k of left_ik right_jk.

    The sum a_ij is exact: in int32 for K up to 133,120, and for longer rows in float64, which is slow. It is rounded to
    float32 once, and so is each of the products with the scales s and t, in this order: every device computes the same
    bits.

    Args:
        left: int8 rows `(F_A, K)`, K a multiple of 64, of numbers from -127 to 127, which is not checked.
        right: int8 rows `(F_B, K)` of the same kind.
        left_scale: s, float32 `(F_A,)`.
        right_scale: t, float32 `(F_B,)`.
        rows: int32 or int64 indices of rows of `left`, `(R,)`; all rows unless given.
        columns: int32 or int64 indices of rows of `right`, `(C,)`; all rows unless given.
        out: a float32 matrix to write to, whose rows may be apart in memory; a new one unless given.
        tile: the tile shape; the default of the device unless given.

    Raises:
        MatchError: for arguments of another shape, type or device, or for indices out of range.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> left, right = torch.full((1, 64), 127, dtype=torch.int8), torch.full((2, 64), -127, dtype=torch.int8)
        >>> kernels.int8_products(left, right, torch.tensor([0.5]), torch.tensor([1.0, 2.0]))
        tensor([[ -516128., -1032256.]])
    """
    # The arguments must fit each other, since a kernel reads whatever lies in memory.
    check_operands(torch.int8, left=left, right=right)
    K, device = left.shape[1], left.device
    if K % WIDTH:
        raise MatchError(f"left has K = {K:,}; expected a multiple of {WIDTH}")
    check_vector(left_scale, "left_scale", len(left), device, torch.float32)
    check_vector(right_scale, "right_scale", len(right), device, torch.float32)
    check_indices(rows, "rows", len(left), device)
    check_indices(columns, "columns", len(right), device)
    left, left_scale = _chosen(left, left_scale, rows)
    right, right_scale = _chosen(right, right_scale, columns)
    size = len(left), len(right)
    out, padded = output(out, size, device)
    if 0 in size:
        return out
    # Sums that int32 may not hold are exact in float64: they are whole numbers below 2^53.
    if K * 127**2 >= 2**31:
        sums = (left.double() @ right.double().T).float()
        return torch.mul(sums.mul_(right_scale), left_scale[:, None], out=out)
    # One program per tile.
    chosen = tile or default_tile(device, "int8")
    launch(
        int8_products_kernel,
        (math.prod(chosen.counts(*size)),),
        device,
        left_ptr=left,
        right_ptr=right,
        left_scale_ptr=left_scale,
        right_scale_ptr=right_scale,
        out_ptr=out,
        M=size[0],
        N=size[1],
        K=K,
        stride_lm=left.stride(0),
        stride_rn=right.stride(0),
        stride_om=out.stride(0),
        PADDED=padded,
        **(chosen.arguments() | {"enable_fp_fusion": False}),
    )
    return out


def _chosen(operand: Tensor, scale: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the listed rows and their scales, such that each row starts at a multiple of 16 bytes."""
    if rows is not None:
        return operand.index_select(0, rows), scale.index_select(0, rows)
    if operand.stride(1) != 1 or operand.stride(0) % ALIGNED or operand.data_ptr() % 16:
        operand = operand.clone(memory_format=torch.contiguous_format)
    return operand, scale.contiguous()
