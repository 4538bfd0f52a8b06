"""Squared distances between all rows of two matrices, answered in passes over tiles and never stored.

A pass is a float32 matrix product and a scan of each tile. It *chooses* pairs; what is claimed about them is computed
again in float64, and `PairCost` states how far either value can be from the truth. The cost is handled in reduced form,

    C_ij = |x_i - y_j|^2 = p_i + q_j + M_ij / scale,      M_ij = -2 <x'_i, y'_j>,

where x' and y' are the rows less a centre of their own side, a and b, times a power of two, and

    q_j = |y_j - a|^2,      p_i = |x_i - a|^2 - 2 <x_i - a, b - a>:

neither a common offset nor the size of the weights costs precision. In a complete one-to-one matching p and q are
constants, so optimality is a statement about M alone; proving it there keeps one giant row from drowning the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saematch.loops import (
    centre_rows,
    centred_dots,
    centred_products,
    column_sums,
    scan_tile,
    square_norms,
    squared_differences,
)

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Rows = NDArray[Any]  # (F, K), float32 or float64
Tile = tuple[slice, slice, NDArray[np.float32]]

TILE = (1024, 2048)  # one product is 8 MiB of float32: it is still in a CPU's cache when it is scanned
BLOCK_BYTES = 4 * TILE[0] * TILE[1]
UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53  # unit roundoff


def gamma(terms: int, unit: float) -> float:
    """Relative error of a float sum of `terms` terms in any order (Higham, *Accuracy and Stability*, section 3.1)."""
    return terms * unit / (1 - terms * unit)


@dataclass(frozen=True)
class Scan:
    """The `k` cheapest partners of every row looked at and, among those rows, of every column; -1 where unused.

    `rows (R,)` were looked at, ascending; `row_partners (R, k)` and `column_partners (F_B, k)` are cheapest first,
    columns list only what is below the ceiling. `floors (R, k)` are proved lower bounds for M_ij - v_j: entry n holds
    for every pair of the row that is not among the first n of its list. `below (R,)` counts the pairs of a row's list
    that may be below the ceiling; there can be more if all are.
    """

    rows: Indices
    row_partners: Indices
    column_partners: Indices
    floors: Floats
    below: Indices

    def pairs(self, least: int, most: int) -> tuple[Indices, Indices, Floats]:
        """Pairs as rows and columns, some twice, and a bound for all other pairs of each row looked at.

        Of each row's list the first `least`, and up to `most` while they may be below the ceiling; of each column's the
        first `most`.
        """
        depth = np.clip(self.below, least, most)
        by_row, place = np.nonzero((np.arange(most) < depth[:, None]) & (self.row_partners[:, :most] >= 0))
        by_column, other = np.nonzero(self.column_partners[:, :most] >= 0)
        return (
            np.concatenate([self.rows[by_row], self.column_partners[by_column, other]]),
            np.concatenate([self.row_partners[by_row, place], by_column]),
            self.floors[np.arange(len(self.rows)), np.minimum(depth, self.floors.shape[1] - 1)],
        )


@dataclass(frozen=True)
class Free:
    """What it costs, in the reduced units of M, to leave a row `(F_A,)` or a column `(F_B,)` without a partner.

    Infinite for those that must have one. The errors bound the rounding of the finite ones.
    """

    rows: Floats
    columns: Floats
    row_error: Floats
    column_error: Floats

    @property
    def nobody(self) -> bool:
        """Whether every row and column must have a partner."""
        return not (np.isfinite(self.rows).any() or np.isfinite(self.columns).any())

    def price_error(self, prices: Floats) -> Floats:
        """How far M_ij - v_j can be off because of v_j.

        A price that is as good as what its column pays to stay free stands for that value itself, exactly: then an
        unmatched column adds nothing to the error, however large its norm.
        """
        return 16 * UNIT_64 * np.abs(prices) + np.where(self.at_most(prices), 2 * self.column_error, 0.0)

    def at_most(self, prices: Floats) -> NDArray[np.bool_]:
        """Which prices are as high as they may be, within rounding."""
        return prices >= self.columns - self.column_error


class PairCost:
    """The costs of all pairs of rows of `x (F_A, K)` and `y (F_B, K)`.

    The float32 products of all pairs, 4 F_A F_B bytes, are kept from the first pass on if `memory` (bytes) allows it,
    and made again in every pass if not; the answers are the same.

    Attributes: `scale`, so that M / scale is in units of the cost; `row_constant (F_A,)` and `column_constant (F_B,)`,
    p and q above, in units of the cost; `stored`, whether products are kept.
    """

    def __init__(
        self, x: Rows, y: Rows, device: torch.device, *, memory: int = 0, tile: tuple[int, int] = TILE
    ) -> None:
        self.shape = (len(x), len(y))
        self.device, self.tile = device, tile
        self.stored = 4 * len(x) * len(y) <= memory
        self._products: list[Tile] = []
        self._x, self._y = _Side(x), _Side(y)
        largest = max(self._x.largest(), self._y.largest())
        side_scale = 2.0 ** -np.ceil(np.log2(largest)) if largest > 0 else 1.0
        self.scale = float(side_scale**2)
        for side in (self._x, self._y):
            side.prepare(side_scale, device)
        self.column_constant = square_norms(self._y.rows, self._x.centre)
        between = self._y.centre - self._x.centre
        self.row_constant = self._x.distance**2 - 2 * centred_dots(self._x.rows, self._x.centre, between)
        # The bounds below. Exact: difference, scaling, product and sum of K terms, then one sum with a price.
        # Filter: both rows rounded, a product of K terms in any order, the sum with a price that was rounded itself.
        width = x.shape[1]
        self._exact_unit = 2 * gamma(width + 16, UNIT_64)
        self._filter_unit = 2 * gamma(width + 8, UNIT_32)
        self._underflow = (2 * width + 8) * 2.0**-125

    def by_distance(self) -> tuple[Floats, Floats]:
        """Prices and potentials under which pairs rank by their distance."""
        return -(self._y.norm**2), -(self._x.norm**2)

    def free(self, row: float, column: float) -> Free:
        """The cost of staying free for every row and every column, given in units of the cost; infinite is allowed."""
        unit = gamma(len(self._x.centre) + 8, UNIT_64) * self.scale
        between = float(np.linalg.norm(self._y.centre - self._x.centre))
        p_error = unit * (abs(row) + self._x.distance**2 + 2 * self._x.distance * between)
        q_error = unit * (abs(column) + self.column_constant)
        return Free(
            rows=(row - self.row_constant) * self.scale,
            columns=(column - self.column_constant) * self.scale,
            row_error=p_error if np.isfinite(row) else np.zeros(self.shape[0]),
            column_error=q_error if np.isfinite(column) else np.zeros(self.shape[1]),
        )

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """M of the listed pairs, in float64. The bits do not depend on the number of threads."""
        out = np.empty(len(rows))
        workers = torch.get_num_threads()
        cuts = np.linspace(0, len(rows), workers + 1).astype(int)

        def work(start: int, stop: int) -> None:
            centred_products(
                self._x.rows, self._y.rows, self._x.centre, self._y.centre,
                rows[start:stop], columns[start:stop], out[start:stop],
            )  # fmt: skip

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, cuts[:-1], cuts[1:]))
        return out * (-2 * self.scale)

    def exact_error(self, rows: Indices, columns: Indices, price_error: Floats) -> Floats:
        """How far the float64 value of M_ij - v_j can be from the truth, for the listed pairs."""
        products: Floats = self._exact_unit * self._x.norm[rows] * self._y.norm[columns]
        return products + price_error[columns]

    def scan(
        self, rows: Indices, prices: Floats, price_error: Floats, potentials: Floats, k: int, ceiling: float = 0.0
    ) -> Scan:
        """Pass over all pairs of `rows`, ascending: the `k` cheapest of each row and column by M_ij - u_i - v_j.

        Columns list only pairs below `ceiling`. `potentials (F_A,)` are the u_i.

        With c_j the price, negated, padded and rounded down, and g the float32 product, the value looked at is
        fl(c_j - 2 g_ij). It differs from M_ij - v_j by at most

            2 gamma(K + 8) |x'_i| |y'_j| + 4 u |v_j|  <=  gamma(K + 8) (t |x'_i|^2 + |y'_j|^2 / t) + 4 u |v_j|

        for any t > 0, by the inequality of means: a row's part and a column's part, so that a giant norm widens the pad
        of its own row or column alone. gamma(K) of it is the product in any order of summation, the rest covers the
        rounding of the rows, the constant and the last sum; underflow, flushed to zero or not, is added absolutely, and
        so is `price_error (F_B,)`, by which the prices may be too low.
        """
        balance = _typical(self._y.norm) / _typical(self._x.norm)
        row_pad = self._filter_unit / 2 * balance * self._x.norm[rows] ** 2 + self._underflow
        column_pad = self._filter_unit / 2 / balance * self._y.norm**2 + 4 * UNIT_32 * np.abs(prices) + price_error
        constant = _rounded_down(-prices - column_pad)
        row_value = np.full((len(rows), k), np.inf, dtype=np.float32)
        row_partners = np.full((len(rows), k), -1)
        column_value = np.full((self.shape[1], k), ceiling, dtype=np.float32)
        column_partners = np.full((self.shape[1], k), -1)
        offset = potentials[rows].astype(np.float32)
        for at, to, product in self._tiles(rows):
            scan_tile(
                product, constant[to], offset[at], row_value[at], row_partners[at], column_value[to],
                column_partners[to], at.start, to.start,
            )  # fmt: skip
        column_partners = np.where(column_partners >= 0, np.append(rows, -1)[column_partners], -1)
        floors = row_value.astype(np.float64) - row_pad[:, None]
        below = (floors < potentials[rows, None] + ceiling).sum(axis=1)
        return Scan(rows, row_partners, column_partners, floors, below)

    def row_minima(self, rows: Indices, prices: Floats, price_error: Floats) -> tuple[Indices, Floats]:
        """Where min_j M_ij - v_j of the listed rows is, and a proved lower bound for it, by float64 products.

        For the rows that no list can settle, with more pairs within rounding of the minimum than it holds.
        """
        at, low = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        step = max(1, self.tile[0] // 4)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            x = self._x.float64(rows[part]).to(self.device)
            best, best_at, best_low = np.full(len(x), np.inf), np.zeros(len(x), dtype=np.int64), np.full(len(x), np.inf)
            for left in range(0, self.shape[1], self.tile[1]):
                to = np.arange(left, min(left + self.tile[1], self.shape[1]))
                reduced = (x @ self._y.float64(to).to(self.device).T).cpu().numpy() * -2 - prices[to]
                here = reduced.argmin(axis=1)
                value = reduced.min(axis=1)
                best_at = np.where(value < best, to[here], best_at)
                best = np.minimum(value, best)
                reduced -= self.exact_error(rows[part][:, None], to[None], price_error)
                best_low = np.minimum(reduced.min(axis=1), best_low)
            at[part], low[part] = best_at, best_low
        return at, low

    def identical_rows(self) -> tuple[Indices, Indices]:
        """For each row of x, and of y, the first row of the same side that equals it bit for bit."""
        return self._x.identical(), self._y.identical()

    @cached_property
    def random_total(self) -> float:
        """Sum of M over a random matching of the whole smaller side, on average."""
        sums = [column_sums(side.rows, side.centre) for side in (self._x, self._y)]
        return float(-2 * (sums[0] @ sums[1])) * self.scale / max(1, *self.shape)

    @property
    def random_error(self) -> float:
        """Bound on the rounding of `random_total`."""
        terms = sum(self.shape) + len(self._x.centre) + 8
        return 2 * gamma(terms, UNIT_64) * float(self._x.norm.sum() * self._y.norm.sum()) / max(1, *self.shape)

    def _tiles(self, rows: Indices) -> Iterator[Tile]:
        """The products of `rows` with all columns, one block after the other: places in `rows`, columns, products."""
        whole = len(rows) == self.shape[0]
        for at, to, product in self._products:
            inside = slice(*np.searchsorted(rows, (at.start, at.stop)))
            if inside.start < inside.stop:
                yield inside, to, product if whole else product[rows[inside] - at.start]
        if self._products:
            return
        made = []
        for top in range(0, len(rows), self.tile[0]):
            at = slice(top, top + self.tile[0])
            x = self._x.working[at] if whole else self._x.working[torch.from_numpy(rows[at])]
            for left in range(0, self.shape[1], self.tile[1]):
                to = slice(left, left + self.tile[1])
                tile = (at, to, float32_product(x, self._y.working[to]).cpu().numpy())
                if self.stored and whole:
                    made.append(tile)
                yield tile
        self._products = made


def squared_distances(x: Rows, y: Rows, permutation: Indices) -> Floats:
    """|x_i - y_perm(i)|^2 for every row of `x`, in float64 as the sum of squared differences; 0.0 where perm is -1."""
    out = np.zeros(len(x))
    squared_differences(x, y, permutation, out)
    return out


class _Side:
    """One side's rows, their centre, and what the passes need of them: float32 working copy and norms."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        origin = np.zeros(rows.shape[1])
        self.square = square_norms(rows, origin)
        # The mean, but of rows of ordinary size: one giant row would push all the others off their centre.
        ordinary = self.square <= 16 * np.median(self.square) if len(rows) else np.zeros(0, dtype=bool)
        count = max(1, int(ordinary.sum()))
        self.centre = column_sums(rows[ordinary] if not ordinary.all() else rows, origin) / count
        self.distance = np.sqrt(square_norms(rows, self.centre))

    def largest(self) -> float:
        return float(self.distance.max(initial=0.0))

    def prepare(self, scale: float, device: torch.device) -> None:
        self.scale = scale
        self.norm = self.distance * scale * (1 + 1e-9)
        working = np.empty(self.rows.shape, dtype=np.float32)
        centre_rows(self.rows, self.centre, scale, working)
        self.working = torch.from_numpy(working).to(device)

    def identical(self) -> Indices:
        first = np.arange(len(self.rows))
        _, group, count = np.unique(self.square, return_inverse=True, return_counts=True)
        seen: dict[bytes, int] = {}
        for i in np.nonzero(count[group] > 1)[0]:
            first[i] = seen.setdefault(self.rows[i].tobytes(), int(i))
        return first

    def float64(self, rows: Indices) -> torch.Tensor:
        return torch.from_numpy((self.rows[rows] - self.centre) * self.scale)


def float32_product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`x @ y.T` in IEEE float32 whatever the host program told torch: in float64 where it asked for less."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if _float32_is_ieee(x.device.type):
            return x @ y.T
        return (x.double() @ y.double().T).float()


def _float32_is_ieee(device: str) -> bool:
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    levels = (backend.matmul, backend, torch.backends)  # a level that says "none" leaves it to the next
    return all(getattr(level, "fp32_precision", "none") in ("none", "ieee") for level in levels)


def _typical(norm: Floats) -> float:
    return float(np.median(norm[norm > 0])) if (norm > 0).any() else 1.0


def _rounded_down(values: Floats) -> NDArray[np.float32]:
    """The largest float32 not above each value."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
