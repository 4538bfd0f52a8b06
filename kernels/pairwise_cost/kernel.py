"""One tile of costs, written down."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import cost_tile, tile_of


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
    STORED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    pid_m, pid_n = tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m, mask_n = offs_m < M, offs_n < N
    valid = mask_m[:, None] & mask_n[None, :]
    rows = tl.load(rows_ptr + tl.minimum(offs_m, M - 1))
    tile = cost_tile(
        left_ptr,
        right_ptr,
        rows,
        tl.minimum(offs_n, N - 1),
        valid,
        K,
        stride_i,
        stride_j,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        STORED,
        PRECISION,
        UPCAST,
    )
    tile += tl.load(row_constant_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    tile += tl.load(column_constant_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    tl.store(out_ptr + offs_m.to(tl.int64)[:, None] * stride_om + offs_n[None, :], tile, mask=valid)
