"""Costs of pairs of features by their activations: 1 - similarity, for a sparse matrix of similarities.

    C_ij = 1 + M_ij,      M_ij = a_i b_j - S_ij,

where S_ij is 0 unless the features are active together on some token, see `saematch.activations.similarities`. The
matrix of all pairs is never made: a pass compares the entries of S one by one, and a_i b_j, a straight line in a_i for
every column j, for all pairs at once.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.activations.similarities import Similarities
from saematch.cost.base import BlockErrors, Cost
from saematch.cost.lines import lowest_lines
from saematch.cost.passes import TILE, Passes, ShortLists, merged_lists
from saematch.cost.unmatched import Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.loops import keep
from saematch.numeric.rounding import UNIT_64, Floats, Indices, exact_sum, gamma, two_product
from saematch.numeric.threads import ThreadPool

_ROUNDING = 8 * UNIT_64  # of M and of a cost, whose terms are at most 3 in size
_LARGEST = 3.0  # no a_i b_j and no S_ij exceeds it


class CodesCost(Cost):
    """The costs 1 - similarity of all pairs of F_A and F_B features.

    The bounds for errors cover the rounding of the similarities, which are sums over many tokens.
    """

    scale = 1.0

    def __init__(self, similarities: Similarities) -> None:
        super().__init__(similarities.shape, TILE)
        self._similarities = similarities
        self.passes = SparsePasses(similarities)
        self.row_constant, self.column_constant = np.ones(self.shape[0]), np.zeros(self.shape[1])

    # Exact values of listed pairs, and of blocks.

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        if self._stored:
            return self.all_values[rows, columns]
        stored, background = self._similarities.of_pairs(rows, columns)
        return background - stored

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        return self._row_error[rows] + (self._column_error + price_error)[columns]

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        sides = self._similarities
        values = sides.row_factor[rows][:, None] * sides.column_factor[columns]
        place = np.full(self.shape[1], -1, dtype=np.int32)
        place[columns] = np.arange(len(columns))
        with ThreadPool(values.size) as pool:
            parts = pool.split(len(rows))
            pool.run(partial(_subtract, *sides.entries, rows[part], place, values[part]) for part in parts)
        return values

    @override
    def block_errors(self, price_error: Floats) -> BlockErrors:
        return BlockErrors(self._row_error, np.ones(self.shape[1]), self._column_error + price_error, share=0.0)

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        return pair_costs(self._similarities, rows, columns)

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        stored, _ = self._similarities.of_pairs(rows, columns)
        product = two_product(self._similarities.row_factor[rows], self._similarities.column_factor[columns])
        duals = [-one[rows] for one in potentials] + [-one[columns] for one in prices]
        value, error = exact_sum(np.ones(len(rows)), *product, -stored, *duals)
        return value, error + self._row_error[rows] + self._column_error[columns]

    @override
    def constant_error(self) -> tuple[Floats, Floats]:
        return np.zeros(self.shape[0]), np.zeros(self.shape[1])

    @property
    def _row_error(self) -> Floats:
        error = self._similarities.row_error
        return np.where(error > 0, error + _ROUNDING, 0.0)

    @property
    def _column_error(self) -> Floats:
        return self._similarities.column_error

    # Bounds and statistics of all costs.

    @property
    @override
    def largest_cost(self) -> float:
        return 2.0 + 1e-6

    @property
    @override
    def smallest_cost(self) -> float:
        return 0.0

    @cached_property
    @override
    def random_total(self) -> float:
        """The mean of M over all pairs, times the number of pairs of a matching."""
        sides = self._similarities
        background = float(sides.row_factor.sum() * sides.column_factor.sum())
        return (background - float(sides.entries.values.sum())) / max(1, *self.shape)

    @property
    @override
    def random_error(self) -> float:
        sides = self._similarities
        sizes = float(np.abs(sides.row_factor).sum() * np.abs(sides.column_factor).sum())
        sizes += float(np.abs(sides.entries.values).sum())
        rounding = gamma(sum(self.shape) + len(sides.entries.values), UNIT_64) * sizes / max(1, *self.shape)
        return rounding + min(self.shape) * (sides.error + _ROUNDING)

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        return self._similarities.row_group, self._similarities.column_group

    # Unmatched features, and passes.

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        sizes = (abs(row) + 1.0 if np.isfinite(row) else 0.0), (abs(column) if np.isfinite(column) else 0.0)
        errors = [np.full(count, 2 * UNIT_64 * size) for count, size in zip(self.shape, sizes, strict=True)]
        rows, columns = np.full(self.shape[0], row - 1.0), np.full(self.shape[1], column)
        return Unmatched((row, column), 0.0, rows, columns, errors[0], errors[1])

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return np.zeros(self.shape[1]), np.zeros(self.shape[0])

    @override
    def _pads(self) -> tuple[Floats, Floats]:
        return self._row_error + 16 * _ROUNDING * _LARGEST, self._column_error


class SparsePasses(Passes):
    """Passes over the entries of a sparse matrix, and over the background of all other pairs."""

    precision = "float64"
    number = np.float64

    def __init__(self, similarities: Similarities) -> None:
        super().__init__(similarities.shape)
        self._similarities = similarities

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
        sides = self._similarities
        a, b = sides.row_factor[rows], sides.column_factor[columns]
        by_row = ShortLists.unfilled(np.full((len(rows), k), np.inf))
        by_column = ShortLists.unfilled(np.repeat(limit[:, None], k_of_columns, axis=1))
        _lowest(a, b, constant, by_row)
        if k_of_columns:
            _lowest(b, a, -offset, by_column)
        # Pairs that are active together: their true values take the place of those of the background. No value above
        # the last one of a background list is listed, so that this value bounds all pairs that are not.
        place = np.full(self.shape[1], -1, dtype=np.int32)
        place[columns] = np.arange(len(columns))
        _drop_entries(*sides.entries, rows, columns, *by_column, False)
        bounds = by_column.values[:, -1:].repeat(k_of_columns, axis=1)

        def search(part: slice) -> ShortLists:
            """Look at the entries of some rows; return the lists of the columns among these rows."""
            mine = by_column if part.start == 0 else ShortLists.unfilled(bounds.copy())
            lists = by_row.values[part], by_row.partners[part]
            _drop_entries(*sides.entries, rows[part], columns, *lists, True)
            numbers = a[part], b, constant, offset[part]
            _scan_entries(*sides.entries, rows[part], place, *numbers, part.start, *lists, *mine)
            return mine

        with ThreadPool(len(sides.entries.values)) as pool:
            found = pool.run(partial(search, part) for part in pool.split(len(rows)))
        return by_row, merged_lists(found)


def pair_costs(similarities: Similarities, rows: Indices, columns: Indices) -> Floats:
    """Return 1 - similarity of the listed pairs. It is not negative, whatever rounding does."""
    stored, background = similarities.of_pairs(rows, columns)
    return np.maximum(1.0 + (background - stored), 0.0)


def _lowest(points: Floats, slopes: Floats, constants: Floats, lists: ShortLists) -> None:
    """Fill the list of every point with the lowest lines there."""
    order = np.argsort(points, kind="stable")
    values, partners = lists.values[order], lists.partners[order]
    lowest_lines(points[order], slopes, constants, values, partners)
    lists.values[order], lists.partners[order] = values, partners


@compiled
def _has_entry(starts: Any, indices: Any, i: Any, j: Any) -> Any:
    place, stop = starts[i], starts[i + 1]
    while place < stop:
        middle = (place + stop) // 2
        if indices[middle] < j:
            place = middle + 1
        else:
            stop = middle
    return place < starts[i + 1] and indices[place] == j


@compiled
def _drop_entries(
    starts: Any, indices: Any, _values: Any, rows: Any, columns: Any, values: Any, partners: Any, of_rows: Any
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
            if not _has_entry(starts, indices, rows[i], columns[j]):
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
    a: Any,
    b: Any,
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
    for r in range(len(rows)):
        limit = row_values[r, last_row]
        for e in range(starts[rows[r]], starts[rows[r] + 1]):
            c = place[indices[e]]
            if c < 0:
                continue
            value = a[r] * b[c] - entries[e]
            if value + constant[c] < limit:
                keep(row_values[r], row_partners[r], value + constant[c], c)
                limit = row_values[r, last_row]
            if last_column >= 0 and value - offset[r] < column_values[c, last_column]:
                keep(column_values[c], column_partners[c], value - offset[r], first + r)


@compiled
def _subtract(starts: Any, indices: Any, entries: Any, rows: Any, place: Any, out: Any) -> None:
    """Subtract the entries of some rows from the values of these rows, in the places of their columns."""
    for r in range(len(rows)):
        for e in range(starts[rows[r]], starts[rows[r] + 1]):
            c = place[indices[e]]
            if c >= 0:
                out[r, c] -= entries[e]
