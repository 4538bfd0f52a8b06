"""Append the pairs of a tile that are below the limit of their row or of their column to one list."""

import triton
import triton.language as tl

from saematch.kernels.cost_tile import load_tile, locate_tile


@triton.jit(do_not_specialize=["M", "N", "capacity"])
def pairs_below_kernel(
    block_ptr,
    row_offset_ptr,
    column_offset_ptr,
    row_limit_ptr,
    column_limit_ptr,
    count_ptr,
    rows_ptr,
    columns_ptr,
    values_ptr,
    M,
    N,
    stride_m,
    capacity,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
):
    _, _, offs_m, offs_n = locate_tile(M, N, BLOCK_M, BLOCK_N, GROUP)
    mask_m, mask_n = offs_m < M, offs_n < N
    tile = load_tile(block_ptr, offs_m, offs_n, M, N, stride_m)

    column_offset = tl.load(column_offset_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    row_offset = tl.load(row_offset_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    row_limit = tl.load(row_limit_ptr + offs_m, mask=mask_m, other=0.0)[:, None]
    column_limit = tl.load(column_limit_ptr + offs_n, mask=mask_n, other=0.0)[None, :]
    inf = float("inf")
    below = (tile + column_offset <= row_limit) & (column_offset < inf)
    below |= (tile + row_offset <= column_limit) & (row_offset < inf)
    below &= mask_m[:, None] & mask_n[None, :]
    hits = below.to(tl.int32)

    # Most tiles have no such pair. One atomic operation per row reserves its slots: more than 2^31 pairs are possible.
    if tl.max(hits) > 0:
        in_row = tl.sum(hits, axis=1).to(tl.int64)
        first = tl.atomic_add(count_ptr + tl.zeros_like(in_row), in_row, mask=in_row > 0)
        slots = first[:, None] + tl.cumsum(hits, axis=1) - hits
        fits = below & (slots < capacity)
        tl.store(rows_ptr + slots, tl.broadcast_to(offs_m[:, None], (BLOCK_M, BLOCK_N)), mask=fits)
        tl.store(columns_ptr + slots, tl.broadcast_to(offs_n[None, :], (BLOCK_M, BLOCK_N)), mask=fits)
        tl.store(values_ptr + slots, tile, mask=fits)
