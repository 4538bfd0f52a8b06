"""Smooth minima of the rows and columns of a tile, as a minimum and a sum of powers of two relative to it."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import cost_tile, tile_of


@triton.jit
def _minimum_and_sum(values, sharpness, AXIS: tl.constexpr):
    least = tl.min(values, axis=AXIS)
    reference = tl.where(least == float("inf"), 0.0, least)  # inf - inf is no number
    weights = tl.exp2((tl.expand_dims(reference, AXIS) - values) * sharpness)
    return least, tl.sum(weights, axis=AXIS)


@triton.jit
def soft_minima_kernel(
    left_ptr,
    right_ptr,
    rows_ptr,
    row_offset_ptr,
    column_offset_ptr,
    row_least_ptr,
    row_sum_ptr,
    column_least_ptr,
    column_sum_ptr,
    M,
    N,
    K,
    stride_i,
    stride_j,
    sharpness,
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
    rows = tl.load(rows_ptr + tl.minimum(offs_m, M - 1))
    tile = cost_tile(
        left_ptr,
        right_ptr,
        rows,
        tl.minimum(offs_n, N - 1),
        mask_m[:, None] & mask_n[None, :],
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

    column_offset = tl.load(column_offset_ptr + offs_n, mask=mask_n, other=0.0)
    least, total = _minimum_and_sum(tile + column_offset[None, :], sharpness, 1)
    at = pid_n.to(tl.int64) * M + offs_m  # partial results lie tile by tile
    tl.store(row_least_ptr + at, least, mask=mask_m)
    tl.store(row_sum_ptr + at, total, mask=mask_m)

    row_offset = tl.load(row_offset_ptr + offs_m, mask=mask_m, other=0.0)
    least, total = _minimum_and_sum(tile + row_offset[:, None], sharpness, 0)
    at = pid_m.to(tl.int64) * N + offs_n
    tl.store(column_least_ptr + at, least, mask=mask_n)
    tl.store(column_sum_ptr + at, total, mask=mask_n)
