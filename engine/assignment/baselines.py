"""What is done without an assignment solver: each row's nearest, mutual nearest, greedy.

Decided by the float64 costs of the pairs that a float32 pass lists; among equals of a list the lowest index wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from saematch.cost import Cost, Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

LISTED = 16
MOST_WORK = 2**34  # entries of the pairs that are looked at one by one: half a minute of a core


def nearest(cost: Cost, unmatched: Unmatched) -> Indices:
    """The cheapest column of every row, many rows to one column; -1 where staying free is cheaper."""
    rows, _ = _lists(cost, unmatched, np.arange(cost.shape[0]), np.zeros(cost.shape[1], dtype=bool))
    return rows[:, 0]


def mutual_nearest(cost: Cost, unmatched: Unmatched) -> Indices:
    """The pairs in which each is the other's cheapest; -1 for all other rows."""
    rows, columns = _lists(cost, unmatched, np.arange(cost.shape[0]), np.zeros(cost.shape[1], dtype=bool))
    found = rows[:, 0]
    agreed = (found >= 0) & (np.append(columns[:, 0], -1)[found] == np.arange(len(found)))
    return np.where(agreed, found, -1)


def greedy(cost: Cost, unmatched: Unmatched) -> Indices:
    """The cheapest pair of all, the cheapest of what is left, and so on.

    A pair is due when each is the other's cheapest among those left, in whatever order such pairs are made. One pass
    lists enough for most of them.
    """
    permutation, taken = np.full(cost.shape[0], -1), np.zeros(cost.shape[1], dtype=bool)
    left = np.arange(cost.shape[0])
    while len(left) and not taken.all():
        rows, columns = _lists(cost, unmatched, left, taken)
        if not (rows >= 0).any():
            break
        before = taken.sum()
        _match_mutual(rows, columns, left, permutation, taken)
        if (
            taken.sum() == before
        ):  # In float32 several pairs tie, so that none is first both for its row and for its column.
            first = left[rows[:, 0] >= 0]
            partners = rows[rows[:, 0] >= 0, 0]
            cheapest = cost.pair_cost(first, partners).argmin()
            permutation[first[cheapest]], taken[partners[cheapest]] = partners[cheapest], True
        left = left[permutation[left] < 0]
    return permutation


BASELINES: dict[str, Callable[[Cost, Unmatched], Indices]] = {
    "nearest": nearest,
    "mutual_nearest": mutual_nearest,
    "greedy": greedy,
}


def _lists(cost: Cost, unmatched: Unmatched, rows: Indices, taken: Any) -> tuple[Indices, Indices]:
    """The cheapest columns of the rows, `(R, k)`, and rows of all columns, `(F_B, k)`, in order of cost; -1 for none.

    Nobody is listed at more than it costs both to stay free, and no column that is taken.
    """
    if 0 in cost.shape:
        return np.full((len(rows), 1), -1), np.full((cost.shape[1], 1), -1)
    p, q = (each * cost.scale for each in (cost.row_constant, cost.column_constant))
    p, q = p - np.median(p), q - np.median(q)  # what all have in common would only cost float32 precision
    k = min(LISTED, *cost.shape)
    prices = np.where(taken, -np.inf, -q)
    scan = cost.scan(rows, prices, np.zeros(len(q)), -p, k, np.inf)
    every = np.arange(len(q))
    by_row = _ordered(cost, unmatched, np.repeat(rows, k), scan.row_partners.ravel(), taken, k)
    by_column = _ordered(cost, unmatched, scan.column_partners.ravel(), np.repeat(every, k), taken, k)
    partners = np.where(by_row >= 0, scan.row_partners.ravel()[by_row], -1).reshape(-1, k)
    sources = np.where(by_column >= 0, scan.column_partners.ravel()[by_column], -1).reshape(-1, k)
    listed, first = np.full(len(rows), np.inf), partners[:, 0]
    some = np.nonzero(first >= 0)[0]
    listed[some] = cost.exact(rows[some], first[some]) + q[first[some]]
    _settle(cost, unmatched, partners, listed, scan.floors, rows, every[~taken])
    listed, first = np.full(len(every), np.inf), sources[:, 0]
    some = np.nonzero(first >= 0)[0]
    listed[some] = cost.exact(first[some], some) + p[first[some]] + q[some]
    listed[taken] = -np.inf
    _settle(cost, unmatched, sources, listed, scan.column_floors, every, rows, by_column=True)
    return partners, sources


def _settle(
    cost: Cost,
    unmatched: Unmatched,
    lists: Indices,
    listed: Floats,
    floors: Floats,
    members: Indices,
    others: Indices,
    by_column: bool = False,
) -> None:
    """Look at all pairs of the members whose first partner may not be the cheapest: one that is not listed may be.

    `listed` is what the first partners cost, as a pass sees it, and `floors` bounds that of the pairs in no list, by
    the rounding of float32. What is decided here are costs in float64.
    """
    doubtful = np.nonzero(floors[:, -1] < listed)[0]
    if len(doubtful) * len(others) * cost.width > MOST_WORK:
        return
    step = max(1, 2**22 // max(1, len(others)))
    for start in range(0, len(doubtful), step):
        at = doubtful[start : start + step]
        pairs = np.repeat(members[at], len(others)), np.tile(others, len(at))
        costs = cost.pair_cost(*(pairs[::-1] if by_column else pairs)).reshape(len(at), -1)
        best = costs.argmin(axis=1)
        lists[at, 0] = np.where(costs[np.arange(len(at)), best] <= sum(unmatched.costs), others[best], -1)
        lists[at, 1:] = -1


def _ordered(cost: Cost, unmatched: Unmatched, rows: Indices, columns: Indices, taken: Any, k: int) -> Indices:
    """Places of the pairs in lists of `k`, each list in order of cost and index; -1 for those that are no pair."""
    value = np.full(len(rows), np.inf)
    some = np.nonzero((rows >= 0) & (columns >= 0))[0]
    some = some[~taken[columns[some]]]
    costs = cost.pair_cost(rows[some], columns[some])
    value[some] = np.where(costs <= sum(unmatched.costs), costs, np.inf)
    each = np.repeat(np.arange(len(rows) // k), k)
    order = np.lexsort((columns, rows, value, each))
    return np.where(np.isfinite(value[order]), order, -1)


@compiled
def _match_mutual(rows: Any, columns: Any, left: Any, permutation: Any, taken: Any) -> None:
    """Match whoever are each other's first among those left, until nobody is; a list that is used up says nothing."""
    row_at, column_at = np.zeros(len(rows), np.int64), np.zeros(len(columns), np.int64)
    depth = rows.shape[1]
    news = True
    while news:
        news = False
        for r in range(len(rows)):
            i = left[r]
            if permutation[i] >= 0:
                continue
            while row_at[r] < depth and rows[r, row_at[r]] >= 0 and taken[rows[r, row_at[r]]]:
                row_at[r] += 1
            if row_at[r] == depth or rows[r, row_at[r]] < 0:
                continue
            j = rows[r, row_at[r]]
            while column_at[j] < depth and columns[j, column_at[j]] >= 0 and permutation[columns[j, column_at[j]]] >= 0:
                column_at[j] += 1
            if column_at[j] < depth and columns[j, column_at[j]] == i:
                permutation[i], taken[j] = j, True
                news = True
