"""Costs by weights and by activations together.

    C_ij = D_ij - a_i^2 - b_j^2 + t + t (M'_ij - m_ij)

D is the squared distance of rows: those of the weights, and one more column with a_i = sqrt(t / 2) m_i of the source
and -b_j = -sqrt(t / 2) n_j of the target, where m_ij = m_i n_j is the background of the similarities, see
`saematch.activations.similarities`. So D_ij - a_i^2 - b_j^2 is the squared distance of the weights, plus t m_ij. M' is
the similarity times -1, and differs from m only for pairs that are active together. So C is the squared distance of the
weights plus t (1 - similarity).
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np
from typing_extensions import override

from saematch.activations.cofirings import Entries
from saematch.activations.similarities import Similarities
from saematch.cost.base import BlockErrors, Cost
from saematch.cost.distances import DistanceCost
from saematch.cost.passes import TILE
from saematch.cost.products import TileProducts
from saematch.cost.sparse_passes import SparsePasses
from saematch.cost.unmatched import Unmatched
from saematch.numeric.compiled import compiled
from saematch.numeric.gather import places_of
from saematch.numeric.rounding import UNIT_32, UNIT_64, Floats, Indices, first_of_each, gamma
from saematch.numeric.scratch import scratch_arrays
from saematch.numeric.threads import ThreadPool

_ROUNDING = 32 * UNIT_64  # of the few operations on numbers of at most 3


class MixedCost(Cost):
    """The costs of all pairs by weights and by activations.

    Attributes:
        distances: the costs D, whose last column is the background. Passes over them run on the CPU.
    """

    def __init__(self, distances: DistanceCost, similarities: Similarities, factor: float) -> None:
        super().__init__(similarities.shape, TILE)
        self.distances, self._similarities, self._factor = distances, similarities, factor
        self.scale, self.width = distances.scale, distances.width
        self._a, self._b = (np.sqrt(factor / 2) * one for one in (similarities.row_factor, similarities.column_factor))
        self.row_constant = distances.row_constant - self._a**2 + factor
        self.column_constant = distances.column_constant - self._b**2
        self.passes = self._sparse_passes()

    def _sparse_passes(self) -> SparsePasses:
        """Make the passes: the values of D are made for all pairs once, and kept for pairs with an entry."""
        background, sides = self.distances.passes, self._similarities
        assert isinstance(background, TileProducts)
        (values,) = scratch_arrays(len(sides.entries.values), [np.float32])
        factors = sides.row_factor, sides.column_factor, self.scale * self._factor

        def fill(part: slice) -> None:
            rows = np.arange(part.start, part.stop)
            for tile in background.make_tiles(rows, np.arange(self.shape[1])):
                first = part.start + tile.rows.start
                _add_entries(*sides.entries, *factors, tile.values, first, tile.columns.start, values)

        with ThreadPool(self.shape[0] * self.shape[1]) as pool:
            parts = pool.split(self.shape[0])
            pool.run((partial(fill, part) for part in parts), torch_threads=pool.size // len(parts))
        return SparsePasses(background, Entries(sides.entries.starts, sides.entries.columns, values))

    @override
    def sharpen(self) -> bool:
        if not self.distances.sharpen():
            return False
        self.passes = self._sparse_passes()
        return True

    @property
    @override
    def largest_residual(self) -> float:
        return self.distances.largest_residual

    # Exact values of listed pairs, and of blocks.

    def _correction(self, rows: Indices, columns: Indices) -> Floats:
        """Return t (M' - m) of the listed pairs, in units of the cost."""
        sides = self._similarities
        background = sides.row_factor[rows] * sides.column_factor[columns]
        corrections: Floats = self._factor * (-sides.of_pairs(rows, columns) - background)
        return corrections

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        if self._stored:
            return self.all_values[rows, columns]
        return self.distances.exact(rows, columns) + self.scale * self._correction(rows, columns)

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        of_rows, of_columns = self._errors
        return self.distances.exact_error(rows, columns, price_error) + of_rows[rows] + of_columns[columns]

    @cached_property
    def _errors(self) -> tuple[Floats, Floats]:
        """Bounds for the rounding of the similarities and of their share, of rows and of columns, in the units of M."""
        factor, sides = self._factor * self.scale, self._similarities
        return factor * sides.row_error + self.scale * _ROUNDING, factor * sides.column_error

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        values, sides = self.distances.block(rows, columns), self._similarities
        place = places_of(columns, self.shape[1])
        factors = sides.row_factor, sides.column_factor, self.scale * self._factor
        with ThreadPool(values.size) as pool:
            parts = pool.split(len(rows))
            pool.run(partial(_correct, *sides.entries, *factors, rows[part], place, values[part]) for part in parts)
        return values

    @override
    def block_errors(self, price_error: Floats) -> BlockErrors:
        """The error of a row is a factor of a number for each column: both are raised, so that their product covers it.

        With r_i c_j from the distances, e_i of the row, and any c > 0, (r_i + e_i / c) (c_j + c) >= r_i c_j + e_i.
        """
        of_distances, (of_rows, of_columns) = self.distances.block_errors(price_error), self._errors
        typical = float(np.median(of_distances.columns)) if self.shape[1] else 1.0
        typical = typical if typical > 0 else 1.0
        return BlockErrors(
            of_distances.rows + of_rows / typical,
            of_distances.columns + typical,
            of_distances.constant + of_columns,
            of_distances.share,
        )

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        return mixed_costs(self.distances.pair_cost(rows, columns), self._similarities, self._factor, rows, columns)

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        more = np.concatenate([potentials, (self._a**2)[None], np.full((1, self.shape[0]), -self._factor)])
        value, error = self.distances.less(rows, columns, more, np.concatenate([prices, (self._b**2)[None]]))
        total = value + self._correction(rows, columns)
        of_rows, of_columns = self._errors
        error = error + (of_rows[rows] + of_columns[columns]) / self.scale
        return total, error + 4 * UNIT_64 * (np.abs(value) + np.abs(total))

    @override
    def constant_error(self) -> tuple[Floats, Floats]:
        of_rows, of_columns = self.distances.constant_error()
        return (
            of_rows + 4 * UNIT_64 * (np.abs(self.distances.row_constant) + self._a**2 + self._factor),
            of_columns + 4 * UNIT_64 * (np.abs(self.distances.column_constant) + self._b**2),
        )

    # Bounds and statistics of all costs.

    @property
    @override
    def largest_cost(self) -> float:
        return self.distances.largest_cost + 2 * self._factor + 1e-6

    @cached_property
    @override
    def random_total(self) -> float:
        sides = self._similarities
        background = float(sides.row_factor.sum() * sides.column_factor.sum())
        share = self.scale * self._factor * (-sides.total - background) / max(1, *self.shape)
        return self.distances.random_total + share

    @property
    @override
    def random_error(self) -> float:
        sides = self._similarities
        sizes = 2 * float(np.abs(sides.row_factor).sum() * np.abs(sides.column_factor).sum())
        sizes += 2 * sides.size_of_entries
        terms = sum(self.shape) + 2 * len(sides.entries.values)
        rounding = self.scale * self._factor * gamma(terms, UNIT_64) * sizes / max(1, *self.shape)
        of_rows, of_columns = (float(one.max(initial=0.0)) for one in self._errors)
        return self.distances.random_error + rounding + min(self.shape) * (of_rows + of_columns)

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        by_weights, sides = self.distances.identical_rows, self._similarities
        rows, columns = zip(by_weights, (sides.row_group, sides.column_group), strict=True)
        return _alike_in_both(*rows), _alike_in_both(*columns)

    # Unmatched features, and passes.

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        sides = (row, self.row_constant), (column, self.column_constant)
        errors = [np.zeros(size) for size in self.shape]
        for error, of_constant, (price, constant) in zip(errors, self.constant_error(), sides, strict=True):
            if np.isfinite(price):
                error[:] = self.scale * (of_constant + 4 * UNIT_64 * (abs(price) + np.abs(constant)))
        rows, columns = ((price - constant) * self.scale for price, constant in sides)
        return Unmatched((row, column), 0.0, rows, columns, *errors)

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return -self.column_constant * self.scale, -self.row_constant * self.scale

    @override
    def _pads(self) -> tuple[Floats, Floats]:
        """Return a and b, see `Cost._pads`: those of the distances, of the similarities, and of the sum of both."""
        background = self.distances.passes
        of_rows, of_columns = background.operands.pads
        norms = self.distances.norms
        sizes = 2 * norms[0] * norms[1].max(initial=0.0) + 3 * self._factor * self.scale
        return of_rows + self._errors[0] + 8 * UNIT_32 * sizes, of_columns + self._errors[1]


def mixed_costs(
    distances: Floats, similarities: Similarities, factor: float, rows: Indices, columns: Indices
) -> Floats:
    """Return C of the listed pairs from D. It is not negative, whatever rounding does."""
    a, b = similarities.row_factor[rows], similarities.column_factor[columns]
    similar = similarities.of_pairs(rows, columns)
    # D holds t / 2 (m + n)^2 of the background, in place of which the similarity counts.
    return np.maximum(distances - factor / 2 * (a + b) ** 2 + factor * (1.0 - similar), 0.0)


def _alike_in_both(group: Indices, other: Indices) -> Indices:
    """Return for each item the first one that is of the same two groups, which are numbered below the item count."""
    return first_of_each(group * len(group) + other)


@compiled
def _add_entries(
    starts: Any, columns: Any, entries: Any, a: Any, b: Any, factor: Any, tile: Any, first: Any, left: Any, out: Any
) -> None:
    """Fill `out` with the values of a tile, which begins at (first, left), corrected, at the entries of its pairs."""
    for r in range(len(tile)):
        i = first + r
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            if left <= j < left + tile.shape[1]:
                out[e] = np.float32(tile[r, j - left] + factor * (entries[e] - a[i] * b[j]))


@compiled
def _correct(
    starts: Any, indices: Any, entries: Any, a: Any, b: Any, factor: Any, rows: Any, place: Any, out: Any
) -> None:
    """Correct the values of some rows at their entries, in the places of their columns."""
    for r in range(len(rows)):
        i = rows[r]
        for e in range(starts[i], starts[i + 1]):
            c = place[indices[e]]
            if c >= 0:
                out[r, c] += factor * (entries[e] - a[i] * b[indices[e]])
