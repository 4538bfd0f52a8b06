"""The k cheapest pairs of every row and every column.

The operation has no kernel of its own: it reads each row block of M twice.

1. `tile_minima` finds the two smallest entries of each line (row or column) in each tile. The k-th smallest of these
   entries bounds the k-th cheapest pair of the line from above.
2. `pairs_below` lists the pairs that are not above this bound, a few more than k per line, and a sort of this short
   list decides.

If M is not stored, each row block of it is first written to memory: making a product is expensive, reading it twice is
not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.candidates.reference import CandidateLists
from saematch.kernels.candidates.reference import candidates as by_sorting
from saematch.kernels.costs import Costs, check_rows, check_vector
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.pairwise_cost.launch import pairwise_cost
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tile_minima.reference import Minima
from saematch.kernels.tiles import STORED, STORED_LISTING, TileShape
from saematch.numeric.numbers import checked_count

MOST = 64  # entries of one list
BLOCK_BYTES = 2**30  # of one row block of M, if M is not stored
# With thousands of equal pairs, a list may exceed CROWDED times the number of pairs that are wanted. Then blocks of up
# to SORTED pairs are sorted in full instead.
CROWDED = 8
SORTED = 2**24


def candidates(
    costs: Costs,
    row_offset: Tensor,
    column_offset: Tensor,
    k: int,
    column_limit: Tensor | None = None,
    rows: Tensor | None = None,
    block_bytes: int = BLOCK_BYTES,
    tile: TileShape | None = None,
) -> tuple[CandidateLists, CandidateLists]:
    """Return the k cheapest pairs of each row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i.

    With offsets -v and -u these are the cheapest pairs by reduced costs. Sums are rounded to float32 once. Among equal
    pairs the one with the lowest index comes first, so that the answer does not depend on the size of blocks.

    Args:
        costs: M `(F_A, F_B)`, made by `products` or by `stored`.
        row_offset: float32 `(R,)`; inf excludes a row from the lists of all columns.
        column_offset: float32 `(F_B,)`; inf excludes a column from the lists of all rows.
        k: the length of each list, 1 to 64.
        column_limit: float32 `(F_B,)`; columns list only pairs below it. No limit unless given.
        rows: indices of rows of M, `(R,)`; all rows unless given.
        block_bytes: the size of one row block of M, if M is not stored.
        tile: the tile shape of both readings; the defaults unless given.

    Returns:
        The lists of the rows, `(R, k)`, and of the columns, `(F_B, k)`, whose indices are places in `rows`.

    Raises:
        MatchError: for another k, and for arguments of another shape, type or device.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> costs = kernels.stored(torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]]))
        >>> by_row, by_column = kernels.candidates(costs, torch.zeros(2), torch.zeros(3), k=2)
        >>> by_row.indices
        tensor([[1, 2],
                [0, 2]])
    """
    # The arguments, and the defaults of those that are not given.
    k = checked_count(k, 1, f"k is {k!r}; lists hold 1 to {MOST}", MOST)
    rows = check_rows(rows, costs)
    R, N = len(rows), costs.shape[1]
    unlimited = torch.full((N,), torch.inf, dtype=torch.float32, device=costs.device)
    limit = unlimited if column_limit is None else column_limit
    vectors = {"row_offset": (row_offset, R), "column_offset": (column_offset, N), "column_limit": (limit, N)}
    for name, (vector, length) in vectors.items():
        check_vector(vector, name, length, costs.device, torch.float32)

    # The lists, block by block. The limits of the columns fall with every block.
    by_row, by_column = _empty(R, k, costs.device), _empty(N, k, costs.device)
    step = max(1, block_bytes // (4 * max(1, N)))
    # In a stored matrix, only the minima of the tiles take memory.
    if costs.is_stored:
        step *= 8
    for start in range(0, R if N else 0, step):
        part = slice(start, min(start + step, R))
        if costs.is_stored:
            block, places = costs.left, rows[part]
        else:
            block = pairwise_cost(costs, rows[part])
            places = torch.arange(part.stop - start, dtype=torch.int32, device=costs.device)
        limit = torch.minimum(limit, by_column.values[:, -1])
        new_by_row, new_by_column = _in_block(block, places, row_offset[part], column_offset, k, limit, tile)
        by_row.values[part], by_row.indices[part] = new_by_row
        by_column = _merged(by_column, new_by_column, start)
    return by_row, by_column


def _in_block(
    M: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, limit: Tensor, tile: TileShape | None
) -> tuple[CandidateLists, CandidateLists]:
    """Return the lists of some rows of a stored M, and of all columns among these rows."""
    R, N = len(rows), M.shape[1]

    # Bounds for the k-th cheapest pair of each line, and all pairs that are not above them.
    row_minima, column_minima = tile_minima(M, rows, row_offset, column_offset, tile or STORED)
    row_limit, column_limit = _kth(row_minima, k), torch.minimum(_kth(column_minima, k), limit)
    most = CROWDED * (k + 8) * (R + N)
    try:
        places, columns, values = pairs_below(
            M,
            rows,
            row_offset,
            column_offset,
            row_limit,
            column_limit,
            capacity=min(most, 2 * k * (R + N)),
            most=most,
            tile=tile or STORED_LISTING,
        )
    except TooManyPairsError:
        return _in_smaller_blocks(M, rows, row_offset, column_offset, k, limit, tile)

    # The lists, from these pairs.
    by_column = values + row_offset[places]
    listed = by_column < limit[columns]
    return (
        _shortest(places, values + column_offset[columns], columns, R, k),
        _shortest(columns[listed], by_column[listed], places[listed], N, k),
    )


def _in_smaller_blocks(
    M: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, limit: Tensor, tile: TileShape | None
) -> tuple[CandidateLists, CandidateLists]:
    """Do the work of `_in_block` in blocks that are small enough to be sorted, or that have fewer equal pairs."""
    R, N = len(rows), M.shape[1]
    step = min(SORTED // N, R // 2)
    if R * N <= SORTED or step == 0:
        return by_sorting(M, rows, row_offset, column_offset, k, limit)
    by_row, by_column = _empty(R, k, M.device), _empty(N, k, M.device)
    for start in range(0, R, step):
        part = slice(start, start + step)
        new_by_row, new_by_column = _in_block(M, rows[part], row_offset[part], column_offset, k, limit, tile)
        by_row.values[part], by_row.indices[part] = new_by_row
        by_column = _merged(by_column, new_by_column, start)
    return by_row, by_column


def _kth(tiles: Minima, k: int) -> Tensor:
    """Return the k-th smallest of the minima of all tiles for each line; inf where the tiles have fewer than k."""
    minima = torch.cat([tiles.value, tiles.second])
    if len(minima) < k:
        return torch.full_like(minima[0], torch.inf)
    return minima.topk(k, dim=0, largest=False).values.amax(dim=0)


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
