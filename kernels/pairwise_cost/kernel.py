"""Compute one tile of costs and write it to memory."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import locate_tile


@triton.jit
def pairwise_cost_kernel(
    left_ptr,
    right_ptr,
    rows_ptr,
    row_constant_ptr,
    column_constant_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_i,
    stride_j,
    stride_om,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    _, _, offs_m, offs_n, mask_m, mask_n, rows = locate_tile(rows_ptr, M, N, BLOCK_M, BLOCK_N, GROUP)
    columns = tl.minimum(offs_n, N - 1)

    # The product of the two operands, whose columns are padded to a multiple of BLOCK_K.
    offs_k = tl.arange(0, BLOCK_K)
    left_ptrs = left_ptr + rows.to(tl.int64)[:, None] * stride_i + offs_k[None, :]  # [BLOCK_M, BLOCK_K]
    right_ptrs = right_ptr + columns.to(tl.int64)[None, :] * stride_j + offs_k[:, None]  # [BLOCK_K, BLOCK_N]
    tile = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, K, BLOCK_K):
        left, right = tl.load(left_ptrs), tl.load(right_ptrs)
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        tile = tl.dot(left, right, tile, input_precision=PRECISION)
        left_ptrs += BLOCK_K
        right_ptrs += BLOCK_K

    tile += tl.load(row_constant_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    tile += tl.load(column_constant_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    valid = mask_m[:, None] & mask_n[None, :]
    tl.store(out_ptr + offs_m.to(tl.int64)[:, None] * stride_om + offs_n[None, :], tile, mask=valid)
