"""The part that all passes share: which tile a program looks at, and the costs in it."""

import triton
import triton.language as tl


@triton.jit
def tile_of(pid, count_m, count_n, GROUP: tl.constexpr):
    """Programs in groups of GROUP rows of tiles, so that those that run together share operands in the cache."""
    per_group = GROUP * count_n
    first = (pid // per_group) * GROUP
    size = tl.minimum(count_m - first, GROUP)
    return first + (pid % per_group) % size, (pid % per_group) // size


@triton.jit
def cost_tile(
    left_ptr,
    right_ptr,
    rows,
    columns,
    valid,
    K,
    stride_i,
    stride_j,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STORED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """M of `rows` and `columns`, all in bounds: products of rows, or what is stored; inf where not `valid`."""
    left_ptrs = left_ptr + rows.to(tl.int64)[:, None] * stride_i  # [BLOCK_M, 1]
    if STORED:
        tile = tl.load(left_ptrs + columns.to(tl.int64)[None, :] * stride_j, mask=valid, other=float("inf"))
    else:
        offs_k = tl.arange(0, BLOCK_K)
        left_ptrs = left_ptrs + offs_k[None, :]  # [BLOCK_M, BLOCK_K]
        right_ptrs = right_ptr + columns.to(tl.int64)[None, :] * stride_j + offs_k[:, None]  # [BLOCK_K, BLOCK_N]
        tile = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for _ in range(0, K, BLOCK_K):
            left, right = tl.load(left_ptrs), tl.load(right_ptrs)
            if UPCAST:
                left, right = left.to(tl.float32), right.to(tl.float32)
            tile = tl.dot(left, right, tile, input_precision=PRECISION)
            left_ptrs += BLOCK_K
            right_ptrs += BLOCK_K
        tile = tl.where(valid, tile, float("inf"))
    return tile
