"""The two smallest of each row and column of a tile, in one look at it."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import cost_tile, tile_of


@triton.jit
def two_smallest(values, AXIS: tl.constexpr):
    """The smallest along an axis, the first place where it is, and the smallest of all other places."""
    value, index = tl.min(values, axis=AXIS, return_indices=True)
    offs = tl.arange(0, values.shape[AXIS])
    others = tl.where(tl.expand_dims(offs, 1 - AXIS) == tl.expand_dims(index, AXIS), float("inf"), values)
    return value, index, tl.min(others, axis=AXIS)


@triton.jit
def reduced_minima_kernel(
    left_ptr,
    right_ptr,
    rows_ptr,
    row_offset_ptr,
    column_offset_ptr,
    row_value_ptr,
    row_index_ptr,
    row_second_ptr,
    column_value_ptr,
    column_index_ptr,
    column_second_ptr,
    M,
    N,
    K,
    stride_i,
    stride_j,
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
    value, index, second = two_smallest(tile + column_offset[None, :], 1)
    at = pid_n.to(tl.int64) * M + offs_m  # partial results lie tile by tile
    tl.store(row_value_ptr + at, value, mask=mask_m)
    tl.store(row_index_ptr + at, pid_n * BLOCK_N + index, mask=mask_m)
    tl.store(row_second_ptr + at, second, mask=mask_m)

    row_offset = tl.load(row_offset_ptr + offs_m, mask=mask_m, other=0.0)
    value, index, second = two_smallest(tile + row_offset[:, None], 0)
    at = pid_m.to(tl.int64) * N + offs_n
    tl.store(column_value_ptr + at, value, mask=mask_n)
    tl.store(column_index_ptr + at, pid_m * BLOCK_M + index, mask=mask_n)
    tl.store(column_second_ptr + at, second, mask=mask_n)
