"""A given matrix of costs in reduced form: what remains of it when constants of rows and columns are subtracted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.cost.passes import Tile, TilePasses
from saematch.numeric.rounding import LEAST_NORMAL, TINY, Floats, Indices, exact_sum

_WIDE = 2.0**20  # times the M that decide in most rows


class ReducedMatrix:
    """M = (C - p - q) * scale of a matrix C `(F_A, F_B)`, computed in blocks of rows; infinite for forbidden pairs.

    If all rows are matched, p_i is the smallest entry of row i; if all columns are, q_j is the smallest C_ij - p_i of
    column j. The constants of a larger side are 0. So no M is negative, and no M of an optimum can be more than the sum
    of M over any matching of the smaller side.

    Attributes:
        matrix: C, float32 or float64, which is neither copied nor changed.
        row_constant: p `(F_A,)`, and `column_constant`, q `(F_B,)`.
        scale: a power of two that brings the largest M to about 1.
        ceiling: an M, in units of the cost, which no pair of an optimum exceeds; infinite if none is needed.
        forbids: whether some pairs are forbidden.
        largest: the largest finite M of each row, in units of the cost, at most the ceiling, `(F_A,)`.
        second: the smallest M above 0 of each row, in units of the cost, `(F_A,)`; infinite if there is none.
        row_mean: the mean of the finite M of each row, in units of the cost, `(F_A,)`.
        column_total: the sum of the finite M of each column, in units of the cost, `(F_B,)`.
    """

    def __init__(self, matrix: NDArray[Any], tile: tuple[int, int]) -> None:
        self.matrix, self._tile = matrix, tile
        self.shape = sources, targets = matrix.shape[0], matrix.shape[1]
        self.scale, self.ceiling = 1.0, np.inf

        # The constants: first of the rows, then of the columns of what remains.
        self.row_constant, self.column_constant = np.zeros(sources), np.zeros(targets)
        if sources <= targets:
            self.row_constant = self.least_of_rows
        if targets <= sources:
            least = np.full(targets, np.inf)
            for _, rows in self.blocks(np.arange(sources)):
                np.minimum(least, self.whole_rows(rows).min(axis=0), out=least)
            self.column_constant = finite_or_zero(least)

        # The statistics of M, in one more reading of the matrix.
        self.forbids = False
        self.largest, self.second, self.row_mean = np.zeros(sources), np.zeros(sources), np.zeros(sources)
        self.column_total = np.zeros(targets)
        for places, rows in self.blocks(np.arange(sources)):
            block = self.whole_rows(rows)
            self.second[places] = block.min(axis=1, initial=np.inf, where=block > 0)
            allowed = np.isfinite(block)
            block[~allowed] = 0.0
            self.forbids |= not allowed.all()
            self.largest[places] = block.max(axis=1, initial=0.0)
            self.row_mean[places] = block.sum(axis=1) / np.maximum(allowed.sum(axis=1), 1)
            self.column_total += block.sum(axis=0)
        self._largest_entry = float(self.largest.max(initial=0.0))
        self._set_scale(self._largest_entry)

    @cached_property
    def least_of_rows(self) -> Floats:
        """The smallest entry of each row of C, `(F_A,)`; 0.0 if all are forbidden."""
        return finite_or_zero(self.matrix.min(axis=1, initial=np.inf).astype(np.float64))

    @cached_property
    def least_of_columns(self) -> Floats:
        """The smallest entry of each column of C, `(F_B,)`; 0.0 if all are forbidden."""
        return finite_or_zero(self.matrix.min(axis=0, initial=np.inf).astype(np.float64))

    @property
    def is_wide(self) -> bool:
        """Whether the largest M may be so far above those that decide that it would take the digits of these."""
        second = self.second[np.isfinite(self.second)]
        return len(second) > 0 and float(self.largest.max()) > _WIDE * float(np.quantile(second, 0.1, method="lower"))

    def set_ceiling(self, ceiling: float) -> None:
        """Limit the range of M to a number in units of the cost, if some M exceeds it."""
        if ceiling < self.largest.max():
            self.ceiling = ceiling
            self.largest = np.minimum(self.largest, ceiling)
            self._set_scale(ceiling)

    def _set_scale(self, largest: float) -> None:
        """Bring `largest` to about 1, as far as no M overflows."""
        exponents = [-np.ceil(np.log2(size)) for size in (largest, self._largest_entry) if size > 0]
        self.scale = float(2.0 ** min(exponents[0], 900.0 + exponents[-1], 1000.0)) if exponents else 1.0

    def below_ceiling(self, values: Floats) -> Floats:
        """Return values of M, or the ceiling where it is smaller; forbidden pairs stay infinite."""
        if self.ceiling == np.inf:
            return values
        return np.where(np.isinf(values), values, np.minimum(values, self.ceiling * self.scale))

    def blocks(self, rows: Indices) -> Iterator[tuple[slice, Indices]]:
        """Split the listed rows into blocks of about the size of a tile: yield places in the list, and rows."""
        step = max(1, self._tile[0] * self._tile[1] // max(1, self.shape[1]))
        for top in range(0, len(rows), step):
            places = slice(top, min(top + step, len(rows)))
            yield places, rows[places]

    def whole_rows(self, rows: Indices) -> Floats:
        """Return M of whole rows in float64, rounded once per operation."""
        return self._reduced(self.matrix[rows], rows, np.arange(self.shape[1]))

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """Return M of all pairs of the listed rows and columns in float64, rounded once per operation."""
        return self._reduced(self.matrix[np.ix_(rows, columns)], rows, columns)

    def _reduced(self, entries: NDArray[Any], rows: Indices, columns: Indices) -> Floats:
        values: Floats = entries.astype(np.float64)
        values -= self.row_constant[rows][:, None]
        values -= self.column_constant[columns]
        values *= self.scale
        return values

    def pairs(self, rows: Indices, columns: Indices) -> Floats:
        """Return C of the listed pairs in float64."""
        entries: Floats = self.matrix[rows, columns].astype(np.float64)
        return entries

    def pairs_less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        """Return C_ij less the sum of all u_i and v_j of the listed pairs, in twice the precision, and its error."""
        entries = self.pairs(rows, columns)
        allowed = np.isfinite(entries)
        duals = [-one[rows] for one in potentials] + [-one[columns] for one in prices]
        value, error = exact_sum(np.where(allowed, entries, 0.0), *duals)
        return np.where(allowed, value, np.inf), np.where(allowed, error, 0.0)

    def exact_pairs(self, rows: Indices, columns: Indices) -> tuple[Floats, Floats]:
        """Return M of the listed pairs in units of the cost, C - p - q, and a bound for its error."""
        return self.pairs_less(rows, columns, self.row_constant[None], self.column_constant[None])

    def underflow(self, pairs: Floats) -> Floats:
        """Return what underflow may take from `exact_pairs` when they are scaled."""
        return np.where((pairs != 0) & (np.abs(pairs) < LEAST_NORMAL / self.scale), TINY, 0.0)

    def of_matching(self, permutation: Indices) -> Floats:
        """Return M of the pairs of a matching, in units of the cost."""
        rows = np.nonzero(permutation >= 0)[0]
        return self.exact_pairs(rows, permutation[rows])[0]


class MatrixTiles(TilePasses):
    """The values of M of a given matrix in float32, which is read where it lies, in tiles of listed columns."""

    def __init__(self, reduced: ReducedMatrix) -> None:
        super().__init__(reduced.shape)
        self._reduced = reduced

    @override
    def make_tiles(self, rows: Indices, columns: Indices) -> Iterator[Tile]:
        every = len(columns) == self.shape[1]
        for places, some in self._reduced.blocks(rows):
            values = self._reduced.whole_rows(some) if every else self._reduced.block(some, columns)
            yield Tile(places, slice(0, len(columns)), self._reduced.below_ceiling(values).astype(np.float32))


def finite_or_zero(values: Floats) -> Floats:
    """Return the values, with 0.0 in place of those that are not finite."""
    return np.where(np.isfinite(values), values, 0.0)
