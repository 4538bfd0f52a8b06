"""The pairs of a tile below their row's or their column's limit, appended to one list."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import cost_tile, tile_of


@triton.jit
def pairs_below_kernel(
    left_ptr,
    right_ptr,
    rows_ptr,
    row_offset_ptr,
    column_offset_ptr,
    row_limit_ptr,
    column_limit_ptr,
    count_ptr,
    places_ptr,
    columns_ptr,
    values_ptr,
    M,
    N,
    K,
    stride_i,
    stride_j,
    capacity,
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
    column_offset = tl.load(column_offset_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    row_offset = tl.load(row_offset_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    row_limit = tl.load(row_limit_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    column_limit = tl.load(column_limit_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    inf = float("inf")
    below = (tile + column_offset <= row_limit) & (column_offset < inf)
    below |= (tile + row_offset <= column_limit) & (row_offset < inf)
    below &= valid
    hits = below.to(tl.int32)
    if tl.max(hits) > 0:  # most tiles have none
        in_row = tl.sum(hits, axis=1).to(tl.int64)  # one atomic a row; there may be more than 2^31 pairs in all
        first = tl.atomic_add(count_ptr + tl.zeros_like(in_row), in_row, mask=in_row > 0)
        slots = first[:, None] + tl.cumsum(hits, axis=1) - hits
        kept = below & (slots < capacity)
        tl.store(places_ptr + slots, tl.broadcast_to(offs_m[:, None], (BLOCK_M, BLOCK_N)), mask=kept)
        tl.store(columns_ptr + slots, tl.broadcast_to(offs_n[None, :], (BLOCK_M, BLOCK_N)), mask=kept)
        tl.store(values_ptr + slots, tile, mask=kept)
