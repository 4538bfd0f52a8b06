"""Compute one tile of integer products, scale it to float32, and write it to memory."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import locate_tile, store_tile


@triton.jit(do_not_specialize=["M", "N"])
def int8_products_kernel(
    left_ptr,
    right_ptr,
    left_scale_ptr,
    right_scale_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_lm,
    stride_rn,
    stride_om,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED: tl.constexpr,
):
    _, _, offs_m, offs_n = locate_tile(M, N, BLOCK_M, BLOCK_N, GROUP)

    # Rows that lie outside the matrix are replaced by the last one, so that the loop needs no mask for them.
    offs_k = tl.arange(0, BLOCK_K)
    rows, columns = tl.minimum(offs_m, M - 1).to(tl.int64), tl.minimum(offs_n, N - 1).to(tl.int64)
    left_ptrs = left_ptr + rows[:, None] * stride_lm + offs_k[None, :]  # [BLOCK_M, BLOCK_K]
    right_ptrs = right_ptr + columns[None, :] * stride_rn + offs_k[:, None]  # [BLOCK_K, BLOCK_N]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for k in range(0, K, BLOCK_K):
        mask_k = offs_k < K - k
        left = tl.load(left_ptrs, mask=mask_k[None, :], other=0)
        right = tl.load(right_ptrs, mask=mask_k[:, None], other=0)
        sums = tl.dot(left, right, sums)
        left_ptrs += BLOCK_K
        right_ptrs += BLOCK_K

    # The conversion and both products round once each, in this order.
    left_scale = tl.load(left_scale_ptr + offs_m, mask=offs_m < M, other=0.0)[:, None]
    right_scale = tl.load(right_scale_ptr + offs_n, mask=offs_n < N, other=0.0)[None, :]
    tile = sums.to(tl.float32) * right_scale * left_scale
    store_tile(out_ptr, tile, offs_m, offs_n, M, N, stride_om, PADDED)
