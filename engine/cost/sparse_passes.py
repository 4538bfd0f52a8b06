"""Passes over the entries of a sparse matrix, and over a background that all other pairs have."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.activations.cofirings import Entries, find_entry
from saematch.cost.lines import lowest_lines
from saematch.cost.passes import Passes, ShortLists, merged_lists
from saematch.numeric.compiled import compiled
from saematch.numeric.gather import places_of
from saematch.numeric.loops import keep
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.threads import ThreadPool


class SparsePasses(Passes):
    """The values of a background, except for pairs with an entry, whose value is the entry.

    Attributes:
        background: passes over the background.
        entries: the values of M of the pairs that differ from the background, in the number type of the passes.
    """

    def __init__(self, background: Passes, entries: Entries) -> None:
        super().__init__(background.shape)
        self.background, self.entries = background, entries
        self.device, self.backend = background.device, background.backend
        self.precision, self.number = background.precision, background.number

    @override
    def cheapest(
        self,
        rows: Indices,
        columns: Indices,
        constant: NDArray[Any],
        offset: NDArray[Any],
        limit: NDArray[Any],
        k: int,
        k_of_columns: int,
    ) -> tuple[ShortLists, ShortLists]:
        by_row, by_column = self.background.cheapest(rows, columns, constant, offset, limit, k, k_of_columns)
        # Pairs with an entry: its value takes the place of that of the background. No value above the last one of a
        # list of the background is listed, so that this value bounds all pairs that are not.
        place = places_of(columns, self.shape[1])
        _drop_entries(*self.entries, rows, columns, *by_column, False)
        bounds = by_column.values[:, -1:].repeat(k_of_columns, axis=1)

        def search(part: slice) -> ShortLists:
            """Look at the entries of some rows; return the lists of the columns among these rows."""
            mine = by_column if part.start == 0 else ShortLists.unfilled(bounds.copy())
            lists = by_row.values[part], by_row.partners[part]
            _drop_entries(*self.entries, rows[part], columns, *lists, True)
            _scan_entries(*self.entries, rows[part], place, constant, offset[part], part.start, *lists, *mine)
            return mine

        with ThreadPool(len(self.entries.values)) as pool:
            found = pool.run(partial(search, part) for part in pool.split(len(rows)))
        return by_row, merged_lists(found)


class LinePasses(Passes):
    """The values a_i b_j, a straight line in a_i for every column j, without looking at all of them."""

    precision = "float64"
    number = np.float64

    def __init__(self, row_factor: Floats, column_factor: Floats) -> None:
        super().__init__((len(row_factor), len(column_factor)))
        self._row_factor, self._column_factor = row_factor, column_factor

    @override
    def cheapest(
        self,
        rows: Indices,
        columns: Indices,
        constant: NDArray[Any],
        offset: NDArray[Any],
        limit: NDArray[Any],
        k: int,
        k_of_columns: int,
    ) -> tuple[ShortLists, ShortLists]:
        a, b = self._row_factor[rows], self._column_factor[columns]
        by_row = ShortLists.unfilled(np.full((len(rows), k), np.inf))
        by_column = ShortLists.unfilled(np.repeat(limit[:, None], k_of_columns, axis=1))
        _lowest(a, b, constant, by_row)
        if k_of_columns:
            _lowest(b, a, -offset, by_column)
        return by_row, by_column


def _lowest(points: Floats, slopes: Floats, constants: Floats, lists: ShortLists) -> None:
    """Fill the list of every point with the lowest lines there."""
    order = np.argsort(points, kind="stable")
    values, partners = lists.values[order], lists.partners[order]
    lowest_lines(points[order], slopes, constants, values, partners)
    lists.values[order], lists.partners[order] = values, partners


@compiled
def _drop_entries(
    starts: Any, indices: Any, _entries: Any, rows: Any, columns: Any, values: Any, partners: Any, of_rows: Any
) -> None:
    """Remove the partners that have an entry with the owner of a list, which is a row or a column.

    The list is then filled up with its last value, without a partner.
    """
    last = values.shape[1] - 1
    for owner in range(len(values)):
        kept = 0
        for n in range(last + 1):
            partner = partners[owner, n]
            if partner < 0:
                break
            i, j = (owner, partner) if of_rows else (partner, owner)
            if find_entry(starts, indices, rows[i], columns[j]) < 0:
                values[owner, kept], partners[owner, kept] = values[owner, n], partner
                kept += 1
        for n in range(kept, last + 1):
            values[owner, n], partners[owner, n] = values[owner, last], -1


@compiled
def _scan_entries(
    starts: Any,
    indices: Any,
    entries: Any,
    rows: Any,
    place: Any,
    constant: Any,
    offset: Any,
    first: Any,
    row_values: Any,
    row_partners: Any,
    column_values: Any,
    column_partners: Any,
) -> None:
    """Update the lists of rows and of columns with the entries of some rows, whose places begin with `first`."""
    last_row, last_column = row_values.shape[1] - 1, column_values.shape[1] - 1
    # The last value of every list of a column, side by side: one of them is looked at for every entry.
    limits = np.empty(len(column_values), column_values.dtype)
    if last_column >= 0:
        limits[:] = column_values[:, last_column]
    for r in range(len(rows)):
        limit = row_values[r, last_row]
        for e in range(starts[rows[r]], starts[rows[r] + 1]):
            c = place[indices[e]]
            if c < 0:
                continue
            value = entries[e] + constant[c]
            if value < limit:
                keep(row_values[r], row_partners[r], value, c)
                limit = row_values[r, last_row]
            if last_column >= 0:
                value = entries[e] - offset[r]
                if value < limits[c]:
                    keep(column_values[c], column_partners[c], value, first + r)
                    limits[c] = column_values[c, last_column]
