"""Ties between identical rows: which of several equal matchings is returned, and which tied pairs are candidates."""

from __future__ import annotations

import numpy as np

from saematch.cost import Cost, Scan
from saematch.numeric.gather import take_or
from saematch.numeric.rounding import Floats, Indices

_TIED = 16  # partners that are added for a row, if more pairs than its list holds cost the same
# Values cannot be told apart within this share of the numbers involved, by the number type of the passes.
_SAME = {np.float32: 2.0**-18, np.float64: 2.0**-40}


def in_order(permutation: Indices, row_group: Indices, column_group: Indices) -> Indices:
    """Return the representative of all matchings that differ only by exchanges of identical rows or columns.

    A matching decides how many rows of each group go to each group of columns. In the representative, the rows of a
    group take their columns in the order of the columns' groups, with unmatched rows (-1) last; and the columns of a
    group take their rows in ascending order. So every run returns the same matching.

    Args:
        permutation: the partner of each row, -1 if it has none.
        row_group: `(F_A,)`, the first identical row of each row.
        column_group: `(F_B,)`, the first identical column of each column.
    """
    rows, columns = len(row_group), len(column_group)
    if _none_are_alike(row_group) and _none_are_alike(column_group):
        return permutation
    takers = _inverse(_share_out(permutation, row_group, column_group), columns)
    return _inverse(_share_out(takers, column_group, np.arange(rows)), rows)


def once_for_identical_rows(rows: Indices, columns: Indices, row_group: Indices, most: int) -> tuple[Indices, Indices]:
    """Return the pairs without those of more than `most` identical rows with one column.

    Identical rows list the same columns: pairs of a few of them bound its price as well as pairs of all.
    """
    if _none_are_alike(row_group):
        return rows, columns
    order = np.lexsort((rows, columns, row_group[rows]))
    group, column = row_group[rows[order]], columns[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (group[1:] != group[:-1]) | (column[1:] != column[:-1])
    starts = np.nonzero(new)[0]
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = np.sort(order[place < most])
    return rows[kept], columns[kept]


def spread(rows: Indices, columns: Indices, row_group: Indices, column_group: Indices) -> tuple[Indices, Indices]:
    """Return more pairs that cost the same as the listed ones, for rows and columns that are identical to others.

    Candidate lists break ties by index, so every column would list the same few rows of a group of identical rows,
    though all rows of the group need partners. Here every column names other rows of the group, and every row names
    other columns.
    """
    if _none_are_alike(row_group) and _none_are_alike(column_group):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    other_rows = _another(rows, columns, row_group)
    other_columns = _another(columns, rows, column_group)
    new = (other_rows != rows) | (other_columns != columns)
    return other_rows[new], other_columns[new]


def spread_ties(cost: Cost, scan: Scan, prices: Floats) -> tuple[Indices, Indices]:
    """Return pairs that are as cheap as the cheapest of their rows, for rows with more such pairs than a list holds.

    Candidate lists break ties by index, so rows with many cheapest partners would all name the same few. Here each row
    names partners from everywhere, starting at a place of its own.
    """
    # Rows whose lists are full, and whose first and last entry are the same within rounding.
    first, last = scan.floors[:, 0], scan.floors[:, -1]
    with np.errstate(invalid="ignore"):  # inf - inf
        is_tied = last - first <= _SAME[cost.passes.number] * (np.abs(first) + np.abs(last))
    is_tied &= np.isfinite(last)
    tied = scan.rows[is_tied]
    # A few such rows find partners without help.
    if len(tied) < len(scan.rows) / 8 or cost.shape[1] <= _TIED:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    partners = cost.tied_partners(tied, scan.row_partners[is_tied, 0], prices, _TIED)
    row, place = np.nonzero(partners >= 0)
    return tied[row], partners[row, place]


def _none_are_alike(group: Indices) -> bool:
    return bool((group == np.arange(len(group))).all())


def _another(indices: Indices, turn: Indices, group: Indices) -> Indices:
    """Return, for each index, the member of its group that is `turn` places further in a circle."""
    members = np.argsort(group, kind="stable")
    place = np.empty_like(members)
    place[members] = np.arange(len(members))
    size = np.bincount(group, minlength=len(group))[group]
    start = place[group]  # a group is named after its first member
    another: Indices = members[start[indices] + (place[indices] - start[indices] + turn) % size[indices]]
    return another


def _share_out(partners: Indices, group: Indices, partner_group: Indices) -> Indices:
    """Give the partners of each group, sorted by their own group and index, to its members in ascending order."""
    last = len(partner_group)  # sorts after all partners
    key = np.where(partners >= 0, partners, last)
    members = np.lexsort((np.arange(len(group)), group))
    shared = np.empty_like(partners)
    shared[members] = partners[np.lexsort((key, take_or(partner_group, key, last), group))]
    return shared


def _inverse(partners: Indices, size: int) -> Indices:
    inverse = np.full(size, -1)
    matched = np.nonzero(partners >= 0)[0]
    inverse[partners[matched]] = matched
    return inverse
