"""Identical rows: which of several equal answers is given, and how all of them come to be candidates."""

from __future__ import annotations

import numpy as np

from saematch.cost import Cost, Scan
from saematch.numeric.loops import choose_tied
from saematch.numeric.rounding import Floats, Indices

_TIED = 16  # partners of a row that are added where more than a list holds cost the same
_SAME = 2.0**-18  # share of the numbers involved below which a float32 pass cannot tell listed values apart


def in_order(permutation: Indices, row_group: Indices, column_group: Indices) -> Indices:
    """The representative, among the matchings that differ by exchanging identical rows, that every run returns.

    What a matching decides is how often which group of rows goes to which group of columns. Here the rows of a group
    take their columns in the order of the columns' groups, rows without a partner (-1) last, and the columns of a group
    then take their rows in ascending order.
    """
    rows, columns = len(row_group), len(column_group)
    takers = _inverse(_share_out(permutation, row_group, column_group), columns)
    return _inverse(_share_out(takers, column_group, np.arange(rows)), rows)


def spread(rows: Indices, columns: Indices, row_group: Indices, column_group: Indices) -> tuple[Indices, Indices]:
    """Pairs of the same costs as those listed, for the rows and columns that have others identical to them.

    Lists break ties by index: all columns name the same few of a group's rows, though all of the group need partners.
    Here every column names others of them, and so does every row of a group's columns.
    """
    other_rows = _another(rows, columns, row_group)
    other_columns = _another(columns, rows, column_group)
    new = (other_rows != rows) | (other_columns != columns)
    return other_rows[new], other_columns[new]


def spread_ties(cost: Cost, scan: Scan, prices: Floats) -> tuple[Indices, Indices]:
    """Pairs that cost their rows as little as the cheapest, where a pass found more of these than its lists hold.

    Lists break ties by index, so that rows with many cheapest partners name the same few. Here each of them names some
    from everywhere in its row, starting at a place of its own.
    """
    full = np.isfinite(scan.floors[:, -1])
    first, last = scan.floors[full, 0], scan.floors[full, -1]
    tied = scan.rows[full][last - first <= _SAME * (np.abs(first) + np.abs(last))]
    if len(tied) < len(scan.rows) / 8 or cost.shape[1] <= _TIED:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    found, columns = np.full((len(tied), _TIED), -1), np.arange(cost.shape[1])
    step = max(1, cost.tile[0] * cost.tile[1] // len(columns))
    for start in range(0, len(tied), step):
        rows = tied[start : start + step]
        choose_tied(cost.block(rows, columns) - prices, rows, found[start : start + step])
    at, place = np.nonzero(found >= 0)
    return tied[at], found[at, place]


def _another(indices: Indices, turn: Indices, group: Indices) -> Indices:
    """For each index a member of its group, `turn` places further in the circle."""
    members = np.argsort(group, kind="stable")
    place = np.empty_like(members)
    place[members] = np.arange(len(members))
    size = np.bincount(group, minlength=len(group))[group]
    start = place[group]  # a group is named after its first member
    another: Indices = members[start[indices] + (place[indices] - start[indices] + turn) % size[indices]]
    return another


def _share_out(partners: Indices, group: Indices, partner_group: Indices) -> Indices:
    """Within each group, give the partners, sorted by their group and index, to the members in ascending order."""
    nobody = len(partner_group)
    key = np.where(partners >= 0, partners, nobody)
    members = np.lexsort((np.arange(len(group)), group))
    shared = np.empty_like(partners)
    shared[members] = partners[np.lexsort((key, np.append(partner_group, nobody)[key], group))]
    return shared


def _inverse(partners: Indices, size: int) -> Indices:
    inverse = np.full(size, -1)
    matched = np.nonzero(partners >= 0)[0]
    inverse[partners[matched]] = matched
    return inverse
