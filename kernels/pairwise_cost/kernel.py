"""Compute one tile of costs in float32 and write it to memory."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import locate_tile, store_tile, up_to_aligned


@triton.jit(do_not_specialize=["M", "N", "K"])
def pairwise_cost_kernel(
    x_ptr,
    y_ptr,
    row_constant_ptr,
    column_constant_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_xk,
    stride_yk,
    stride_om,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED: tl.constexpr,
):
    _, _, offs_m, offs_n = locate_tile(M, N, BLOCK_M, BLOCK_N, GROUP)

    # Both operands are K-major: a warp reads numbers of the right one that lie side by side in shared memory.
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + offs_k.to(tl.int64)[None, :] * stride_xk + offs_m[:, None]  # [BLOCK_M, BLOCK_K]
    y_ptrs = y_ptr + offs_k.to(tl.int64)[:, None] * stride_yk + offs_n[None, :]  # [BLOCK_K, BLOCK_N]
    readable_m, readable_n = offs_m < up_to_aligned(M), offs_n < up_to_aligned(N)
    tile = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        mask_k = offs_k < K - k
        x = tl.load(x_ptrs, mask=readable_m[:, None] & mask_k[None, :], other=0.0)
        y = tl.load(y_ptrs, mask=readable_n[None, :] & mask_k[:, None], other=0.0)
        tile = tl.dot(x, y, tile, input_precision="ieee")
        x_ptrs += BLOCK_K * stride_xk.to(tl.int64)
        y_ptrs += BLOCK_K * stride_yk.to(tl.int64)

    tile += tl.load(row_constant_ptr + offs_m, mask=offs_m < M, other=0.0)[:, None]
    tile += tl.load(column_constant_ptr + offs_n, mask=offs_n < N, other=0.0)[None, :]
    store_tile(out_ptr, tile, offs_m, offs_n, M, N, stride_om, PADDED)
