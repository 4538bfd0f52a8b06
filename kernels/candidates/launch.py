"""The k cheapest pairs of every row and every column.

The operation has no kernel of its own. It makes M in blocks of rows, and reads each block twice, which is much cheaper
than making it twice.

1. `tile_minima` finds the two smallest entries of each line (row or column) in each tile. The k-th smallest of these
   entries bounds the k-th cheapest pair of the line from above.
2. `pairs_below` lists the pairs that are not above this bound, a few more than k per line, and a sort of this short
   list decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.arguments import ALIGNED, check_indices, check_vector, up_to_aligned
from saematch.kernels.candidates.reference import CandidateLists
from saematch.kernels.candidates.reference import candidates as by_sorting
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.products import Products
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tile_minima.reference import Minima
from saematch.kernels.tiles import LISTING, READING, TileShape
from saematch.numeric.numbers import checked_count

MOST = 256  # entries of one list
BLOCK_BYTES = 2**30  # of one block of M
# With thousands of equal pairs, a list may exceed CROWDED times the number of pairs that are wanted. Then blocks of up
# to SORTED pairs are sorted in full instead.
CROWDED = 8
SORTED = 2**24


def candidates(
    products: Products,
    row_offset: Tensor,
    column_offset: Tensor,
    k: int,
    column_limit: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    block_bytes: int = BLOCK_BYTES,
    tile: TileShape | None = None,
) -> tuple[CandidateLists, CandidateLists]:
    """Return the k cheapest pairs of each row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i.

    With offsets -v and -u these are the cheapest pairs by reduced costs. Sums are rounded to float32 once. Among equal
    pairs the one with the lowest index comes first, so that the answer does not depend on the size of blocks.

    Args:
        products: M `(F_A, F_B)`.
        row_offset: float32 `(R,)`; inf excludes a row from the lists of all columns.
        column_offset: float32 `(C,)`; inf excludes a column from the lists of all rows.
        k: the length of each list, 1 to 256.
        column_limit: float32 `(C,)`; columns list only pairs below it. No limit unless given.
        rows: int32 or int64 indices of rows of M, `(R,)`; all rows unless given.
        columns: int32 or int64 indices of columns of M, `(C,)`; all columns unless given.
        block_bytes: the size of one block of M; a block has 16 rows at least.
        tile: the tile shape of both readings; the defaults unless given.

    Returns:
        The lists of the rows, `(R, k)`, whose indices are places in `columns`, and the lists of the columns, `(C, k)`,
        whose indices are places in `rows`.

    Raises:
        MatchError: for another k, and for arguments of another shape, type or device.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> products = kernels.Float32Products(torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [1.0], [2.0]]))
        >>> by_row, by_column = kernels.candidates(products, torch.zeros(2), torch.zeros(3), k=2)
        >>> by_row.indices
        tensor([[1, 2],
                [0, 2]])
    """
    # The arguments, and the defaults of those that are not given.
    k = checked_count(k, 1, f"k is {k!r}; lists hold 1 to {MOST}", MOST)
    device = products.device
    check_indices(rows, "rows", products.shape[0], device)
    check_indices(columns, "columns", products.shape[1], device)
    R, C = (every if some is None else len(some) for every, some in zip(products.shape, (rows, columns), strict=True))
    unlimited = torch.full((C,), torch.inf, dtype=torch.float32, device=device)
    limit = unlimited if column_limit is None else column_limit
    vectors = {"row_offset": (row_offset, R), "column_offset": (column_offset, C), "column_limit": (limit, C)}
    for name, (vector, length) in vectors.items():
        check_vector(vector, name, length, device, torch.float32)

    # The lists, block by block. The limits of the columns fall with every block.
    if columns is not None:
        products = products.of_columns(columns)
    by_row, by_column = _empty(R, k, device), _empty(C, k, device)
    step = max(1, block_bytes // (4 * ALIGNED * up_to_aligned(max(1, C)))) * ALIGNED
    for start in range(0, R if C else 0, step):
        part = slice(start, min(start + step, R))
        limit = torch.minimum(limit, by_column.values[:, -1])
        block = products.part(part).block() if rows is None else products.block(rows[part])
        new_by_row, new_by_column = _in_block(block, row_offset[part], column_offset, k, limit, tile)
        del block  # before the next one is made
        by_row.values[part], by_row.indices[part] = new_by_row
        by_column = _merged(by_column, new_by_column, start)
    return by_row, by_column


def _in_block(
    M: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, limit: Tensor, tile: TileShape | None
) -> tuple[CandidateLists, CandidateLists]:
    """Return the lists of the rows of a block M, and of all columns among these rows."""
    R, C = M.shape

    # Bounds for the k-th cheapest pair of each line, and all pairs that are not above them.
    row_minima, column_minima = tile_minima(M, row_offset, column_offset, tile or READING)
    row_limit = _kth(row_minima, M, column_offset, k)
    column_limit = torch.minimum(_kth(column_minima, M.T, row_offset, k), limit)
    most = CROWDED * (k + 8) * (R + C)
    try:
        rows, columns, values = pairs_below(
            M,
            row_offset,
            column_offset,
            row_limit,
            column_limit,
            capacity=min(most, 2 * k * (R + C)),
            most=most,
            tile=tile or LISTING,
        )
    except TooManyPairsError:
        return _in_smaller_blocks(M, row_offset, column_offset, k, limit, tile)

    # The lists, from these pairs.
    by_column = values + row_offset[rows]
    listed = by_column < limit[columns]
    return (
        _shortest(rows, values + column_offset[columns], columns, R, k),
        _shortest(columns[listed], by_column[listed], rows[listed], C, k),
    )


def _in_smaller_blocks(
    M: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, limit: Tensor, tile: TileShape | None
) -> tuple[CandidateLists, CandidateLists]:
    """Do the work of `_in_block` in blocks that are small enough to be sorted, or that have fewer equal pairs."""
    R, C = M.shape
    step = min(SORTED // C, R // 2)
    if R * C <= SORTED or step == 0:
        return by_sorting(M, row_offset, column_offset, k, limit)
    by_row, by_column = _empty(R, k, M.device), _empty(C, k, M.device)
    for start in range(0, R, step):
        part = slice(start, start + step)
        new_by_row, new_by_column = _in_block(M[part], row_offset[part], column_offset, k, limit, tile)
        by_row.values[part], by_row.indices[part] = new_by_row
        by_column = _merged(by_column, new_by_column, start)
    return by_row, by_column


def _kth(tiles: Minima, lines: Tensor, offset: Tensor, k: int) -> Tensor:
    """Return an upper bound for the k-th smallest of `lines + offset` of each line; inf for lines of fewer than k.

    It is the k-th smallest of the minima of all tiles. Few tiles would give a loose bound, and then all entries are
    searched.
    """
    minima = torch.cat([tiles.value, tiles.second])
    if len(minima) >= 2 * k:
        return minima.topk(k, dim=0, largest=False).values.amax(dim=0)
    if lines.shape[1] < k:
        return torch.full_like(minima[0], torch.inf)
    return (lines + offset).topk(k, dim=1, largest=False).values.amax(dim=1)


def _shortest(lines: Tensor, values: Tensor, partners: Tensor, count: int, k: int) -> CandidateLists:
    """Return the k smallest entries of each line, from entries in any order; equal ones by the index of the partner."""
    allowed = values < torch.inf
    lines, values, partners = lines[allowed], values[allowed], partners[allowed]
    order = torch.argsort(partners)
    for key in (values, lines):
        order = order[torch.argsort(key[order], stable=True)]
    lines, values, partners = lines[order], values[order], partners[order]
    rank = torch.arange(len(lines), device=lines.device) - torch.searchsorted(lines, lines)
    first = rank < k
    lists = _empty(count, k, lines.device)
    lists.values[lines[first], rank[first]] = values[first]
    lists.indices[lines[first], rank[first]] = partners[first]
    return lists


def _merged(lists: CandidateLists, new: CandidateLists, start: int) -> CandidateLists:
    """Merge the lists with those of a later block of rows, which begins at `start`."""
    values, order = torch.cat([lists.values, new.values], dim=1).sort(dim=1, stable=True)
    indices = torch.cat([lists.indices, torch.where(new.indices < 0, -1, new.indices + start)], dim=1)
    k = lists.values.shape[1]
    return CandidateLists(values[:, :k].contiguous(), indices.gather(1, order)[:, :k].contiguous())


def _empty(count: int, k: int, device: torch.device) -> CandidateLists:
    return CandidateLists(
        torch.full((count, k), torch.inf, dtype=torch.float32, device=device),
        torch.full((count, k), -1, dtype=torch.int64, device=device),
    )
