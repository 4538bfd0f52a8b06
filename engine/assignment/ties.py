"""Identical rows: which of several equal answers is given, and how all of them come to be candidates."""

from __future__ import annotations

import numpy as np

from saematch.cost import Indices


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
