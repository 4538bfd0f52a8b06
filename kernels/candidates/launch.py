"""The k cheapest of every row and every column. It has no kernel of its own: a stripe of M is looked at twice.

The first look finds the two smallest of each tile's part of a line; the k-th smallest of those bounds the k-th cheapest
of the line from above. The second collects what is not above the bound, a little more than k a line, and a sort of that
short list decides. Where M is not stored, a stripe of it is written down first: a product is dear, reading it twice is
not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.kernels.candidates.reference import Lists
from saematch.kernels.candidates.reference import candidates as by_sorting
from saematch.kernels.costs import Costs, check_rows, check_vector, stored
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.pairwise_cost.launch import pairwise_cost
from saematch.kernels.reduced_minima.launch import tile_minima
from saematch.kernels.reduced_minima.reference import Minima
from saematch.kernels.tiles import Tile, default_tile
from saematch.numeric.numbers import checked_count

MOST = 64  # a line
STRIPE_BYTES = 2**30  # of M at a time, where it is not stored
CROWDED = 8  # times as many pairs as are wanted: true ties by the thousand, which are sorted in full instead,
SORTED = 2**24  # so many pairs at a time


def candidates(
    costs: Costs,
    row_offset: Tensor,
    column_offset: Tensor,
    k: int,
    column_limit: Tensor | None = None,
    rows: Tensor | None = None,
    stripe_bytes: int = STRIPE_BYTES,
    tile: Tile | None = None,
) -> tuple[Lists, Lists]:
    """The k cheapest of each row by M_ij + column_offset_j, `(R, k)`, and of each column by M_ij + row_offset_i, `(F_B,
    k)`, in float32; ties go to the first, so that no block size shows.

    Rows are all or the listed ones, and a column's indices are places among them. Columns list only what is below their
    `column_limit`. Offsets and limits are float32; inf keeps a line out. `tile` is for the looks at a stripe.

    Raises `MatchError` unless 1 <= k <= 64, and for arguments of another shape, type or device.
    """
    k = checked_count(k, 1, f"k is {k!r}; lists hold 1 to {MOST}", MOST)
    rows = check_rows(rows, costs)
    R, N = len(rows), costs.shape[1]
    unlimited = torch.full((N,), torch.inf, dtype=torch.float32, device=costs.device)
    limit = unlimited if column_limit is None else column_limit
    vectors = {"row_offset": (row_offset, R), "column_offset": (column_offset, N), "column_limit": (limit, N)}
    for name, (vector, length) in vectors.items():
        check_vector(vector, name, length, costs.device, torch.float32)
    by_row, by_column = _empty(R, k, costs.device), _empty(N, k, costs.device)
    step = max(1, stripe_bytes // (4 * max(1, N)))
    if costs.is_stored:
        step *= 8  # only what the tiles find takes memory
    for start in range(0, R if N else 0, step):
        part = slice(start, min(start + step, R))
        if costs.is_stored:
            stripe, places = costs, rows[part]
        else:
            stripe = stored(pairwise_cost(costs, rows[part]))
            places = torch.arange(part.stop - start, dtype=torch.int32, device=costs.device)
        limit = torch.minimum(limit, by_column.values[:, -1])
        found, new = _of_stripe(stripe, places, row_offset[part], column_offset, k, limit, tile)
        by_row.values[part], by_row.indices[part] = found
        by_column = _merged(by_column, new, start)
    return by_row, by_column


def _of_stripe(
    costs: Costs, rows: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, limit: Tensor, tile: Tile | None
) -> tuple[Lists, Lists]:
    R, N = len(rows), costs.shape[1]
    look = tile or default_tile(costs.device, "stored")
    row_tiles, column_tiles = tile_minima(costs, rows, row_offset, column_offset, look)
    row_limit = _kth(row_tiles, k)
    column_bound = torch.minimum(_kth(column_tiles, k), limit)
    most = CROWDED * (k + 8) * (R + N)
    listing = tile or default_tile(costs.device, "stored", lists=True)
    try:
        found = pairs_below(
            costs,
            row_offset,
            column_offset,
            row_limit,
            column_bound,
            rows,
            capacity=min(most, 2 * k * (R + N)),
            most=most,
            tile=listing,
        )
    except TooManyPairsError:
        step = min(SORTED // N, R // 2)
        if R * N <= SORTED or step == 0:
            return by_sorting(costs.left, rows, row_offset, column_offset, k, limit)
        by_row, least = _empty(R, k, costs.device), _empty(N, k, costs.device)
        for start in range(0, R, step):  # parts of a size to sort, or that now hold fewer
            part = slice(start, start + step)
            lists, new = _of_stripe(costs, rows[part], row_offset[part], column_offset, k, limit, tile)
            by_row.values[part], by_row.indices[part] = lists
            least = _merged(least, new, start)
        return by_row, least
    places, columns, values = found
    by_column = values + row_offset[places]
    listed = by_column < limit[columns]
    return (
        _shortest(places, values + column_offset[columns], columns, R, k),
        _shortest(columns[listed], by_column[listed], places[listed], N, k),
    )


def _kth(tiles: Minima, k: int) -> Tensor:
    """The k-th smallest of what the tiles, the first axis, found: inf where that is less than k."""
    minima = torch.cat([tiles.value, tiles.second])
    if len(minima) < k:
        return torch.full_like(minima[0], torch.inf)
    return minima.topk(k, dim=0, largest=False).values.amax(dim=0)


def _shortest(lines: Tensor, values: Tensor, others: Tensor, count: int, k: int) -> Lists:
    """The k least of each line, from entries in any order; ties to the first of the others."""
    allowed = values < torch.inf
    lines, values, others = lines[allowed], values[allowed], others[allowed]
    order = torch.argsort(others)
    for key in (values, lines):
        order = order[torch.argsort(key[order], stable=True)]
    lines, values, others = lines[order], values[order], others[order]
    rank = torch.arange(len(lines), device=lines.device) - torch.searchsorted(lines, lines)
    kept = rank < k
    lists = _empty(count, k, lines.device)
    lists.values[lines[kept], rank[kept]] = values[kept]
    lists.indices[lines[kept], rank[kept]] = others[kept]
    return lists


def _merged(lists: Lists, new: Lists, start: int) -> Lists:
    """Of both, where all of the new ones come after the others."""
    values, order = torch.cat([lists.values, new.values], dim=1).sort(dim=1, stable=True)
    indices = torch.cat([lists.indices, torch.where(new.indices < 0, -1, new.indices + start)], dim=1)
    k = lists.values.shape[1]
    return Lists(values[:, :k].contiguous(), indices.gather(1, order)[:, :k].contiguous())


def _empty(count: int, k: int, device: torch.device) -> Lists:
    return Lists(
        torch.full((count, k), torch.inf, dtype=torch.float32, device=device),
        torch.full((count, k), -1, dtype=torch.int64, device=device),
    )
