"""Compute the products of some pairs of centred rows in float64."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["E"])
def exact_products_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    rows_ptr,
    columns_ptr,
    out_ptr,
    E,
    K,
    stride_xm,
    stride_yn,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    x_ptrs = x_ptr + tl.load(rows_ptr + offs_e, mask=mask_e, other=0)[:, None] * stride_xm
    y_ptrs = y_ptr + tl.load(columns_ptr + offs_e, mask=mask_e, other=0)[:, None] * stride_yn
    sums = tl.zeros((BLOCK_E, BLOCK_K), dtype=tl.float64)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = offs_k < K
        mask = mask_e[:, None] & mask_k[None, :]
        x = tl.load(x_ptrs + offs_k[None, :], mask=mask, other=0.0).to(tl.float64)
        y = tl.load(y_ptrs + offs_k[None, :], mask=mask, other=0.0).to(tl.float64)
        a = tl.load(a_ptr + offs_k, mask=mask_k, other=0.0)[None, :]
        b = tl.load(b_ptr + offs_k, mask=mask_k, other=0.0)[None, :]
        sums += tl.where(mask, (x - a) * (y - b), 0.0)
    tl.store(out_ptr + offs_e, tl.sum(sums, axis=1), mask=mask_e)
