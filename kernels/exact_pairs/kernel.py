"""Some pairs' distance or product over the columns of one part, in float64."""

import triton
import triton.language as tl


@triton.jit
def exact_pairs_kernel(
    x_ptr,
    y_ptr,
    a_ptr,
    b_ptr,
    rows_ptr,
    columns_ptr,
    ends_ptr,
    out_ptr,
    E,
    stride_xm,
    stride_yn,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    part, parts = tl.program_id(1), tl.num_programs(1)
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    x_ptrs = x_ptr + tl.load(rows_ptr + offs_e, mask=mask_e, other=0)[:, None] * stride_xm
    y_ptrs = y_ptr + tl.load(columns_ptr + offs_e, mask=mask_e, other=0)[:, None] * stride_yn
    start = tl.load(ends_ptr + part - 1, mask=part > 0, other=0)
    stop = tl.load(ends_ptr + part)
    sums = tl.zeros((BLOCK_E, BLOCK_K), dtype=tl.float64)
    for k in range(start, stop, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = offs_k < stop
        mask = mask_e[:, None] & mask_k[None, :]
        x = tl.load(x_ptrs + offs_k[None, :], mask=mask, other=0.0).to(tl.float64)
        y = tl.load(y_ptrs + offs_k[None, :], mask=mask, other=0.0).to(tl.float64)
        if PRODUCT:
            a = tl.load(a_ptr + offs_k, mask=mask_k, other=0.0)[None, :]
            b = tl.load(b_ptr + offs_k, mask=mask_k, other=0.0)[None, :]
            sums += tl.where(mask, (x - a) * (y - b), 0.0)
        else:
            sums += (x - y) * (x - y)
    tl.store(out_ptr + offs_e * parts + part, tl.sum(sums, axis=1), mask=mask_e)
