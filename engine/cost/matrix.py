"""Costs that the caller gives as a matrix."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.cost.base import BlockErrors, Cost
from saematch.cost.bottleneck import bottleneck_matching, refuse_forbidden
from saematch.cost.passes import TILE
from saematch.cost.reduced_matrix import MatrixTiles, ReducedMatrix
from saematch.cost.unmatched import Unmatched
from saematch.numeric.rounding import LEAST_NORMAL, TINY, UNIT_32, UNIT_64, Floats, Indices, first_alike, gamma

_SPARE = 1 + 2.0**-20  # factor of sums of costs that bound other costs: it covers their rounding


class MatrixCost(Cost):
    """The entries of `matrix (F_A, F_B)`, float32 or float64; an infinite entry forbids its pair.

    The matrix is neither copied nor changed. Its reduced form M is the one of `ReducedMatrix`.
    """

    def __init__(self, matrix: NDArray[Any], *, tile: tuple[int, int] = TILE) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), tile)
        self._matrix, self._reduced = matrix, ReducedMatrix(matrix, tile)
        self.passes = MatrixTiles(self._reduced)
        self.scale, self.forbids = self._reduced.scale, self._reduced.forbids
        self.row_constant, self.column_constant = self._reduced.row_constant, self._reduced.column_constant

    # Exact values of listed pairs, and of blocks.

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        return self._reduced.exact_pairs(rows, columns)[0] * self.scale

    @override
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        value, error = self._reduced.exact_pairs(rows, columns)
        return error * self.scale + price_error[columns] + self._reduced.underflow(value)

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        return self.below_ceiling(self._reduced.block(rows, columns))

    @override
    def block_errors(self, price_error: Floats) -> BlockErrors:
        """M is computed by two differences, of which the first is M + q and the second is M."""
        constant = 4 * UNIT_64 * np.abs(self.column_constant) * self.scale + price_error + TINY
        return BlockErrors(np.zeros(self.shape[0]), np.zeros(self.shape[1]), constant, share=4 * UNIT_64)

    @override
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        return self._reduced.pairs(rows, columns)

    @override
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        return self._reduced.pairs_less(rows, columns, potentials, prices)

    @override
    def constant_error(self) -> tuple[Floats, Floats]:
        return np.zeros(self.shape[0]), np.zeros(self.shape[1])

    # Bounds and statistics of all costs.

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
        # In float64: a Python float would be rounded to the type of the matrix.
        return float(self._matrix.max(initial=0.0, where=self._matrix <= np.float64(limit)))

    @property
    @override
    def sufficient_max_cost(self) -> float:
        """The cost of some matching of the smaller side is another such number, if costs differ widely.

        A matching with fewer pairs leaves two more features unmatched, which cost `max_cost` together, and its pairs
        cost no less than all that the pairs of a matching can be below zero.
        """
        sufficient = super().sufficient_max_cost
        if not self._reduced.is_wide or 0 in self.shape:
            return sufficient
        return min(sufficient, _SPARE * (math.fsum(self._bottleneck_costs) + self._most_below_zero))

    @override
    def trivial_bound(self, complete: bool) -> Floats:
        """Return the smallest entry of each row, or of each column if all columns are matched."""
        if not complete:
            return np.minimum(self._reduced.least_of_rows, 0.0)
        if 0 in self.shape:
            return np.zeros(0)
        sources, targets = self.shape
        bounds = []
        if sources <= targets:
            bounds.append(self._reduced.least_of_rows)
        if targets <= sources:
            bounds.append(self._reduced.least_of_columns)
        return max(bounds, key=math.fsum)

    @cached_property
    @override
    def mean_cost(self) -> float:
        allowed = np.isfinite(self._matrix)
        return float(self._matrix.mean(dtype=np.float64, where=allowed)) if allowed.any() else 0.0

    @property
    @override
    def random_total(self) -> float:
        """Forbidden pairs do not count: each row pays the mean of the pairs that it may have."""
        return float(self._reduced.row_mean.sum()) * self.scale * min(self.shape) / max(1, self.shape[0])

    @property
    @override
    def random_error(self) -> float:
        return 2 * gamma(sum(self.shape) + 8, UNIT_64) * self.random_total

    # Unmatched features, and matchings to start from.

    @override
    def unmatched(self, row: float, column: float) -> Unmatched:
        # If only one side may be unmatched, what all its features have in common is left out: a typical constant.
        in_common = [0.0, 0.0]
        if np.isfinite(row) != np.isfinite(column) and 0 not in self.shape:
            in_common = [
                float(np.quantile(constants, 0.5, method="lower")) - price if np.isfinite(price) else 0.0
                for constants, price in ((self.row_constant, row), (self.column_constant, column))
            ]
        rows, columns = row + in_common[0] - self.row_constant, column + in_common[1] - self.column_constant
        return Unmatched(
            costs=(row, column),
            price_shift=in_common[0] - in_common[1],
            rows=rows * self.scale,
            columns=columns * self.scale,
            row_error=self._difference_error(rows),
            column_error=self._difference_error(columns),
        )

    def _difference_error(self, differences: Floats) -> Floats:
        """Return the error of differences of two numbers that are exact by definition; 0.0 for infinite ones."""
        error: Floats = 2 * UNIT_64 * self.scale * np.abs(differences)
        return np.where(np.isinf(differences), 0.0, error)

    @override
    def set_ceiling(self, row: float, column: float) -> None:
        """Set the ceiling of M to one of these numbers, the smallest that is known:

        1. If both sides may be unmatched, a pair that costs more than both of its features pay to be unmatched is in no
           optimum.
        2. Neither is a pair that costs more than some matching as a whole, and than all other pairs of a matching can
           be below zero. This number is computed only if costs differ widely.
        3. If one side is matched as a whole, no M is negative by more than the rounding of its column's constant. So a
           pair whose M is more than the sum of M over some matching is in no optimum.
        """
        if 0 in self.shape:
            return
        ceiling = np.inf
        # Points 1 and 2: both sides may be unmatched.
        if np.isfinite(row) and np.isfinite(column):
            both = row + column - float(self.row_constant.min() + self.column_constant.min())
            if both > 0:
                ceiling = 2 * both
            if self._reduced.is_wide:
                sources, targets = self.shape
                unmatched = row * (sources - min(self.shape)), column * (targets - min(self.shape))
                paid = math.fsum([*np.minimum(self._bottleneck_costs, row + column), *unmatched])
                ceiling = min(ceiling, _SPARE * (paid + 3 * self._most_below_zero))
        # Point 3: one side is matched as a whole.
        elif self._reduced.is_wide:
            paid = math.fsum(self._reduced.of_matching(self.some_matching()))
            paid += 4 * UNIT_64 * np.abs(self.column_constant).sum()
            ceiling = _SPARE * paid if paid > 0 else float(np.median(self._reduced.second))
        self._reduced.set_ceiling(max(ceiling, LEAST_NORMAL * 2.0**100))
        self.scale = self._reduced.scale

    @override
    def below_ceiling(self, values: Floats) -> Floats:
        return self._reduced.below_ceiling(values)

    @override
    def some_matching(self) -> Indices:
        matching = self._bottleneck if self.forbids or self._reduced.is_wide else super().some_matching()
        refuse_forbidden(self._reduced, matching)
        return matching

    @cached_property
    def _bottleneck(self) -> Indices:
        return bottleneck_matching(self._reduced)

    @property
    def _bottleneck_costs(self) -> Floats:
        """C of the pairs of the bottleneck matching."""
        rows = np.nonzero(self._bottleneck >= 0)[0]
        return self.pair_cost(rows, self._bottleneck[rows])

    @property
    def _most_below_zero(self) -> float:
        """How far below zero the pairs of a matching can be in sum, as a positive number."""
        return -min(0.0, self.smallest_cost) * min(self.shape)

    @override
    def by_cost(self) -> tuple[Floats, Floats]:
        return -self.column_constant * self.scale, -self.row_constant * self.scale

    @cached_property
    @override
    def identical_rows(self) -> tuple[Indices, Indices]:
        rows = first_alike(self._reduced.row_mean, lambda rows: self._matrix[rows])
        return rows, first_alike(self._reduced.column_total, lambda columns: self._matrix.T[columns])

    # Passes.

    @override
    def _pads(self) -> tuple[Floats, Floats]:
        """Return a and b, see `Cost._pads`.

        The part of a row covers the rounding of M to float32 and in the sum, and underflow, absolutely. The part of a
        column covers the rounding of M itself, in float64, by q.
        """
        of_rows = 4 * UNIT_32 * self._reduced.largest * self.scale + 2.0**-125
        return of_rows, 4 * UNIT_64 * np.abs(self.column_constant) * self.scale
