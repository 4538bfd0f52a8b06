"""Certificates: what column prices prove about a matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from saematch.cost import Cost, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least, at_most, correct_sum
from saematch.options import Limit

SMALLEST = 2.0**-1074  # the smallest float64 above 0
# The gap and rounding error of a certified matching are at most this share of its gain, and of what its pairs cost.
TOLERANCE = 1e-9
# In a certified matching, no term of the gap is rounded by more than this share of the typical difference of costs.
BLUR = 1e-6


@dataclass(frozen=True)
class Certificate:
    """A proof of how far the objective of a matching can be above the optimum, in units of the cost.

    A matching is certified if rounding explains its gap, and if gap and rounding error together are at most `TOLERANCE`
    of the gain. A gap that rounding does not explain is a gap, however small it is. If gap and rounding error are both
    0, every other pair was proved to cost more than rounding can explain: then the matching is optimal, whatever the
    gain is.

    Attributes:
        gap: the objective of the matching minus the lower bound that the prices prove for every matching.
        rounding_error: a bound on the rounding error of `gap`.
        gain: the most that matching can gain: the objective of a random pairing, or of leaving all features unmatched
            if that is less, minus the lower bound. It is 0.0 if this difference is no more than rounding.
        within_rounding: whether the conditions that `Solution.grade` lists hold for every feature.
    """

    gap: float
    rounding_error: float
    gain: float
    within_rounding: bool

    @property
    def certified(self) -> bool:
        """Whether the matching is proved to be optimal: see `Solution.grade` for all conditions."""
        small = self.gap + self.rounding_error <= TOLERANCE * self.gain or self.gain == 0
        return self.within_rounding and small and self.gap <= self.rounding_error


@dataclass(frozen=True)
class Reduced:
    """Reduced costs at some prices, in units of the cost times `scale`, with bounds on their rounding errors.

    Attributes:
        scale: the factor between the cost and these numbers.
        pairs: a function of rows and columns that returns C_ij - v_j of the listed pairs, minus a number that depends
            on the row alone, and the error bounds.
        rows: `(F_A,)`, the unmatched cost of each row minus the same number; inf for a row that must be matched.
        row_error: the error bounds of `rows`.
        columns: `(F_B,)`, the unmatched cost of each column minus its price.
        column_error: the error bounds of `columns`.
    """

    scale: float
    pairs: Callable[[Indices, Indices], tuple[Floats, Floats]]
    rows: Floats
    row_error: Floats
    columns: Floats
    column_error: Floats

    @classmethod
    def in_float64(cls, cost: Cost, unmatched: Unmatched, prices: Floats) -> Reduced:
        """Return M_ij - v_j in float64, with the errors that the `Cost` states.

        The reduced unmatched cost of a column is exactly 0 if the price of the column equals that cost within
        rounding.
        """
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
    """A matching and column prices, with the bounds that a pass over all pairs proved at these prices.

    No price is above the unmatched cost of its column. All numbers are in the units of `reduced`.

    Attributes:
        permutation: the partner of each row, -1 if it has none.
        prices: `(F_B,)`, the column prices v.
        minima: `(F_A,)`, min_j M_ij - v_j in float64.
        proved: `(F_A,)`, a lower bound for the minimum that no rounding can break.
        others: `(F_A,)`, a lower bound for the minimum over all columns but the partner of row i; None if unknown.
        finished: whether no pair could improve the matching. Otherwise nothing is certified, however small the gap.
        rounds: the number of rounds, see `Round`.
        edges: the number of candidate pairs.
        stopped_by: the limit that ended the search, if one did.
        seconds: seconds by stage.
        reduced: the reduced costs of the proof; None for those of the `Cost` in float64.
        certificate: the certificate of `permutation`, see `graded`.
    """

    permutation: Indices
    prices: Floats
    minima: Floats
    proved: Floats
    others: Floats | None = None
    finished: bool = True
    rounds: int = 0
    edges: int = 0
    stopped_by: Limit | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reduced: Reduced | None = None
    certificate: Certificate | None = None

    @property
    def certified(self) -> bool:
        """Whether the certificate proves that the matching is optimal."""
        return self.certificate is not None and self.certificate.certified

    def graded(self, cost: Cost, unmatched: Unmatched) -> Solution:
        """Return the solution with the certificate of its matching."""
        if self.certificate is not None:
            return self
        return replace(self, certificate=self.grade(cost, unmatched, self.permutation))

    def exchanged(self, permutation: Indices) -> Solution:
        """Return the solution with another matching of the same cost, and the same proof."""
        if np.array_equal(permutation, self.permutation):
            return self
        others = None if self.others is None else self._others(permutation)
        return replace(self, permutation=permutation, others=others, certificate=None)

    def bound(self, unmatched: Unmatched) -> float:
        """Return sum(u) + sum(v) in the units of M: a lower bound for the cost of every matching less all p and q."""
        return correct_sum(np.minimum(self.proved, unmatched.rows)) + correct_sum(self.prices)

    def grade(self, cost: Cost, unmatched: Unmatched, permutation: Indices) -> Certificate:
        """Return the certificate of a matching that the problem allows.

        The cost of the matching minus the lower bound is a sum of terms, none of which is negative, in which the large
        constants p and q of the cost never appear. Let a_i be the unmatched cost of row i, b_j that of column j, and
        u_i = min(min_j M_ij - v_j, a_i). The terms are

            M_ij - v_j - u_i   for each matched pair i, j = perm(i),
            a_i - u_i          for each unmatched row i,
            b_j - v_j          for each unmatched column j.

        The error of a term is the error of the float64 values that it compares. There is neither excess nor error for
        a row whose other pairs, and whose unmatched cost, are above its own pair by more than rounding; for an
        unmatched row whose pairs are above its unmatched cost by more than rounding; and for a column whose price
        stands for its unmatched cost.

        A matching is certified if the search was finished and

        1. the gap, the sum of all terms, is at most its rounding error;
        2. each term is at most four times its own error, or `TOLERANCE` times the typical difference of costs;
        3. the error of each term is at most `BLUR` times the typical difference of costs;
        4. gap and error together are at most `TOLERANCE` times the gain, and at most `TOLERANCE` times what the pairs
           and the unmatched features cost in absolute values. Without a gain, they are at most `TOLERANCE` times the
           typical difference of costs, summed over all pairs.

        There are two exceptions. If gap and error are both 0, the proof is exact, and 2 to 4 are not needed. If all
        rows of the larger side are identical, every complete matching costs the same, and only 1 is needed.
        """
        # Sum up the terms of the gap, and an upper bound for each of them: these sums give the gap and its error.
        reduced = Reduced.in_float64(cost, unmatched, self.prices) if self.reduced is None else self.reduced
        pairs = _Pairs.of(permutation, cost.shape[1])
        values, value_error = reduced.pairs(pairs.rows, pairs.columns)
        excess, most = self._excess(reduced, permutation, pairs, values, value_error)
        gap = correct_sum(excess) / reduced.scale
        error = max(correct_sum(most) / reduced.scale * (1 + 2.0**-50) - gap, 0.0)
        error += SMALLEST * bool(gap or error)  # the quotients may underflow
        if _is_constant(cost, unmatched):
            return Certificate(gap, error, 0.0, True)
        # The numbers that gap and error are compared with.
        if self.reduced is None:
            matched, matched_error = correct_sum(values, self.prices[pairs.columns]), value_error
        else:
            matched = correct_sum(cost.exact(pairs.rows, pairs.columns))
            matched_error = cost.exact_error(pairs.rows, pairs.columns, unmatched.bound_price_error(self.prices))
        gain = _gain(cost, unmatched, pairs, matched, matched_error, gap, error)
        # If gap and error are both 0, the proof is exact. Otherwise rounding must explain the gap.
        if gap + error == 0:
            return Certificate(gap, error, gain, True)
        trivial = _trivial_proof(cost, unmatched, permutation, pairs, gap + error)
        in_m = cost.scale / reduced.scale
        explained = self.finished and self._is_rounding(cost, excess * in_m, (most - excess) * in_m)
        explained = explained and not self._is_hidden(cost, gap + error, gain, trivial.paid)
        certificate = Certificate(gap, error, gain, explained)
        # The trivial bound may prove more than the prices: for instance if every row has its cheapest column.
        if trivial.gap + trivial.error < gap + error and not certificate.certified:
            return Certificate(trivial.gap, trivial.error, gain, trivial.gap + trivial.error == 0)
        return certificate

    def _others(self, permutation: Indices) -> Floats:
        """Return lower bounds over all columns but the partners in `permutation`, in units of `reduced`."""
        if self.others is None:
            return self.proved
        return np.where(permutation == self.permutation, self.others, self.proved)

    def _excess(
        self, reduced: Reduced, permutation: Indices, pairs: _Pairs, values: Floats, value_error: Floats
    ) -> tuple[Floats, Floats]:
        """Return the terms of the gap, see `grade`, and an upper bound for each term that no rounding can break.

        `values` are the reduced costs of the pairs of the permutation, and `value_error` bounds their errors.
        """
        # What each row pays, and the least that it could pay instead. A pair does not compete with itself: this is why
        # a row whose other pairs are well above its own has no error.
        paid, paid_error, lowest = reduced.rows.copy(), reduced.row_error.copy(), self.proved.copy()
        paid[pairs.rows], paid_error[pairs.rows] = values, value_error
        others = np.minimum(self._others(permutation), at_least(reduced.rows, reduced.row_error))
        lowest[pairs.rows] = others[pairs.rows]
        # The upper bounds compare the highest that a value can be with the lowest that its competitors can be.
        left = reduced.columns[pairs.free_columns]
        most = np.concatenate(
            [
                np.maximum(at_most(paid, paid_error) - lowest, 0.0),
                at_most(left, reduced.column_error[pairs.free_columns]),
            ]
        )
        # The terms themselves, in float64, never outside the bounds.
        terms = np.concatenate([paid - np.minimum(self.minima, reduced.rows), left])
        return np.clip(terms, 0.0, most), most

    def _is_rounding(self, cost: Cost, excess: Floats, errors: Floats) -> bool:
        """Whether rounding explains each term of the gap, and no term is rounded too much; in the units of M."""
        # The sparse solver accepts an edge that is below the pair of its row by a few roundings (`FEASIBILITY`). So a
        # term may be up to four times its error, or `TOLERANCE` times the typical difference.
        slack = np.maximum(4 * errors, TOLERANCE * cost.typical_difference)
        # If the rounding of a term were as large as the typical difference, it would explain any partner of that
        # feature. This happens if the row of the feature is an outlier.
        blurred = cost.typical_difference > 0 and float(errors.max(initial=0.0)) > BLUR * cost.typical_difference
        return bool((excess <= slack).all()) and not blurred

    def _is_hidden(self, cost: Cost, proof_gap: float, gain: float, paid: float) -> bool:
        """Whether the gap and its error are too large, compared with what the matching pays."""
        # With an outlier, or an outsized `max_cost`, the gain can be many orders of magnitude above what all other
        # features cost. So the gap and its error must also be small compared with what the matching pays.
        if proof_gap > TOLERANCE * paid:
            return True
        # Without a gain, the gap and its error must be small compared with the typical difference, summed over all
        # pairs, or compared with the largest price if costs do not differ.
        size = cost.typical_difference * min(cost.shape) or float(np.abs(self.prices).max(initial=0.0))
        return gain == 0 and proof_gap > TOLERANCE * size / cost.scale


class _Pairs(NamedTuple):
    """The pairs of a permutation as rows and columns, and the rows and columns that are unmatched."""

    rows: Indices
    columns: Indices
    free_rows: Indices
    free_columns: Indices

    @classmethod
    def of(cls, permutation: Indices, columns: int) -> _Pairs:
        """Return the pairs of a permutation into a number of columns."""
        matched, free = permutation >= 0, np.ones(columns, dtype=np.bool_)
        partners = permutation[matched]
        free[partners] = False
        return cls(np.nonzero(matched)[0], partners, np.nonzero(~matched)[0], np.nonzero(free)[0])


def _gain(
    cost: Cost, unmatched: Unmatched, pairs: _Pairs, matched: float, matched_error: Floats, gap: float, error: float
) -> float:
    """Return `Certificate.gain`, 0.0 if it is no more than rounding.

    `matched` is the sum of M over the pairs, and `matched_error` bounds the error of each of them.
    """
    # Objectives in units of M, without sum(p) + sum(q), which they all have in common: of the matching, of a random
    # pairing of the whole smaller side, and of no pairs at all. A random pairing may be forbidden.
    unpaired = correct_sum(unmatched.rows[pairs.free_rows]) + correct_sum(unmatched.columns[pairs.free_columns])
    no_pairs = correct_sum(unmatched.rows) + correct_sum(unmatched.columns)
    random_pairs = cost.random_total + _left_over(unmatched)
    reference = no_pairs if cost.forbids and math.isfinite(no_pairs) else min(random_pairs, no_pairs)
    # The reference minus the objective, plus the gap, is the reference minus the lower bound.
    gain = (reference - matched - unpaired) / cost.scale
    gain_error = cost.random_error + correct_sum(matched_error, unmatched.row_error, unmatched.column_error)
    return gain + gap + error if gain + gap > gain_error / cost.scale + error else 0.0


class _TrivialProof(NamedTuple):
    """The excess of a matching over a bound that needs no prices, with its rounding error, in units of the cost.

    `paid` is the sum of all costs that the matching pays, in absolute values.
    """

    paid: float
    gap: float
    error: float


def _trivial_proof(
    cost: Cost, unmatched: Unmatched, permutation: Indices, pairs: _Pairs, proof_gap: float
) -> _TrivialProof:
    """Compare a matching with `Cost.trivial_bound`: 0 for distances, the sum of the least costs of rows for a matrix.

    Gap and error are inf if the trivial bound proves clearly less than the prices, which prove `proof_gap`.
    """
    free = zip((pairs.free_rows, pairs.free_columns), unmatched.costs, strict=True)
    unpaired = [np.full(len(features), price) for features, price in free]
    bound = cost.trivial_bound(complete=not all(map(math.isfinite, unmatched.costs)))
    costs = cost.costs_of(permutation)
    paid = correct_sum(np.abs(costs), *unpaired)
    if correct_sum(costs, *unpaired, -bound) > 2 * proof_gap:
        return _TrivialProof(paid, math.inf, math.inf)
    # The bound is within reach: compute the costs again, in twice the precision of float64.
    costs, error = cost.less(pairs.rows, pairs.columns, *cost.no_duals)
    gap = correct_sum(costs, *unpaired, -bound)
    return _TrivialProof(paid, max(gap, 0.0), correct_sum(error) + 2 * UNIT_64 * abs(gap))


def _is_constant(cost: Cost, unmatched: Unmatched) -> bool:
    """Whether all rows of the larger side are identical: then every complete matching costs the same."""
    more_rows = len(unmatched.rows) - len(unmatched.columns)
    rows, columns = (not first.any() for first in cost.identical_rows)
    larger_alike = (rows and more_rows >= 0) or (columns and more_rows <= 0)
    return larger_alike and not (np.isfinite(unmatched.rows).any() and np.isfinite(unmatched.columns).any())


def _left_over(unmatched: Unmatched) -> float:
    """Return what the rest of the larger side pays on average, if a random part of that side is matched."""
    more_rows = len(unmatched.rows) - len(unmatched.columns)
    if more_rows == 0:
        return 0.0
    return float(more_rows * unmatched.rows.mean() if more_rows > 0 else -more_rows * unmatched.columns.mean())
