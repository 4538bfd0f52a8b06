"""The parts that kernels share: which tile a program works on, and the costs in it."""

import triton
import triton.language as tl


@triton.jit
def locate_tile(rows_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """Return the tile of this program: places in the list of rows, columns, their masks, and the rows themselves.

    Programs run in groups of GROUP rows of tiles, so that programs that run together share operands in the cache. The
    rows that lie outside the matrix are replaced by the last one, so that their addresses are valid.
    """
    pid, count_m, count_n = tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    per_group = GROUP * count_n
    first = (pid // per_group) * GROUP
    size = tl.minimum(count_m - first, GROUP)
    pid_m, pid_n = first + (pid % per_group) % size, (pid % per_group) // size
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.load(rows_ptr + tl.minimum(offs_m, M - 1))
    return pid_m, pid_n, offs_m, offs_n, offs_m < M, offs_n < N, rows


@triton.jit
def load_tile(matrix_ptr, rows, offs_n, valid, stride_i, stride_j):
    """Return the stored costs of `rows` and columns `offs_n`; inf where not `valid`."""
    pointers = matrix_ptr + rows.to(tl.int64)[:, None] * stride_i + offs_n.to(tl.int64)[None, :] * stride_j
    return tl.load(pointers, mask=valid, other=float("inf"))
