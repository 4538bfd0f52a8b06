"""Costs that somebody gives as a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import lap
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.cost.base import TILE, Cost, Tile
from saematch.cost.unmatched import Unmatched
from saematch.errors import MatchError
from saematch.numeric.rounding import (
    LEAST_NORMAL,
    TINY,
    UNIT_32,
    UNIT_64,
    Floats,
    Indices,
    exact_sum,
    first_alike,
    gamma,
)

_WIDE = 2.0**20  # times what decides in most rows


class MatrixCost(Cost):
    """The entries of `matrix (F_A, F_B)`, float32 or float64, which is neither copied nor changed; inf is forbidden.

    Where all rows are matched, p_i is the least entry of row i; where all columns are, q_j is the least C_ij - p_i of
    column j. The constants of a larger side are 0. So no entry of M is negative, and no M that is matched can be more
    than the sum of M over any matching of the smaller side: see `set_ceiling`.
    """

    def __init__(self, matrix: NDArray[Any], *, memory: int = 0, tile: tuple[int, int] = TILE) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), memory, tile)
        sources, targets = self.shape
        self._matrix, self.scale = matrix, 1.0
        self.row_constant, self.column_constant = np.zeros(sources), np.zeros(targets)
        if sources <= targets:
            self.row_constant = _finite(matrix.min(axis=1, initial=np.inf).astype(np.float64))
        if targets <= sources:
            least = np.full(targets, np.inf)
            for _, rows in self._blocks(np.arange(sources)):
                np.minimum(least, self._rows(rows).min(axis=0), out=least)
            self.column_constant = _finite(least)
        self._largest, self._mean, self._second = np.zeros(sources), np.zeros(sources), np.zeros(sources)
        self._column_total, self.forbids = np.zeros(targets), False
        for at, rows in self._blocks(np.arange(sources)):
            block = self._rows(rows)
            self._second[at] = block.min(axis=1, initial=np.inf, where=block > 0)
            allowed = np.isfinite(block)
            block[~allowed] = 0.0
            self.forbids |= not allowed.all()
            self._largest[at] = block.max(axis=1, initial=0.0)
            self._mean[at] = block.sum(axis=1) / np.maximum(allowed.sum(axis=1), 1)
            self._column_total += block.sum(axis=0)
        self._largest_entry = float(self._largest.max(initial=0.0))
        self._set_scale(self._largest_entry)

    def _set_scale(self, most: float) -> None:
        """Bring `most` to about 1, as far as no M overflows."""
        exponents = [-np.ceil(np.log2(each)) for each in (most, self._largest_entry) if each > 0]
        self.scale = float(2.0 ** min(exponents[0], 900.0 + exponents[-1], 1000.0)) if exponents else 1.0

    @property
    def _is_wide(self) -> bool:
        """Whether the largest M may be so far above those that decide that it would cost them their digits."""
        second = self._second[np.isfinite(self._second)]
        return len(second) > 0 and float(self._largest.max()) > _WIDE * float(np.quantile(second, 0.1, method="lower"))

    @override
    def trivial_bound(self, complete: bool) -> Floats:
        """The least entry of each row, or of each column where the columns are all matched."""
        bounds = [np.zeros(0)]
        if not complete:
            bounds = [np.minimum(_finite(self._matrix.min(axis=1, initial=np.inf).astype(np.float64)), 0.0)]
        elif 0 not in self.shape:
            sides = [axis for axis in (1, 0) if self.shape[1 - axis] <= self.shape[axis]]
            bounds = [_finite(self._matrix.min(axis=axis).astype(np.float64)) for axis in sides]
        return max(bounds, key=math.fsum)

    @override
    def set_ceiling(self, row: float, column: float) -> None:
        """A pair that costs more than both of its features pay to stay free is in no optimum, nor is one that costs
        more than some matching does, beyond what all others can be below zero. Where one side is matched as a whole,
        neither is a pair whose M is more than the sum of M over any matching: no M is negative by more than the
        rounding of its column's constant.
        """
        if 0 in self.shape:
            return
        most = np.inf
        if np.isfinite(row) and np.isfinite(column):
            both = row + column - float(self.row_constant.min() + self.column_constant.min())
            most = 2 * both if both > 0 else np.inf
            if self._is_wide:
                alone = [
                    price * (size - min(self.shape)) for price, size in zip((row, column), self.shape, strict=True)
                ]
                paid = math.fsum([*np.minimum(self._narrowest_costs, row + column), *alone])
                most = min(most, (1 + 2.0**-20) * (paid + 3 * self._below_zero))
        elif self._is_wide:
            paid = math.fsum(self._reduced(self.some_matching())) + 4 * UNIT_64 * np.abs(self.column_constant).sum()
            most = (1 + 2.0**-20) * paid if paid > 0 else float(np.median(self._second))
        most = max(most, LEAST_NORMAL * 2.0**100)
        if most < self._largest.max():
            self.ceiling = most
            self._largest = np.minimum(self._largest, most)
            self._set_scale(most)

    @property
    @override
    def form(self) -> str:
        return "given"

    @cached_property
    @override
    def largest_cost(self) -> float:
        return float(self._matrix.max(initial=-np.inf, where=np.isfinite(self._matrix)))

    @cached_property
    @override
    def smallest_cost(self) -> float:
        return float(self._matrix.min(initial=np.inf))

    @override
    def largest_cost_up_to(self, limit: float) -> float:
        return float(self._matrix.max(initial=0.0, where=self._matrix <= np.float64(limit)))

    @cached_property
    @override
    def mean_cost(self) -> float:
        allowed = np.isfinite(self._matrix)
        return float(self._matrix.mean(dtype=np.float64, where=allowed)) if allowed.any() else 0.0

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return -self.column_constant * self.scale, -self.row_constant * self.scale

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        in_common = [0.0, 0.0]
        if np.isfinite(row) != np.isfinite(column) and 0 not in self.shape:
            in_common = [
                float(np.quantile(each, 0.5, method="lower")) - price if np.isfinite(price) else 0.0
                for each, price in ((self.row_constant, row), (self.column_constant, column))
            ]
        rows, columns = row + in_common[0] - self.row_constant, column + in_common[1] - self.column_constant
        return Unmatched(
            costs=(row, column),
            price_shift=in_common[0] - in_common[1],
            rows=rows * self.scale,
            columns=columns * self.scale,
            row_error=self._unmatched_error(row + in_common[0], rows),
            column_error=self._unmatched_error(column + in_common[1], columns),
        )

    def _unmatched_error(self, price: float, less_constant: Floats) -> Floats:
        """Of one difference with a number that is exact by definition."""
        error: Floats = 2 * UNIT_64 * self.scale * np.abs(less_constant)
        return error if np.isfinite(price) else np.zeros_like(less_constant)

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        entries: Floats = self._matrix[rows, columns].astype(np.float64)
        return entries

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        entries = self.pair_cost(rows, columns)
        allowed = np.isfinite(entries)
        duals = [-each[rows] for each in potentials] + [-each[columns] for each in prices]
        value, error = exact_sum(np.where(allowed, entries, 0.0), *duals)
        return np.where(allowed, value, np.inf), np.where(allowed, error, 0.0)

    def _less_constants(self, rows: Indices, columns: Indices) -> tuple[Floats, Floats]:
        """M in units of the cost, and a bound for its error."""
        return self.less(rows, columns, self.row_constant[None], self.column_constant[None])

    @override
    def constant_error(self) -> tuple[Floats, Floats]:
        return np.zeros(self.shape[0]), np.zeros(self.shape[1])

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        return self._less_constants(rows, columns)[0] * self.scale

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        value, error = self._less_constants(rows, columns)
        underflow = np.where((value != 0) & (np.abs(value) < LEAST_NORMAL / self.scale), TINY, 0.0)
        return error * self.scale + price_error[columns] + underflow

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        return first_alike(self._matrix, self._mean), first_alike(self._matrix.T, self._column_total)

    @override
    def some_matching(self) -> Indices:
        found = self._narrowest if self.forbids or self._is_wide else super().some_matching()
        self._refuse_forbidden(found)
        return found

    @property
    @override
    def sufficient_max_cost(self) -> float:
        """No more than some matching of the smaller side costs, beyond what others can be below zero."""
        if not self._is_wide or 0 in self.shape:
            return super().sufficient_max_cost
        return min(super().sufficient_max_cost, (1 + 2.0**-20) * (math.fsum(self._narrowest_costs) + self._below_zero))

    @property
    def _below_zero(self) -> float:
        """What all pairs of a matching can be below zero in sum."""
        return -float(self._matrix.min(initial=0.0)) * min(self.shape)

    @property
    def _narrowest_costs(self) -> Floats:
        rows = np.nonzero(self._narrowest >= 0)[0]
        return self.pair_cost(rows, self._narrowest[rows])

    @cached_property
    def _narrowest(self) -> Indices:
        """A matching of the smaller side, with as few forbidden pairs as can be; where costs differ widely, one whose
        largest M is within a factor of two of the least possible.
        """
        low, high = -1074, 1024
        best = self._matching_below(np.inf)
        while self._is_wide and high - low > 1:
            middle = (low + high) // 2
            found = self._matching_below(2.0**middle)
            if (self._reduced(found) <= 2.0**middle).all():
                best, high = found, middle
            else:
                low = middle
        return best

    def _matching_below(self, most: float) -> Indices:
        """A matching of the smaller side with as few pairs as can be of an M that is above `most`, or forbidden."""
        above = np.empty(self.shape)
        for at, rows in self._blocks(np.arange(self.shape[0])):
            block = self._rows(rows)
            above[at] = (block / self.scale > most) | np.isinf(block)
        found: Indices = lap.lapjv(above, extend_cost=True)[1].astype(np.int64)
        return found

    def _reduced(self, permutation: Indices) -> Floats:
        """M of the pairs of a matching, in units of the cost."""
        rows = np.nonzero(permutation >= 0)[0]
        return self._less_constants(rows, permutation[rows])[0]

    def _refuse_forbidden(self, partners: Indices) -> None:
        """Raise `MatchError` if a matching with as few forbidden pairs as can be has one."""
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

    @property
    @override
    def random_total(self) -> float:
        """Forbidden pairs are left out: each row pays the mean of those it may have."""
        return float(self._mean.sum()) * self.scale * min(self.shape) / max(1, self.shape[0])

    @property
    @override
    def random_error(self) -> float:
        return 2 * gamma(sum(self.shape) + 8, UNIT_64) * self.random_total

    def _pads(self, rows: Indices) -> tuple[Floats, Floats]:
        """The rounding of M to float32 and in a sum; of M itself, by q; underflow, absolutely."""
        of_size = 4 * UNIT_32 * self._largest[rows] * self.scale + 2.0**-125
        return of_size, 4 * UNIT_64 * np.abs(self.column_constant) * self.scale

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        return self.below_ceiling(self._plain(rows, columns))

    @override
    def block_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """Two differences, of which the second is M, and the first M + q."""
        values = _finite(self._plain(rows, columns))
        error: Floats = 4 * UNIT_64 * (np.abs(values) + np.abs(self.column_constant[columns] * self.scale))
        return error + price_error[columns] + TINY

    def _make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:  # noqa: ARG002 (each is new)
        for at, some in self._blocks(rows):
            yield Tile(at, slice(0, self.shape[1]), self.below_ceiling(self._rows(some)).astype(np.float32))

    def _blocks(self, rows: Indices) -> Iterator[tuple[slice, Indices]]:
        """As many whole rows at a time as a tile has place for: places in `rows`, and rows."""
        step = max(1, self.tile[0] * self.tile[1] // max(1, self.shape[1]))
        for top in range(0, len(rows), step):
            at = slice(top, min(top + step, len(rows)))
            yield at, rows[at]

    def _plain(self, rows: Indices, columns: Indices) -> Floats:
        return self._less_plainly(self._matrix[np.ix_(rows, columns)], rows, columns)

    def _rows(self, rows: Indices) -> Floats:
        """M of whole rows in float64."""
        return self._less_plainly(self._matrix[rows], rows, np.arange(self.shape[1]))

    def _less_plainly(self, entries: NDArray[Any], rows: Indices, columns: Indices) -> Floats:
        values: Floats = entries.astype(np.float64)
        values -= self.row_constant[rows][:, None]
        values -= self.column_constant[columns]
        values *= self.scale
        return values


def _finite(values: Any) -> Any:
    return np.where(np.isfinite(values), values, 0.0)
