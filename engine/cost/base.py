"""Passes over all pairs, whatever the costs are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from saematch.cost.scan import Scan
from saematch.cost.unmatched import Unmatched
from saematch.errors import is_out_of_memory
from saematch.numeric.loops import scan_columns, scan_rows
from saematch.numeric.rounding import UNIT_32, UNIT_64, Floats, Indices, rounded_down
from saematch.numeric.threads import Team

TILE = (1024, 2048)  # 8 MiB of float32: still in a CPU's cache when it is scanned
BLOCK_BYTES = 4 * TILE[0] * TILE[1]
_SAMPLE = 128  # rows and columns
T = TypeVar("T")


class Tile(NamedTuple):
    """M in float32, for some columns and for the rows at some places among those that were asked for."""

    at: slice
    columns: slice
    values: NDArray[np.float32]


class Lists(NamedTuple):
    """The least of each line, ascending, and where they are, -1 where a list is not full."""

    values: NDArray[np.float32]
    partners: NDArray[Any]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Lists:
        """Lists that hold nobody yet."""
        return cls(values, np.full(values.shape, -1, dtype=np.int32))


class Cost(ABC):
    """The costs of all pairs of F_A rows and F_B columns.

    Attributes: `shape`; `width`, how many numbers of either side the cost of a pair is made from; `scale`, so that M /
    scale is in units of the cost; `row_constant (F_A,)` and `column_constant (F_B,)`, p and q of the package's
    docstring, in units of the cost; `ceiling`, in units of the cost, above which no optimum has an M, and the passes
    need not tell one from another; `stored`, whether the float32 values of M, 4 F_A F_B bytes, are kept from the first
    pass on, because they fit into `memory`, or made again in every pass.
    """

    scale: float
    row_constant: Floats
    column_constant: Floats
    device = torch.device("cpu")
    backend = "torch"
    precision = "float32 chooses, float64 proves"
    forbids = False
    ceiling = np.inf
    width = 1

    def __init__(self, shape: tuple[int, int], memory: int, tile: tuple[int, int]) -> None:
        self.shape, self.tile = shape, tile
        self.stored = 4 * shape[0] * shape[1] <= memory
        self._kept: list[Tile] = []
        self._notes = ""

    @abstractmethod
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """M of the listed pairs, in float64. The bits do not depend on the number of threads."""

    @abstractmethod
    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """How far the float64 value of M_ij - v_j can be from the truth, for the listed pairs."""

    @abstractmethod
    def pair_cost(self, rows: Indices, columns: Indices) -> Floats:
        """C of the listed pairs, in float64 and in units of the cost."""

    @abstractmethod
    def less(self, rows: Indices, columns: Indices, potentials: Floats, prices: Floats) -> tuple[Floats, Floats]:
        """C_ij less the sum of all u_i and v_j, of the listed pairs, computed in twice the precision of float64.

        `potentials (n, F_A)` and `prices (m, F_B)`, in units of the cost as the result, are sums that are not added up.
        The second array bounds the errors: a rounding of the result, and 2^-104 or so of what it is made from.
        """

    @property
    def no_duals(self) -> tuple[Floats, Floats]:
        """Potentials and prices for `less` that take nothing away."""
        return np.zeros((0, self.shape[0])), np.zeros((0, self.shape[1]))

    def trivial_bound(self, complete: bool) -> Floats:  # noqa: ARG002 (distances are not negative)
        """Numbers whose sum no matching can cost less than; `complete` if the whole smaller side is matched."""
        return np.zeros(1)

    @abstractmethod
    def constant_error(self) -> tuple[Floats, Floats]:
        """How far the float64 values of p_i and of q_j can be from the numbers of which C = p + q + M / scale holds."""

    def set_ceiling(self, row: float, column: float) -> None:  # noqa: B027 (most costs need none)
        """Set `ceiling`, where costs differ so widely that the largest would take from the others their digits.

        With M' = min(M, ceiling), what prices prove for M' holds for M, and an optimum for M' that contains no pair
        above the ceiling is one for M. `row` and `column` are what it costs to leave one of them without a partner.
        """

    def below_ceiling(self, values: Floats) -> Floats:
        """M, or the ceiling where that is less; infinite where a pair is forbidden."""
        if self.ceiling == np.inf:
            return values
        return np.where(np.isinf(values), values, np.minimum(values, self.ceiling * self.scale))

    @property
    def form(self) -> str:
        """How the costs are held."""
        return ("stored" if self.stored else "matrix-free") + self._notes

    def with_room(self, run: Callable[[], T]) -> T:
        """Return `run()`; if memory is too short for it, run it again without the products that are kept."""
        if self.stored:
            # The remedy comes after the exception, which holds on to what did not fit.
            try:
                return run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._let_go()
        return run()

    def _let_go(self) -> None:
        """Drop the products that are kept: from here on they are made again in every pass."""
        self.stored, self._kept = False, []
        self._notes += f" ({4 * self.shape[0] * self.shape[1] / 1e9:.1f} GB of products did not fit)"

    @cached_property
    def typical_difference(self) -> float:
        """What ordinary pairs differ by, in the units of M, outliers aside; 0.0 where nothing differs.

        Of a sample of pairs, the median size of M, or of the distance of costs from their median if that is less: what
        rows and columns have in common, or an outlier in each of them, is not what pairs differ by. Sizes and
        distances that are no more than rounding are left out: costs that are equal need not be equal to the last bit.
        """
        rows, columns = (
            np.unique(np.linspace(0, size - 1, min(size, _SAMPLE)).astype(np.int64)) for size in self.shape
        )
        M = self.block(rows, columns)
        error = np.broadcast_to(self.block_error(rows, columns, np.zeros(self.shape[1])), M.shape)
        p, q = self.row_constant[rows][:, None] * self.scale, self.column_constant[columns] * self.scale
        costs, rounding = M + p + q, error + 4 * UNIT_64 * (np.abs(M) + np.abs(p) + np.abs(q))
        finite = np.isfinite(costs)
        M, error, costs, rounding = M[finite], error[finite], costs[finite], rounding[finite]
        if not len(costs):
            return 0.0
        apart = np.abs(costs - np.median(costs))
        found = np.abs(M)[np.abs(M) > 2 * error], apart[apart > 2 * (rounding + np.median(rounding))]
        return min((float(np.quantile(each, 0.5, method="lower")) for each in found if len(each)), default=0.0)

    @property
    @abstractmethod
    def largest_cost(self) -> float:
        """A bound on every finite cost, in units of the cost."""

    @property
    @abstractmethod
    def smallest_cost(self) -> float:
        """A bound from below on every cost, in units of the cost."""

    def largest_cost_up_to(self, limit: float) -> float:  # noqa: ARG002 (a bound for all costs is one for some of them)
        """Return a bound on every cost that is at most `limit`, in units of the cost."""
        return self.largest_cost

    @property
    def sufficient_max_cost(self) -> float:
        """A `max_cost` from which on a matching of the whole smaller side is optimal; infinite if none is known.

        The largest cost is one, unless pairs are forbidden: if features of both sides are unmatched, making a pair of
        them costs at most that, and saves `max_cost`.
        """
        return np.inf if self.forbids else self.largest_cost

    @abstractmethod
    def by_cost(self) -> tuple[Floats, Floats]:
        """Prices and potentials under which pairs rank by their cost, or by what it is once the sides are centred."""

    @abstractmethod
    def unmatched(self, row: float, column: float) -> Unmatched:
        """Return the cost of leaving each row and each column unmatched, from the cost of any row and any column.

        Both are in units of the cost, and infinite for a side that must be matched.
        """

    def some_matching(self) -> Indices:
        """A complete matching of the smaller side, -1 for the others. Raises `MatchError` if there is none."""
        rows = np.arange(self.shape[0])
        return np.where(rows < self.shape[1], rows, -1)

    @cached_property
    @abstractmethod
    def identical_rows(self) -> tuple[Indices, Indices]:
        """For each row, and for each column, the first one that has the same costs bit for bit."""

    @property
    def mean_cost(self) -> float:
        """Of all pairs that are not forbidden, in units of the cost; 0.0 where there is none."""
        if 0 in self.shape:
            return 0.0
        constants = float(self.row_constant.mean() + self.column_constant.mean())
        return constants + self.random_total / self.scale / min(self.shape)

    @property
    @abstractmethod
    def random_total(self) -> float:
        """Sum of M over a random matching of the whole smaller side, on average."""

    @property
    @abstractmethod
    def random_error(self) -> float:
        """Bound on the rounding of `random_total`."""

    @abstractmethod
    def _make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:
        """M of `rows` and all columns, in float32; unless they are to be kept, a tile is gone when the next is made.

        Every column belongs to one tile of each row.
        """

    @abstractmethod
    def _pads(self, rows: Indices) -> tuple[Floats, Floats]:
        """How far float32 values of M can be from the truth, a part for each of `rows` and one for each column."""

    @abstractmethod
    def block(self, rows: Indices, columns: Indices) -> Floats:
        """M of all pairs of the listed rows and columns in float64, within `block_error`."""

    def block_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """How far the float64 values of M_ij - v_j of a block can be from the truth."""
        return self.exact_error(rows[:, None], columns[None], price_error)

    def scan(
        self, rows: Indices, prices: Floats, price_error: Floats, potentials: Floats, k: int, ceiling: float = 0.0
    ) -> Scan:
        """Pass over all pairs of `rows`, ascending: the `k` cheapest of each row and column by M_ij - u_i - v_j.

        Columns list only pairs below `ceiling`. `potentials (F_A,)` are the u_i, `price_error (F_B,)` is how far the
        prices may be too low. A column whose price is -inf is nobody's.

        With c_j the price, negated, padded and rounded down, and m the float32 value of M, rows look at fl(m_ij + c_j).
        It differs from M_ij - v_j by at most what `_pads` says, which covers this last sum's share for m, and 4 u |v_j|
        for the price's rounding and share. Columns look at fl(m_ij - u_i), with u_i padded and rounded up.
        """
        row_pad, column_pad = self._pads(rows)
        closed = np.isneginf(prices)
        prices = np.where(closed, 0.0, prices)
        constant = rounded_down(-prices - (column_pad + 4 * UNIT_32 * np.abs(prices) + price_error))
        constant[closed] = np.inf
        raised = potentials[rows] + row_pad + 4 * UNIT_32 * np.abs(potentials[rows])
        offset = -rounded_down(-raised)
        with np.errstate(over="ignore"):
            limit = (ceiling + prices).astype(np.float32)
        limit[closed] = -np.inf
        by_row, by_column = self._cheapest(rows, constant, offset, limit, k)
        listed = np.where(by_column.partners >= 0, np.append(rows, -1)[by_column.partners], -1)
        floors = by_row.values.astype(np.float64) - row_pad[:, None]
        reached = np.minimum(by_column.values, limit[:, None])
        column_floors = reached - (prices + column_pad + price_error)[:, None]
        return Scan(rows, by_row.partners.astype(np.int64), listed, floors, column_floors)

    def _cheapest(
        self,
        rows: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
    ) -> tuple[Lists, Lists]:
        """The `k` least m_ij + constant_j of each of `rows`, and m_ij - offset_i below `limit_j` of each column."""
        by_row = Lists.of(np.full((len(rows), k), np.inf, dtype=np.float32))
        by_column = Lists.of(np.repeat(limit[:, None], k, axis=1))
        with Team(len(rows) * self.shape[1]) as team:
            for at, to, values in self._tiles(rows):
                value, partner = by_row.values[at], by_row.partners[at]
                rows_jobs = (
                    partial(scan_rows, values[part], constant[to], value[part], partner[part], to.start)
                    for part in team.shares(at.stop - at.start)
                )
                least, owner = by_column.values[to], by_column.partners[to]
                column_jobs = (
                    partial(scan_columns, values, part.start, offset[at], least[part], owner[part], at.start)
                    for part in team.shares(to.stop - to.start)
                )
                team.do([*rows_jobs, *column_jobs])
        return by_row, by_column

    def _tiles(self, rows: Indices) -> Iterator[Tile]:
        whole = len(rows) == self.shape[0]
        for at, to, values in self._kept:
            inside = slice(*np.searchsorted(rows, (at.start, at.stop)).tolist())
            if inside.start < inside.stop:
                yield Tile(inside, to, values if whole else values[rows[inside] - at.start])
        if not self._kept:
            keep = self.stored and whole
            kept = []
            for tile in self._make_tiles(rows, keep):
                if keep:
                    kept.append(tile)
                yield tile
            self._kept = kept

    def row_minima(self, rows: Indices, prices: Floats, price_error: Floats) -> tuple[Indices, Floats]:
        """Where min_j M_ij - v_j of the listed rows is, and a proved lower bound for it, in float64.

        For the rows that no list can settle, with more pairs within rounding of the minimum than it holds.
        """
        at, low = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        step = max(1, self.tile[0] // 4)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            count = len(rows[part])
            best, best_at, best_low = np.full(count, np.inf), np.zeros(count, dtype=np.int64), np.full(count, np.inf)
            for left in range(0, self.shape[1], self.tile[1]):
                to = np.arange(left, min(left + self.tile[1], self.shape[1]))
                reduced = self.block(rows[part], to) - prices[to]
                value = reduced.min(axis=1)
                best_at = np.where(value < best, to[reduced.argmin(axis=1)], best_at)
                best = np.minimum(value, best)
                reduced -= self.block_error(rows[part], to, price_error)
                best_low = np.minimum(reduced.min(axis=1), best_low)
            at[part], low[part] = best_at, best_low
        return at, low
