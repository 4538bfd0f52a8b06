"""The costs of all pairs, as an object that the assignment asks for the cheapest pairs and for exact values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from saematch.cost.passes import Passes, T
from saematch.cost.scan import Scan
from saematch.cost.statistics import typical_difference
from saematch.cost.unmatched import Unmatched
from saematch.numeric.gather import take_or
from saematch.numeric.loops import choose_tied
from saematch.numeric.rounding import UNIT_32, UNIT_64, Floats, Indices, rounded_down

DENSE = 2**22  # pairs: a problem of no more is first solved on all pairs, whose costs are stored, without a pass


class BlockErrors(NamedTuple):
    """Bounds rows_i * columns_j + constant_j + share * |M_ij| for the errors of float64 values M_ij - v_j."""

    rows: Floats
    columns: Floats
    constant: Floats
    share: float

    def of(self, values: Floats, rows: Indices | slice = slice(None), columns: Indices | slice = slice(None)) -> Floats:
        """Return the bounds for all pairs of the listed rows and columns, whose M are `values`."""
        return self._bounds(values, self.rows[rows][:, None], columns)

    def of_pairs(self, values: Floats, rows: Indices, columns: Indices) -> Floats:
        """Return the bounds for the listed pairs, whose M are `values`."""
        return self._bounds(values, self.rows[rows], columns)

    def _bounds(self, values: Floats, of_rows: Floats, columns: Indices | slice) -> Floats:
        errors: Floats = of_rows * self.columns[columns] + self.constant[columns]
        if self.share:
            errors += self.share * np.abs(np.where(np.isinf(values), 0.0, values))
        return errors


class Cost(ABC):
    """The costs of all pairs of F_A rows and F_B columns, C_ij = p_i + q_j + M_ij / scale.

    Attributes:
        shape: (F_A, F_B).
        passes: the values of M in float32 or float64, for passes over all pairs.
        scale: a power of two, such that M / `scale` is in units of the cost.
        row_constant: p `(F_A,)`, in units of the cost.
        column_constant: q `(F_B,)`, in units of the cost.
        width: how many numbers of either side the cost of one pair is computed from.
        forbids: whether some pairs are forbidden, because their cost is infinite.
        tile: the largest number of rows and of columns that are computed at a time.
        looked_at: how many pairs the passes have looked at so far.
        exact_pairs: for how many pairs a float64 value was computed so far, to choose and to prove the optimum.
    """

    passes: Passes
    scale: float
    row_constant: Floats
    column_constant: Floats
    forbids = False
    width = 1

    def __init__(self, shape: tuple[int, int], tile: tuple[int, int]) -> None:
        self.shape, self.tile = shape, tile
        self.looked_at, self.exact_pairs = 0, 0
        self._priced: tuple[Indices, Floats] | None = None

    # How the passes run.

    @property
    def device(self) -> torch.device:
        """The device that makes the values of the passes."""
        return self.passes.device

    @property
    def backend(self) -> str:
        """The library that makes the values of the passes."""
        return self.passes.backend

    @property
    def precision(self) -> str:
        """The numbers that the values of the passes are computed from: "int8" or "float32"."""
        return self.passes.precision

    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        """Return `run()`; if the memory of a device is too small for it, run it again with less at a time."""
        return self.passes.retry_if_out_of_memory(run)

    @property
    def largest_residual(self) -> float:
        """How much of a row the values of the passes leave out at most, relative to the row."""
        return 0.0

    def sharpen(self) -> bool:
        """Make the values of later passes more exact, if that is possible, and return whether they are."""
        return False

    # Exact values of listed pairs, and of blocks.

    @abstractmethod
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """Return M of the listed pairs in float64. Its bits do not depend on the number of threads."""

    @abstractmethod
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """Return a bound for the error of the float64 values M_ij - v_j of the listed pairs."""

    @abstractmethod
    def block(self, rows: Indices, columns: Indices) -> Floats:
        """Return M of all pairs of the listed rows and columns in float64.

        Its bits do not depend on the number of threads.
        """

    @abstractmethod
    def block_errors(self, price_error: Floats) -> BlockErrors:
        """Return bounds for the errors of the float64 values M_ij - v_j of a `block`."""

    @cached_property
    def all_values(self) -> Floats:
        """The `block` of all pairs, for a small problem."""
        return self.block(*(np.arange(size) for size in self.shape))

    @property
    def _stored(self) -> bool:
        return "all_values" in vars(self)

    def block_with_error(self, rows: Indices, columns: Indices, price_error: Floats) -> tuple[Floats, Floats]:
        """Return a `block`, and a bound for the error of its float64 values M_ij - v_j."""
        values = self.all_values[np.ix_(rows, columns)] if self._stored else self.block(rows, columns)
        return values, self.block_errors(price_error).of(values, rows, columns)

    @abstractmethod
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        """Return C of the listed pairs, in float64 and in units of the cost."""

    def costs_of(self, permutation: Indices) -> Floats:
        """Return C of the pair of each row in float64, `(F_A,)`; 0.0 for an unmatched row.

        The last answer is kept: the certificate of a matching and the matching itself need the same costs.
        """
        if self._priced is None or not np.array_equal(self._priced[0], permutation):
            rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(permutation))
            costs[rows] = self.pair_cost(rows, permutation[rows])
            self._priced = permutation.copy(), costs
        return self._priced[1]

    @abstractmethod
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        """Return C_ij less the sum of all u_i and v_j of the listed pairs, computed in twice the precision of float64.

        `potentials (n, F_A)` and `prices (m, F_B)` are sums whose terms are not added up. They and the result are in
        units of the cost. The second array bounds the errors: one rounding of the result, and about 2^-104 of the
        numbers that it is computed from.
        """

    @property
    def no_duals(self) -> tuple[Floats, Floats]:
        """Potentials and prices for `less` that subtract nothing."""
        return np.zeros((0, self.shape[0])), np.zeros((0, self.shape[1]))

    @abstractmethod
    def constant_error(self) -> tuple[Floats, Floats]:
        """Return bounds for the errors of the float64 values of p and of q, for which C = p + q + M / scale holds."""

    # Bounds and statistics of all costs.

    @property
    @abstractmethod
    def largest_cost(self) -> float:
        """An upper bound for every finite cost, in units of the cost."""

    @property
    def smallest_cost(self) -> float:
        """A lower bound for every cost, in units of the cost: 0.0, as neither distances nor 1 - similarity are less."""
        return 0.0

    def largest_cost_up_to(self, limit: float) -> float:  # noqa: ARG002 (a bound for all costs holds for some of them)
        """Return an upper bound for every cost that is at most `limit`, in units of the cost."""
        return self.largest_cost

    @property
    def sufficient_max_cost(self) -> float:
        """A number such that some matching of the whole smaller side is optimal under every `max_cost` from it on.

        It is infinite if no such number is known. Unless pairs are forbidden, the largest cost is such a number: if
        features of both sides are unmatched, a pair of them costs at most that much, and saves `max_cost`.
        """
        return np.inf if self.forbids else self.largest_cost

    def trivial_bound(self, complete: bool) -> Floats:  # noqa: ARG002 (distances are not negative)
        """Return numbers whose sum no matching can cost less than; `complete` if the whole smaller side is matched."""
        return np.zeros(1)

    @cached_property
    def typical_difference(self) -> float:
        """The median difference between pairs, in the units of M; robust to outliers. 0.0 if all pairs are equal."""
        return typical_difference(self)

    @property
    def mean_cost(self) -> float:
        """The mean cost of all pairs that are not forbidden, in units of the cost; 0.0 if there is no such pair."""
        if 0 in self.shape:
            return 0.0
        constants = float(self.row_constant.mean() + self.column_constant.mean())
        return constants + self.random_total / self.scale / min(self.shape)

    @property
    @abstractmethod
    def random_total(self) -> float:
        """The sum of M over a random matching of the whole smaller side, on average."""

    @property
    @abstractmethod
    def random_error(self) -> float:
        """A bound for the rounding of `random_total`."""

    # Unmatched features, and matchings to start from.

    @abstractmethod
    def unmatched(self, row: float, column: float) -> Unmatched:
        """Return the cost of leaving each row and each column unmatched, from the cost of any row and any column.

        Both are in units of the cost, and infinite for a side that must be matched.
        """

    def set_ceiling(self, row: float, column: float) -> None:  # noqa: B027 (most costs need none)
        """Limit the range of M, if costs differ so widely that the smaller ones would have too few digits.

        With M' = min(M, ceiling), a bound that prices prove for M' holds for M as well, and an optimum for M' without a
        pair above the ceiling is an optimum for M. `row` and `column` are the costs of an unmatched row and column.
        """

    def below_ceiling(self, values: Floats) -> Floats:
        """Return values of M, or the ceiling where it is smaller; forbidden pairs stay infinite."""
        return values

    def some_matching(self) -> Indices:
        """Return a matching of the whole smaller side, -1 for unmatched rows. Raises `MatchError` if there is none."""
        rows = np.arange(self.shape[0])
        return np.where(rows < self.shape[1], rows, -1)

    @abstractmethod
    def by_cost(self) -> tuple[Floats, Floats]:
        """Return prices and potentials under which reduced costs rank pairs by their cost, or by their centred cost."""

    @cached_property
    @abstractmethod
    def identical_rows(self) -> tuple[Indices, Indices]:
        """For each row, and for each column, the first one that has the same costs bit for bit."""

    # Passes.

    @abstractmethod
    def _pads(self) -> tuple[Floats, Floats]:
        """Return a `(F_A,)` and b `(F_B,)`: a pass's value of a pair, plus a price, is wrong by a_i + b_j at most."""

    def scan(
        self,
        rows: Indices,
        prices: Floats,
        price_error: Floats,
        potentials: Floats,
        k: int,
        ceiling: float | None = 0.0,
        columns: Indices | None = None,
    ) -> Scan:
        """Pass over all pairs of the listed rows and columns, and find the `k` cheapest of each row and each column.

        The pass compares float32 values, or float64 values. Its floors are lower bounds for exact values, as follows.
        Let m_ij be the value of M_ij, let a_i + b_j bound its error as `_pads` says, and let e be 2^-24; for float64
        values it is 2^-50, which covers the rounding of all terms below, too.

        1. Rows compare fl(m_ij + c_j), where c_j is -v_j - b_j - 4 e |v_j| - (1 + 4 e) (error of the price), rounded
           down. The terms in 4 e cover the rounding of the price and its share, and that of its error, in the rounding
           of the sum. So fl(m_ij + c_j) - a_i is at most M_ij - v_j.
        2. Columns compare fl(m_ij - o_i), where o_i is u_i + a_i + 4 e |u_i|, rounded up. So fl(m_ij - o_i) - b_j - v_j
           - (error of the price) is at most M_ij - u_i - v_j.

        Args:
            rows: the rows of the pass, ascending.
            prices: v `(F_B,)`; -inf excludes a column from the lists of all rows, and leaves its own list empty.
            price_error: how much too low each price may be, `(F_B,)`.
            potentials: u `(F_A,)`.
            k: the length of each list.
            ceiling: columns list only pairs whose M_ij - u_i - v_j may be below it; no pairs if it is None.
            columns: the columns of the pass, ascending; all columns unless given.
        """
        if columns is None:
            columns = np.arange(self.shape[1])
        self.looked_at += len(rows) * len(columns)
        of_rows, of_columns = self._pads()
        row_pad, column_pad = of_rows[rows], of_columns[columns]
        prices, price_error = prices[columns], price_error[columns]
        closed = np.isneginf(prices)
        prices = np.where(closed, 0.0, prices)

        # Compute the constants c_j and o_i, and the limits of the columns.
        number = self.passes.number
        unit = UNIT_32 if number is np.float32 else 8 * UNIT_64
        spare = 1 + 4 * unit
        constant = rounded_down(-prices - (column_pad + 4 * unit * np.abs(prices) + spare * price_error), number)
        constant[closed] = np.inf
        raised = potentials[rows] + row_pad + 4 * unit * np.abs(potentials[rows])
        offset = -rounded_down(-raised, number)
        with np.errstate(over="ignore"):
            limit = ((0.0 if ceiling is None else ceiling) + prices).astype(number)
        limit[closed] = -np.inf

        k_of_columns = 0 if ceiling is None else k
        by_row, by_column = self.passes.cheapest(rows, columns, constant, offset, limit, k, k_of_columns)

        # If the list of a column is not full, all other pairs of the column are at the limit or above it.
        floors = by_row.values.astype(np.float64) - row_pad[:, None]
        reached = np.minimum(by_column.values, limit[:, None])
        column_floors = reached - (prices + column_pad + price_error)[:, None]
        row_partners, column_partners = _indices(by_row.partners, columns), _indices(by_column.partners, rows)
        return Scan(rows, columns, row_partners, column_partners, floors, column_floors)

    def row_minima(self, rows: Indices, prices: Floats, price_error: Floats) -> tuple[Indices, Floats]:
        """Return the column of min_j M_ij - v_j for each listed row, and a lower bound for the minimum, in float64.

        This is for rows that no list can decide, because more pairs are within rounding of the minimum than the list
        holds.
        """
        different, inverse = np.unique(self.identical_rows[0][rows], return_inverse=True)
        self.exact_pairs += len(different) * self.shape[1]
        places, lower = np.empty(len(different), dtype=np.int64), np.empty(len(different))
        step = max(1, self.tile[0] // 4)
        for start in range(0, len(different), step):
            part = slice(start, start + step)
            places[part], lower[part] = self._minima_of_rows(different[part], prices, price_error)
        return places[inverse], lower[inverse]

    def tied_partners(self, rows: Indices, cheapest: Indices, prices: Floats, count: int) -> Indices:  # noqa: ARG002
        """Return columns with the least M_ij - v_j of each listed row, for rows with many such columns.

        They are spread over all of these columns, by a start of its own for every row.

        Args:
            rows: the rows, `(R,)`.
            cheapest: a column of each row with the least M_ij - v_j, within the rounding of a pass.
            prices: v `(F_B,)`.
            count: the most columns of a row.

        Returns:
            `(R, count)`, -1 for fewer columns.
        """
        partners, columns = np.full((len(rows), count), -1), np.arange(self.shape[1])
        # Identical rows have the same ties.
        different, line, sizes = np.unique(self.identical_rows[0][rows], return_inverse=True, return_counts=True)
        order, ends = np.argsort(line, kind="stable"), np.append(0, np.cumsum(sizes))
        step = max(1, self.tile[0] * self.tile[1] // len(columns))
        for start in range(0, len(different), step):
            reduced = self.block(different[start : start + step], columns) - prices
            first = ends[start : start + len(reduced) + 1]
            members = order[first[0] : first[-1]]
            chosen = np.full((len(members), count), -1)
            choose_tied(reduced, first - first[0], rows[members], chosen, np.empty_like(columns))
            partners[members] = chosen
        return partners

    def _minima_of_rows(self, rows: Indices, prices: Floats, price_error: Floats) -> tuple[Indices, Floats]:
        least, lower = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
        places = np.zeros(len(rows), dtype=np.int64)
        for left in range(0, self.shape[1], self.tile[1]):
            columns = np.arange(left, min(left + self.tile[1], self.shape[1]))
            values, error = self.block_with_error(rows, columns, price_error)
            reduced = values - prices[columns]
            minima = reduced.min(axis=1)
            places = np.where(minima < least, columns[reduced.argmin(axis=1)], places)
            least = np.minimum(minima, least)
            lower = np.minimum((reduced - error).min(axis=1), lower)
        return places, lower


def _indices(places: NDArray[Any], indices: Indices) -> Indices:
    """Return the index at each place in an ascending list of indices; -1 at place -1."""
    if len(indices) and indices[-1] == len(indices) - 1:
        return places.astype(np.int64)
    return take_or(indices, places, -1)
