"""Baselines without an assignment solver: nearest, mutual nearest and greedy matching.

The decisions are made by the float64 costs of the pairs that a float32 pass lists. Among equal costs of a list the
lowest index wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.cost import Cost, Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.gather import take_or
from saematch.numeric.rounding import Floats, Indices

LISTED = 16  # cheapest partners of each row and column that a pass lists
MOST_WORK = 2**34  # numbers that pairs are made from when they are compared one by one: half a minute of one core

Bools = NDArray[np.bool_]


def nearest(cost: Cost, unmatched: Unmatched) -> Indices:
    """Return the cheapest column of every row, possibly the same for many rows; -1 if being unmatched is cheaper."""
    rows, _ = _all_lists(cost, unmatched)
    return rows[:, 0]


def mutual_nearest(cost: Cost, unmatched: Unmatched) -> Indices:
    """Return the pairs in which each side is the cheapest partner of the other; -1 for all other rows."""
    rows, columns = _all_lists(cost, unmatched)
    partner = rows[:, 0]
    mutual = (partner >= 0) & (take_or(columns[:, 0], partner, -1) == np.arange(len(partner)))
    return np.where(mutual, partner, -1)


def greedy(cost: Cost, unmatched: Unmatched) -> Indices:
    """Return the matching that takes the cheapest pair of all, then the cheapest of the rest, and so on.

    A pair is taken sooner or later if each side is the cheapest partner of the other among the features that are left.
    So such pairs may be taken in any order, and one pass lists enough partners for most of them.
    """
    permutation, taken = np.full(cost.shape[0], -1), np.zeros(cost.shape[1], dtype=bool)
    left = np.arange(cost.shape[0])
    while len(left) and not taken.all():
        rows, columns = _lists(cost, unmatched, left, taken)
        if not (rows >= 0).any():
            break
        before = taken.sum()
        _match_mutual(rows, columns, left, permutation, taken)
        # Several pairs may tie in float32 such that none is first in both lists: then take the cheapest by float64.
        if taken.sum() == before:
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


def _all_lists(cost: Cost, unmatched: Unmatched) -> tuple[Indices, Indices]:
    return _lists(cost, unmatched, np.arange(cost.shape[0]), np.zeros(cost.shape[1], dtype=bool))


def _lists(cost: Cost, unmatched: Unmatched, rows: Indices, taken: Bools) -> tuple[Indices, Indices]:
    """Return the cheapest columns of some rows, `(R, k)`, and the cheapest of these rows for all columns, `(F_B, k)`.

    Lists are in order of cost, and -1 where they are not full. Pairs that cost more than leaving both sides unmatched,
    and columns that are taken, are not listed.
    """
    if 0 in cost.shape:
        return np.full((len(rows), 1), -1), np.full((cost.shape[1], 1), -1)
    # A pass under prices by which pairs rank by their cost, p_i + q_j + M_ij / scale. What all rows or all columns have
    # in common would only cost float32 precision.
    p, q = (constant * cost.scale for constant in (cost.row_constant, cost.column_constant))
    p, q = p - np.median(p), q - np.median(q)
    k = min(LISTED, *cost.shape)
    scan = cost.scan(rows, np.where(taken, -np.inf, -q), np.zeros(len(q)), -p, k, np.inf)
    # The lists of rows, in order of their float64 costs. A row that its list does not decide is compared with all
    # columns.
    columns = np.arange(len(q))
    order = _ordered(cost, unmatched, np.repeat(rows, k), scan.row_partners.ravel(), taken, k)
    partners = np.where(order >= 0, scan.row_partners.ravel()[order], -1).reshape(-1, k)
    listed, first = np.full(len(rows), np.inf), partners[:, 0]
    some = np.nonzero(first >= 0)[0]
    listed[some] = cost.exact(rows[some], first[some]) + q[first[some]]
    _decide(cost, unmatched, partners, listed, scan.floors, rows, columns[~taken])
    # The lists of columns, likewise. A column that is taken needs no decision.
    order = _ordered(cost, unmatched, scan.column_partners.ravel(), np.repeat(columns, k), taken, k)
    sources = np.where(order >= 0, scan.column_partners.ravel()[order], -1).reshape(-1, k)
    listed, first = np.full(len(columns), np.inf), sources[:, 0]
    some = np.nonzero(first >= 0)[0]
    listed[some] = cost.exact(first[some], some) + p[first[some]] + q[some]
    listed[taken] = -np.inf
    _decide(cost, unmatched, sources, listed, scan.column_floors, columns, rows, by_column=True)
    return partners, sources


def _decide(
    cost: Cost,
    unmatched: Unmatched,
    lists: Indices,
    listed: Floats,
    floors: Floats,
    members: Indices,
    others: Indices,
    by_column: bool = False,
) -> None:
    """Compare members with all others in float64 if their first partner may not be the cheapest; update their lists.

    Args:
        cost: the costs of all pairs.
        unmatched: the costs of leaving features unmatched.
        lists: the lists of the members.
        listed: the cost of each member's first partner, in the terms of the pass.
        floors: lower bounds, by the rounding of float32, for the pairs that are in no list, in the same terms.
        members: the rows, or the columns, that the lists belong to.
        others: the possible partners.
        by_column: whether the members are columns.
    """
    doubtful = np.nonzero(floors[:, -1] < listed)[0]
    if len(doubtful) * len(others) * cost.width > MOST_WORK:
        return
    step = max(1, 2**22 // max(1, len(others)))
    for start in range(0, len(doubtful), step):
        block = doubtful[start : start + step]
        pairs = np.repeat(members[block], len(others)), np.tile(others, len(block))
        costs = cost.pair_cost(*(pairs[::-1] if by_column else pairs)).reshape(len(block), -1)
        best = costs.argmin(axis=1)
        worth = costs[np.arange(len(block)), best] <= sum(unmatched.costs)
        lists[block, 0] = np.where(worth, others[best], -1)
        lists[block, 1:] = -1


def _ordered(cost: Cost, unmatched: Unmatched, rows: Indices, columns: Indices, taken: Bools, k: int) -> Indices:
    """Return the places of pairs in lists of length `k`, each list in order of cost and index; -1 for no pair."""
    value = np.full(len(rows), np.inf)
    some = np.nonzero((rows >= 0) & (columns >= 0))[0]
    some = some[~taken[columns[some]]]
    costs = cost.pair_cost(rows[some], columns[some])
    value[some] = np.where(costs <= sum(unmatched.costs), costs, np.inf)
    number = np.repeat(np.arange(len(rows) // k), k)  # of the list that each pair belongs to
    order = np.lexsort((columns, rows, value, number))
    return np.where(np.isfinite(value[order]), order, -1)


@compiled
def _match_mutual(rows: Any, columns: Any, left: Any, permutation: Any, taken: Any) -> None:
    """Match pairs that are first in each other's lists among the features that are left, until there are none.

    A list that is used up decides nothing. `left` are the rows that the lists in `rows` belong to; `permutation` and
    `taken` are updated.
    """
    row_place, column_place = np.zeros(len(rows), np.int64), np.zeros(len(columns), np.int64)
    depth = rows.shape[1]
    changed = True
    while changed:
        changed = False
        for r in range(len(rows)):
            i = left[r]
            if permutation[i] >= 0:
                continue
            # The first column in the list of row i that is left.
            while row_place[r] < depth and rows[r, row_place[r]] >= 0 and taken[rows[r, row_place[r]]]:
                row_place[r] += 1
            if row_place[r] == depth or rows[r, row_place[r]] < 0:
                continue
            j = rows[r, row_place[r]]
            # The first row in the list of column j that is left.
            while column_place[j] < depth:
                source = columns[j, column_place[j]]
                if source < 0 or permutation[source] < 0:
                    break
                column_place[j] += 1
            if column_place[j] < depth and columns[j, column_place[j]] == i:
                permutation[i], taken[j] = j, True
                changed = True
