"""Costs of pairs of features by their activations: 1 - similarity, for a sparse matrix of similarities.

    C_ij = 1 + M_ij,      M_ij = a_i b_j - S_ij,

where S_ij is 0 unless the features are active together on some token, see `saematch.activations.similarities`. The
matrix of all pairs is never made: a pass compares the M of such pairs one by one, and a_i b_j, a straight line in a_i
for every column j, for all pairs at once.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from typing_extensions import override

from saematch.activations.similarities import Similarities
from saematch.cost.base import BlockErrors, Cost
from saematch.cost.passes import TILE
from saematch.cost.sparse_passes import LinePasses, SparsePasses
from saematch.cost.unmatched import Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.gather import places_of
from saematch.numeric.rounding import UNIT_64, Floats, Indices, exact_sum, gamma
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
        background = LinePasses(similarities.row_factor, similarities.column_factor)
        self.passes = SparsePasses(background, similarities.entries)
        self.row_constant, self.column_constant = np.ones(self.shape[0]), np.zeros(self.shape[1])

    # Exact values of listed pairs, and of blocks.

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        if self._stored:
            return self.all_values[rows, columns]
        return -self._similarities.of_pairs(rows, columns)

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        return self._pair_error(rows, columns) + price_error[columns]

    def _pair_error(self, rows: Indices, columns: Indices) -> Floats:
        error = self._row_error[rows] + self._column_error[columns]
        return np.where(self._similarities.are_twins(rows, columns), 0.0, error)

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        sides = self._similarities
        values = sides.row_factor[rows][:, None] * sides.column_factor[columns]
        place = places_of(columns, self.shape[1])
        with ThreadPool(values.size) as pool:
            parts = pool.split(len(rows))
            pool.run(partial(_set, *sides.entries, rows[part], place, values[part]) for part in parts)
        return values

    @override
    def block_errors(self, price_error: Floats) -> BlockErrors:
        return BlockErrors(self._row_error, np.ones(self.shape[1]), self._column_error + price_error, share=0.0)

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        return pair_costs(self._similarities, rows, columns)

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        duals = [-one[rows] for one in potentials] + [-one[columns] for one in prices]
        value, error = exact_sum(np.ones(len(rows)), self.exact(rows, columns), *duals)
        return value, error + self._pair_error(rows, columns)

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

    @cached_property
    @override
    def random_total(self) -> float:
        """The mean of M over all pairs, times the number of pairs of a matching."""
        return -self._similarities.total / max(1, *self.shape)

    @property
    @override
    def random_error(self) -> float:
        sides = self._similarities
        sizes = float(np.abs(sides.row_factor).sum() * np.abs(sides.column_factor).sum())
        sizes += 2 * sides.size_of_entries
        rounding = gamma(sum(self.shape) + 2 * len(sides.entries.values), UNIT_64) * sizes / max(1, *self.shape)
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
    def tied_partners(self, rows: Indices, cheapest: Indices, prices: Floats, count: int) -> Indices:
        """Return columns that tie with the cheapest one by their background and their price, without a block.

        Where a row has an entry with such a column, the pair costs something else. It is a candidate like any other.
        """
        factor, partners = self._similarities.column_factor, np.full((len(rows), count), -1)
        no_background = self._similarities.row_factor[rows] == 0  # for all columns
        for own, shares in ((no_background, np.zeros_like(factor)), (~no_background, factor)):
            partners[own] = _of_same_group(rows[own], cheapest[own], (shares, prices), count)
        return partners

    @override
    def _pads(self) -> tuple[Floats, Floats]:
        return self._row_error + 16 * _ROUNDING * _LARGEST, self._column_error


def _of_same_group(rows: Indices, columns: Indices, keys: tuple[Floats, Floats], count: int) -> Indices:
    """Return for each row `count` columns whose keys are those of its column, from a place of its own on; -1 if fewer.

    Args:
        rows: the numbers of the rows, `(R,)`.
        columns: the column of each row.
        keys: two numbers of every column `(F_B,)`.
        count: the number of columns of each row.
    """
    order = np.lexsort(keys)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(keys[0][order]) != 0) | (np.diff(keys[1][order]) != 0)
    starts = np.nonzero(new)[0]
    sizes, group = np.diff(np.append(starts, len(order))), np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    start, size = starts[group[columns]][:, None], sizes[group[columns]][:, None]
    steps = np.arange(count)
    places = start + (rows[:, None] + np.maximum(1, size // count) * steps) % size
    return np.where(steps < size, order[places], -1)


def pair_costs(similarities: Similarities, rows: Indices, columns: Indices) -> Floats:
    """Return 1 - similarity of the listed pairs. It is not negative, whatever rounding does."""
    return np.maximum(1.0 - similarities.of_pairs(rows, columns), 0.0)


@compiled
def _set(starts: Any, indices: Any, entries: Any, rows: Any, place: Any, out: Any) -> None:
    """Write the entries of some rows in the places of their columns."""
    for r in range(len(rows)):
        for e in range(starts[rows[r]], starts[rows[r] + 1]):
            c = place[indices[e]]
            if c >= 0:
                out[r, c] = entries[e]
