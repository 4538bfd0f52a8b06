"""Costs that somebody gives as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray

from saematch.cost.base import TILE, Cost, Tile
from saematch.cost.free import Free
from saematch.cost.rounding import UNIT_32, UNIT_64, Floats, Indices, first_alike, gamma
from saematch.errors import MatchError


class MatrixCost(Cost):
    """The entries of `matrix (F_A, F_B)`, float32 or float64, which is neither copied nor changed; inf is forbidden.

    p_i is the least entry of row i, q_j the least of C_ij - p_i in column j, so that no entry of M is negative.
    """

    def __init__(self, matrix: NDArray[Any], *, memory: int = 0, tile: tuple[int, int] = TILE) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), memory, tile)
        self.scale = 1.0
        self._matrix = matrix
        self.row_constant = _finite(matrix.min(axis=1, initial=np.inf).astype(np.float64))
        self.column_constant = np.zeros(self.shape[1])
        least = np.full(self.shape[1], np.inf)
        for _, rows in self._blocks(np.arange(self.shape[0])):
            np.minimum(least, self._rows(rows).min(axis=0), out=least)
        self.column_constant = _finite(least)
        self._largest, self._mean = np.zeros(self.shape[0]), np.zeros(self.shape[0])
        self._column_total, self.forbids, self._is_exact = np.zeros(self.shape[1]), False, True
        for at, rows in self._blocks(np.arange(self.shape[0])):
            block = self._rows(rows)
            allowed = np.isfinite(block)
            if self._is_exact:
                self._is_exact = self._subtracts_exactly(rows, block, allowed)
            block[~allowed] = 0.0
            self.forbids |= not allowed.all()
            self._largest[at] = block.max(axis=1, initial=0.0)
            self._mean[at] = block.sum(axis=1) / np.maximum(allowed.sum(axis=1), 1)
            self._column_total += block.sum(axis=0)
        largest = float(self._largest.max(initial=0.0))
        self.scale = float(2.0 ** min(-np.ceil(np.log2(largest)), 500.0)) if largest > 0 else 1.0

    def _subtracts_exactly(self, rows: Indices, block: Floats, allowed: NDArray[np.bool_]) -> bool:
        """Whether p and q leave M without rounding, as they do for whole numbers: then it has no error."""
        given, p = self._matrix[rows].astype(np.float64), self.row_constant[rows][:, None]
        with np.errstate(invalid="ignore"):  # of forbidden pairs
            less = given - p
            exact = _is_difference(less, given, p) & _is_difference(block, less, self.column_constant)
        return bool(exact[allowed].all())

    @property
    def form(self) -> str:
        """See `Cost`."""
        return "given"

    @property
    def typical(self) -> float:
        """See `Cost`."""
        if 0 in self.shape:
            return 0.0
        by_row, by_column = np.median(self._mean), np.median(self._column_total) / self.shape[0]
        return float(min(by_row, by_column)) * self.scale * min(self.shape)

    @property
    def largest_cost(self) -> float:
        """See `Cost`."""
        return float(self._matrix.max(initial=-np.inf, where=np.isfinite(self._matrix)))

    @property
    def mean_cost(self) -> float:
        """See `Cost`."""
        allowed = np.isfinite(self._matrix)
        return float(self._matrix.mean(dtype=np.float64, where=allowed)) if allowed.any() else 0.0

    def by_cost(self) -> tuple[Floats, Floats]:
        """See `Cost`."""
        return -self.column_constant * self.scale, -self.row_constant * self.scale

    def free(self, row: float, column: float) -> Free:
        """See `Cost`."""
        in_common = [0.0, 0.0]
        if np.isfinite(row) != np.isfinite(column) and 0 not in self.shape:
            in_common = [float(np.quantile(each, 0.5, method="lower")) - price if np.isfinite(price) else 0.0
                         for each, price in ((self.row_constant, row), (self.column_constant, column))]  # fmt: skip
        rows, columns = row + in_common[0] - self.row_constant, column + in_common[1] - self.column_constant
        return Free(
            each=(row, column),
            price_shift=in_common[0] - in_common[1],
            rows=rows * self.scale,
            columns=columns * self.scale,
            row_error=self._free_error(row + in_common[0], rows),
            column_error=self._free_error(column + in_common[1], columns),
        )

    def _free_error(self, price: float, less_constant: Floats) -> Floats:
        """Of one difference with a number that is exact by definition."""
        error: Floats = 2 * UNIT_64 * self.scale * np.abs(less_constant)
        return error if np.isfinite(price) else np.zeros_like(less_constant)

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """See `Cost`."""
        less_row: Floats = self._matrix[rows, columns].astype(np.float64) - self.row_constant[rows]
        return (less_row - self.column_constant[columns]) * self.scale

    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """See `Cost`."""
        if self._is_exact:
            return price_error[columns] + np.zeros(np.shape(rows))
        roundings = 2 * np.abs(_finite(self.exact(rows, columns))) + self.column_constant[columns] * self.scale
        error: Floats = 2 * UNIT_64 * roundings + price_error[columns]
        return error

    @cached_property
    def identical_rows(self) -> tuple[Indices, Indices]:
        """See `Cost`."""
        return first_alike(self._matrix, self._mean), first_alike(self._matrix.T, self._column_total)

    def some_matching(self) -> Indices:
        """See `Cost`."""
        if not self.forbids:
            return super().some_matching()
        _, partners, _ = lap.lapjv(np.isinf(self._matrix).astype(np.float64), extend_cost=True)
        partners = partners.astype(np.int64)
        smaller_is_rows = self.shape[0] <= self.shape[1]
        side, other = ("row", "column") if smaller_is_rows else ("column", "row")
        matched = np.nonzero(partners >= 0)[0]
        refused = matched[np.isinf(self._matrix[matched, partners[matched]])]
        if len(refused):
            feature = int(refused[0] if smaller_is_rows else partners[refused[0]])
            allowed = int(np.isfinite(self._matrix[feature] if smaller_is_rows else self._matrix[:, feature]).sum())
            raise MatchError(
                f"cost: {side} {feature} cannot be matched: "
                + (
                    f"the {allowed} {other}s that it may have are all needed by others"
                    if allowed
                    else "all of its costs are infinite"
                )
                + "; allow more pairs, or give max_cost, under which features may stay free"
            )
        return partners

    @property
    def random_total(self) -> float:
        """See `Cost`. Forbidden pairs are left out: each row pays the mean of those it may have."""
        return float(self._mean.sum()) * self.scale * min(self.shape) / max(1, self.shape[0])

    @property
    def random_error(self) -> float:
        """See `Cost`."""
        return 2 * gamma(sum(self.shape) + 8, UNIT_64) * self.random_total

    def _pads(self, rows: Indices) -> tuple[Floats, Floats]:
        """The rounding of M to float32 and in a sum; of M itself, by q; underflow, absolutely."""
        of_size = 4 * UNIT_32 * self._largest[rows] * self.scale + 2.0**-125
        return of_size, 4 * UNIT_64 * self.column_constant * self.scale

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """See `Cost`."""
        return self.exact(rows[:, None], columns[None])

    def _make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:  # noqa: ARG002 (each is new)
        for at, some in self._blocks(rows):
            yield Tile(at, slice(0, self.shape[1]), self._rows(some).astype(np.float32))

    def _blocks(self, rows: Indices) -> Iterator[tuple[slice, Indices]]:
        """As many whole rows at a time as a tile has place for: places in `rows`, and rows."""
        step = max(1, self.tile[0] * self.tile[1] // max(1, self.shape[1]))
        for top in range(0, len(rows), step):
            at = slice(top, min(top + step, len(rows)))
            yield at, rows[at]

    def _rows(self, rows: Indices) -> Floats:
        """M of whole rows in float64."""
        values: Floats = self._matrix[rows].astype(np.float64)
        values -= self.row_constant[rows][:, None]
        values -= self.column_constant
        values *= self.scale
        return values


def _is_difference(less: Any, value: Any, taken: Any) -> Any:
    """Where less = value - taken without rounding: Knuth's two-sum has no remainder."""
    return (less + taken == value) & (value - less == taken)


def _finite(values: Any) -> Any:
    return np.where(np.isfinite(values), values, 0.0)
