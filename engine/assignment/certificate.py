"""What prices prove about a matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most
from saematch.options import Limit

LEAST = 2.0**-1074  # above 0
BLUR = 1e-6  # certified: most features are rounded by no more than this share of what ordinary pairs differ by
TOLERANCE = (
    1e-9  # certified: no further from the optimum than this share of what the answer costs, and of what it gains
)


@dataclass(frozen=True)
class Certificate:
    """How far a matching can be from the optimum, in units of the cost.

    `gap` is its excess over what the prices prove and `rounding_error` bounds the rounding of `gap`. `gain` is R -
    lower bound, R the cost of a random pairing, or of none if that is less: what matching can gain at all, 0.0 where
    that is no more than rounding.
    `within_rounding` says that the search was finished, that the gap and its rounding are a trace of what the answer
    costs, that no feature's share of the gap is more than its rounding, that this is at most `BLUR` of what ordinary
    pairs differ by, and, where the gain is 0.0, the gap a trace of it: next to an outlier, or an outsized `max_cost`,
    the gain alone would hide the losses of all other features.

    A matching is proved optimal where its gap is no more than its own rounding, and both together are no more than
    `TOLERANCE` of the gain: a gap that rounding does not explain is one, however small. Where both are 0, every other
    pair was found to cost more than rounding can explain, and the matching is the optimum whatever the gain.
    """

    gap: float
    rounding_error: float
    gain: float
    within_rounding: bool

    @property
    def certified(self) -> bool:
        """Whether the matching is proved optimal."""
        small = self.gap + self.rounding_error <= TOLERANCE * self.gain or self.gain == 0
        return self.within_rounding and small and self.gap <= self.rounding_error


@dataclass(frozen=True)
class Reduced:
    """Reduced costs at some prices, in units of the cost times `scale`.

    `pairs` gives C_ij - v_j of listed pairs, less a number for each row, and a bound for the error. `rows (F_A,)` is
    what it costs each row to stay free, less the same number, infinite for those that must not; `columns (F_B,)` is
    what it costs each column to stay free, less its price. Their errors are bounds, too.
    """

    scale: float
    pairs: Callable[[Indices, Indices], tuple[Floats, Floats]]
    rows: Floats
    row_error: Floats
    columns: Floats
    column_error: Floats

    @classmethod
    def in_float64(cls, cost: Cost, unmatched: Unmatched, prices: Floats) -> Reduced:
        """M_ij - v_j, whose error is known from the `Cost`. A column whose price is as high as it may be pays none."""
        price_error = unmatched.bound_price_error(prices)

        def pairs(rows: Indices, columns: Indices) -> tuple[Floats, Floats]:
            return cost.exact(rows, columns) - prices[columns], cost.exact_error(rows, columns, price_error)

        at_limit = unmatched.at_limit(prices)
        return cls(
            cost.scale,
            pairs,
            unmatched.rows,
            unmatched.row_error,
            np.where(at_limit, 0.0, unmatched.columns - prices),
            np.where(at_limit, 0.0, unmatched.column_error),
        )


@dataclass(frozen=True)
class Solution:
    """A matching and prices, with what a pass over all pairs proved about them.

    In the units of `reduced`, which are the reduced units of the `Cost` M unless another is given: `minima (F_A,)` is
    min_j M_ij - v_j in float64, `proved (F_A,)` a lower bound for it that no rounding can break, and `others (F_A,)` a
    lower bound over all j but the partner of row i. No price is above what its column pays to stay free. `settled` says
    that the last pass found nothing to gain: without it nothing is certified, however small the gap.
    """

    permutation: Indices
    prices: Floats
    minima: Floats
    proved: Floats
    others: Floats | None = None
    settled: bool = True
    rounds: int = 0
    edges: int = 0
    stopped_by: Limit | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reduced: Reduced | None = None

    def exchanged(self, permutation: Indices) -> Solution:
        """Return the solution with another matching of the same cost, and the same proof."""
        if self.others is None:
            return replace(self, permutation=permutation)
        others = np.where(permutation == self.permutation, self.others, self.proved)
        return replace(self, permutation=permutation, others=others)

    def bound(self, unmatched: Unmatched) -> float:
        """A lower bound for the cost of every matching, less sum(p) + sum(q): sum u + sum v."""
        return math.fsum(np.minimum(self.proved, unmatched.rows)) + math.fsum(self.prices)

    def grade(self, cost: Cost, unmatched: Unmatched, permutation: Indices) -> Certificate:
        """What the prices prove about any matching that the problem allows.

        Its cost less the bound is a sum of terms of which none is negative, and in which the large constants of the
        cost never appear: with u_i the smaller of min_j M_ij - v_j and what it costs row i to stay free, M_i,perm(i) -
        v_perm(i) - u_i for a matched row, the cost of staying free less u_i for another, and the cost of staying free
        less v_j for an unmatched column. The error of each is that of the float64 values it compares. A row whose other
        pairs are all above its own by more than rounding adds neither, nor does a row that is free by as much, nor a
        column whose price stands for the cost of staying free.
        """
        reduced = Reduced.in_float64(cost, unmatched, self.prices) if self.reduced is None else self.reduced
        rows, alone = np.nonzero(permutation >= 0)[0], np.nonzero(permutation < 0)[0]
        columns = permutation[rows]
        left = np.setdiff1d(np.arange(cost.shape[1]), columns)
        values, value_error = reduced.pairs(rows, columns)
        others = self.proved
        if self.others is not None:
            others = np.where(permutation == self.permutation, self.others, self.proved)
        least = np.minimum(self.minima, reduced.rows)
        lower = np.minimum(others, at_least(reduced.rows, reduced.row_error))
        most = np.concatenate(
            [
                np.maximum(at_most(values, value_error) - lower[rows], 0.0),
                np.maximum(at_most(reduced.rows[alone], reduced.row_error[alone]) - self.proved[alone], 0.0),
                at_most(reduced.columns[left], reduced.column_error[left]),
            ]
        )
        excess = np.concatenate([values - least[rows], reduced.rows[alone] - least[alone], reduced.columns[left]])
        excess = np.clip(excess, 0.0, most)
        gap = math.fsum(excess) / reduced.scale
        error = max(math.fsum(most) / reduced.scale * (1 + 2.0**-50) - gap, 0.0)
        error += LEAST * bool(gap or error)  # of quotients that underflow
        if _is_constant(cost, unmatched):
            return Certificate(gap, error, 0.0, True)
        paid, simple_gap, simple_error = _simple_proof(cost, unmatched, permutation, gap + error)
        gain = self._gain(cost, unmatched, permutation, gap, error)
        # Settled prices may leave an edge cheaper than its row's by a few roundings of other numbers on its path.
        errors = (most - excess) * (cost.scale / reduced.scale)
        slack = np.maximum(4 * errors, TOLERANCE * cost.typical_difference)
        size = cost.typical_difference * min(cost.shape) or float(np.abs(self.prices).max(initial=0.0))
        hidden = gain == 0 and gap + error > TOLERANCE * size / cost.scale
        hidden |= cost.typical_difference > 0 and float(errors.max(initial=0.0)) > BLUR * cost.typical_difference
        hidden |= gap + error > TOLERANCE * paid
        shares = excess * (cost.scale / reduced.scale)
        within = self.settled and bool((shares <= slack).all()) and not hidden
        found = Certificate(gap, error, gain, within or gap + error == 0)
        if simple_gap + simple_error < gap + error and not found.certified:
            return Certificate(simple_gap, simple_error, gain, simple_gap + simple_error == 0)
        return found

    def _gain(self, cost: Cost, unmatched: Unmatched, permutation: Indices, gap: float, error: float) -> float:
        """What matching can gain at all, 0.0 where that is no more than rounding."""
        rows = np.nonzero(permutation >= 0)[0]
        columns = permutation[rows]
        matched = math.fsum(cost.exact(rows, columns))
        unmatched_costs = math.fsum(unmatched.rows[permutation < 0]) + math.fsum(np.delete(unmatched.columns, columns))
        nothing = math.fsum(unmatched.rows) + math.fsum(unmatched.columns)
        pairing = cost.random_total + _left_over(unmatched)
        reference = nothing if cost.forbids and math.isfinite(nothing) else min(pairing, nothing)
        gain = (reference - matched - unmatched_costs) / cost.scale
        rounding = cost.exact_error(rows, columns, unmatched.bound_price_error(self.prices))
        errors = [cost.random_error, *rounding, *unmatched.row_error, *unmatched.column_error]
        gain_error = math.fsum(errors) / cost.scale
        return gain + gap + error if gain + gap > gain_error + error else 0.0


def _simple_proof(cost: Cost, unmatched: Unmatched, permutation: Indices, short: float) -> tuple[float, float, float]:
    """The size of what a matching costs, what it costs above the trivial bound, and the rounding of that.

    The latter two are infinite where a matching is `short` of the optimum at most and the trivial bound proves less.
    """
    rows = np.nonzero(permutation >= 0)[0]
    columns = permutation[rows]
    alone = len(permutation) - len(rows), cost.shape[1] - len(rows)
    unmatched_costs = [price for count, price in zip(alone, unmatched.costs, strict=True) for _ in range(count)]
    bound = cost.trivial_bound(complete=not all(np.isfinite(unmatched.costs)))
    costs = cost.pair_cost(rows, columns)
    paid = math.fsum([*np.abs(costs), *unmatched_costs])
    if math.fsum([*costs, *unmatched_costs, *-bound]) > 2 * short:
        return paid, math.inf, math.inf
    costs, error = cost.less(rows, columns, *cost.no_duals)
    gap = math.fsum([*costs, *unmatched_costs, *-bound])
    return paid, max(gap, 0.0), math.fsum(error) + 2 * UNIT_64 * abs(gap)


def _is_constant(cost: Cost, unmatched: Unmatched) -> bool:
    """Whether the larger side is one row again and again: then it does not matter who gets which of them."""
    partial = np.isfinite(unmatched.rows).any() and np.isfinite(unmatched.columns).any()
    rows, columns = (bool((first == 0).all()) for first in cost.identical_rows)
    sources, targets = cost.shape
    larger_alike = (rows and sources >= targets) or (columns and targets >= sources)
    return larger_alike and not partial


def _left_over(unmatched: Unmatched) -> float:
    """What the rest of the larger side pays to stay free where a random part of it is matched, on average."""
    more = len(unmatched.rows) - len(unmatched.columns)
    return float(more * unmatched.rows.mean() if more > 0 else -more * unmatched.columns.mean() if more < 0 else 0.0)
