"""Compute the products of some pairs of centred rows in float64."""

import triton
import triton.language as tl


@triton.jit
def _centred(
    rows,
    offs_k,
    mask,
    mask_k,
    values_ptr,
    scales_ptr,
    part_ptr,
    multiplied_ptr,
    factors_ptr,
    centre_ptr,
    stride,
    F,
    FOLDED: tl.constexpr,
):
    """Return some columns of some rows, computed from the stored values, less the centre."""
    values = tl.load(values_ptr + rows[:, None] * stride + offs_k[None, :], mask=mask, other=0.0).to(tl.float64)
    if FOLDED:
        part = tl.load(part_ptr + offs_k, mask=mask_k, other=0)
        multiplied = tl.load(multiplied_ptr + offs_k, mask=mask_k, other=1) != 0
        factors = tl.load(factors_ptr + offs_k, mask=mask_k, other=0.0)
        scales = tl.load(scales_ptr + part[None, :] * F + rows[:, None], mask=mask, other=1.0)
        divisors = tl.where(multiplied[None, :], 1.0, scales)  # the scale of a part that is multiplied may be 0
        values = tl.where(multiplied[None, :], values * scales, values / divisors) * factors[None, :]
    return values - tl.load(centre_ptr + offs_k, mask=mask_k, other=0.0)[None, :]


@triton.jit(do_not_specialize=["E", "F_A", "F_B"])
def exact_products_kernel(
    x_ptr,
    x_scales_ptr,
    x_part_ptr,
    x_multiplied_ptr,
    x_factors_ptr,
    y_ptr,
    y_scales_ptr,
    y_part_ptr,
    y_multiplied_ptr,
    y_factors_ptr,
    a_ptr,
    b_ptr,
    rows_ptr,
    columns_ptr,
    out_ptr,
    E,
    K,
    F_A,
    F_B,
    stride_xm,
    stride_yn,
    FOLDED: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    offs_e = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    rows = tl.load(rows_ptr + offs_e, mask=mask_e, other=0)
    columns = tl.load(columns_ptr + offs_e, mask=mask_e, other=0)
    sums = tl.zeros((BLOCK_E, BLOCK_K), dtype=tl.float64)
    for k in range(0, K, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_k = offs_k < K
        mask = mask_e[:, None] & mask_k[None, :]
        x = _centred(
            rows,
            offs_k,
            mask,
            mask_k,
            x_ptr,
            x_scales_ptr,
            x_part_ptr,
            x_multiplied_ptr,
            x_factors_ptr,
            a_ptr,
            stride_xm,
            F_A,
            FOLDED,
        )
        y = _centred(
            columns,
            offs_k,
            mask,
            mask_k,
            y_ptr,
            y_scales_ptr,
            y_part_ptr,
            y_multiplied_ptr,
            y_factors_ptr,
            b_ptr,
            stride_yn,
            F_B,
            FOLDED,
        )
        sums += tl.where(mask, x * y, 0.0)
    tl.store(out_ptr + offs_e, tl.sum(sums, axis=1), mask=mask_e)
