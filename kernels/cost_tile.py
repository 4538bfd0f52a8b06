"""The parts that kernels share: which tile a program works on, and the entries of a block in it.

Sizes that vary within a run are not specialised, so that every kernel is compiled once. The compiler then knows nothing
of them, and a mask that ends at one of them would split loads of 16 bytes. Masks that end at a multiple of 16 do not.
"""

import triton
import triton.language as tl


@triton.jit
def locate_tile(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Return the place of the tile of this program among all tiles, and its rows and columns.

    Programs run in groups of GROUP rows of tiles, so that programs that run together share operands in the cache.
    """
    pid, count_m, count_n = tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    per_group = GROUP * count_n
    first = (pid // per_group) * GROUP
    size = tl.minimum(count_m - first, GROUP)
    pid_m, pid_n = first + (pid % per_group) % size, (pid % per_group) // size
    return pid_m, pid_n, pid_m * BLOCK_M + tl.arange(0, BLOCK_M), pid_n * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def up_to_aligned(length):
    """Return the next multiple of 16: lines in memory have room up to there."""
    return tl.cdiv(length, 16) * 16


@triton.jit
def load_tile(block_ptr, offs_m, offs_n, M, N, stride_m):
    """Return the entries of a tile; inf where the block has none."""
    pointers = block_ptr + offs_m.to(tl.int64)[:, None] * stride_m + offs_n[None, :]
    readable = (offs_m < M)[:, None] & (offs_n < up_to_aligned(N))[None, :]
    return tl.where((offs_n < N)[None, :], tl.load(pointers, mask=readable, other=float("inf")), float("inf"))


@triton.jit
def store_tile(out_ptr, tile, offs_m, offs_n, M, N, stride_m, PADDED: tl.constexpr):
    """Write a tile to a matrix; if it is PADDED, the room at the end of its rows is written as well."""
    width = up_to_aligned(N) if PADDED else N
    pointers = out_ptr + offs_m.to(tl.int64)[:, None] * stride_m + offs_n[None, :]
    tl.store(pointers, tile, mask=(offs_m < M)[:, None] & (offs_n < width)[None, :])
