"""Find the two smallest entries of each row and of each column of one tile."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import load_tile, locate_tile


@triton.jit
def two_smallest(values, AXIS: tl.constexpr):
    """Return the smallest entry along an axis, and the smallest entry of all other places."""
    value, index = tl.min(values, axis=AXIS, return_indices=True)
    offs = tl.arange(0, values.shape[AXIS])
    others = tl.where(tl.expand_dims(offs, 1 - AXIS) == tl.expand_dims(index, AXIS), float("inf"), values)
    return value, tl.min(others, axis=AXIS)


@triton.jit(do_not_specialize=["M", "N"])
def tile_minima_kernel(
    block_ptr,
    row_offset_ptr,
    column_offset_ptr,
    row_value_ptr,
    row_second_ptr,
    column_value_ptr,
    column_second_ptr,
    M,
    N,
    stride_m,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
):
    pid_m, pid_n, offs_m, offs_n = locate_tile(M, N, BLOCK_M, BLOCK_N, GROUP)
    mask_m, mask_n = offs_m < M, offs_n < N
    tile = load_tile(block_ptr, offs_m, offs_n, M, N, stride_m)

    # Results lie tile by tile: [tiles_n, M] for the rows, [tiles_m, N] for the columns.
    column_offset = tl.load(column_offset_ptr + offs_n, mask=mask_n, other=0.0)
    value, second = two_smallest(tile + column_offset[None, :], 1)
    places = pid_n.to(tl.int64) * M + offs_m
    tl.store(row_value_ptr + places, value, mask=mask_m)
    tl.store(row_second_ptr + places, second, mask=mask_m)

    row_offset = tl.load(row_offset_ptr + offs_m, mask=mask_m, other=0.0)
    value, second = two_smallest(tile + row_offset[:, None], 0)
    places = pid_m.to(tl.int64) * N + offs_n
    tl.store(column_value_ptr + places, value, mask=mask_n)
    tl.store(column_second_ptr + places, second, mask=mask_n)
