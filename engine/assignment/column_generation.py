"""The exact optimum by column generation: solve on few pairs, let a pass over all pairs say which ones were missing."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from saematch.assignment.graph import CandidateGraph
from saematch.assignment.ties import in_order, spread
from saematch.cost import UNIT_64, Cost, Floats, Free, Indices, Scan

# Cheapest partners of a row and of a column that a pass adds to the graph, where costs are stored and where they are
# made again. More of them settle more rows for good, at the price of more edges: worth it where a pass is a product.
LISTED = {True: 8, False: 16}
DENSE = 2**14  # pairs; with no more, all are candidates, and no pass is needed
BLUR = 1e-6  # certified: most features are rounded by no more than this share of what ordinary pairs differ by
TOLERANCE = 1e-9  # certified: no further from the optimum than this share of what matching can gain at all


@dataclass(frozen=True)
class Certificate:
    """How far a matching can be from the optimum, in units of the cost.

    `gap` is its excess over what the prices prove and `error` bounds the rounding of `gap`. `scale` is R - lower bound,
    R the cost of a random pairing, or of none if that is less: what matching can gain at all, 0.0 where that is no more
    than rounding.
    `within_rounding` says that the search was finished, that no feature's share of the gap is more than its rounding,
    that the rounding of most is at most `BLUR` of what ordinary pairs differ by, and, where the scale is 0.0, the gap a
    trace of it: next to a giant, or a giant `max_cost`, the scale alone would pass over what all the others lose.

    A matching is proved optimal where its gap is no more than its own rounding, and both together are no more than
    `TOLERANCE` of the scale: a gap that rounding does not explain is one, however small.
    """

    gap: float
    error: float
    scale: float
    within_rounding: bool

    @property
    def certified(self) -> bool:
        """Whether the matching is proved optimal."""
        small = self.gap + self.error <= TOLERANCE * self.scale or self.scale == 0
        return self.within_rounding and small and self.gap <= self.error


@dataclass(frozen=True)
class Round:
    """What is known after one pass over all pairs."""

    number: int
    edges: int
    certificate: Certificate


@dataclass(frozen=True)
class Solution:
    """A matching and prices, with what a pass over all pairs proved about them.

    In the reduced units of the `Cost` M: `minima (F_A,)` is min_j M_ij - v_j in float64, `proved (F_A,)` a lower
    bound for it that no rounding can break. No price is above what its column pays to stay free. `settled` says that
    the last pass found nothing to gain: without it nothing is certified, however small the gap.
    """

    permutation: Indices
    prices: Floats
    minima: Floats
    proved: Floats
    settled: bool = True
    rounds: int = 0
    edges: int = 0
    stopped_by: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def bound(self, free: Free) -> float:
        """A lower bound for the cost of every matching, less sum(p) + sum(q): sum u + sum v."""
        return math.fsum(np.minimum(self.proved, free.rows)) + math.fsum(self.prices)

    def grade(self, cost: Cost, free: Free, permutation: Indices) -> Certificate:
        """What the prices prove about any matching that the problem allows.

        Its cost less the bound is a sum of terms of which none is negative, and in which the large constants of the
        cost never appear: with u_i the smaller of min_j M_ij - v_j and what it costs row i to stay free, M_i,perm(i) -
        v_perm(i) - u_i for a matched row, the cost of staying free less u_i for another, and the cost of staying free
        less v_j for an unmatched column. The error of each is that of the float64 values it compares; a row that is
        free by more than rounding, and a column whose price stands for the cost of staying free, add none.
        """
        rows, alone = np.nonzero(permutation >= 0)[0], np.nonzero(permutation < 0)[0]
        columns = permutation[rows]
        left = np.setdiff1d(np.arange(cost.shape[1]), columns)
        left = left[~free.at_most(self.prices)[left]]
        matched = cost.exact(rows, columns)
        matched_error = cost.exact_error(rows, columns, free.price_error(self.prices))
        values = matched - self.prices[columns]
        excess = np.concatenate(
            [
                values - np.minimum(self.minima[rows], free.rows[rows]),
                free.rows[alone] - np.minimum(self.minima[alone], free.rows[alone]),
                free.columns[left] - self.prices[left],
            ]
        )
        most = np.concatenate(
            [
                values + matched_error - np.minimum(self.proved[rows], (free.rows - free.row_error)[rows]),
                np.maximum((free.rows + free.row_error)[alone] - self.proved[alone], 0.0),
                (free.columns + free.column_error - self.prices)[left],
            ]
        )
        gap = max(math.fsum(excess), 0.0) / cost.scale
        error = max(math.fsum(most) / cost.scale - gap, 0.0)
        if _is_constant(cost, free):
            return Certificate(gap, error, 0.0, True)
        staying_free = math.fsum(free.rows[alone]) + math.fsum(np.delete(free.columns, columns))
        nothing = math.fsum(free.rows) + math.fsum(free.columns)
        pairing = cost.random_total + _left_over(free)
        reference = nothing if cost.forbids and math.isfinite(nothing) else min(pairing, nothing)
        gain = (reference - math.fsum(matched) - staying_free) / cost.scale
        gain_error = math.fsum([cost.random_error, *matched_error, *free.row_error, *free.column_error]) / cost.scale
        scale = gain + gap + error if gain + gap > gain_error + error else 0.0
        # Settled prices may leave an edge cheaper than its row's by a few roundings of other numbers on its path.
        errors, trace = most - excess, TOLERANCE * cost.typical / max(1, *cost.shape)
        slack = np.maximum(4 * errors, trace)
        size = cost.typical or float(np.abs(self.prices).max(initial=0.0))  # most M may be 0, and prices not
        hidden = scale == 0 and gap + error > TOLERANCE * size / cost.scale
        hidden |= cost.ordinary > 0 and float(np.median(errors)) > BLUR * cost.ordinary
        return Certificate(gap, error, scale, self.settled and bool((excess <= slack).all()) and not hidden)


def solve(
    cost: Cost,
    free: Free,
    *,
    start: Indices | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[Round], None] | None = None,
) -> Solution:
    """The optimal matching and prices that prove it, unless a limit stops the rounds first.

    `start`, a matching that the problem allows, is among the candidates from the first round on. Limits are looked at
    after each round, so that there always is an answer with a bound.
    """
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    seconds: dict[str, float] = defaultdict(float)
    if 0 in cost.shape:
        prices = free.columns.copy()
        nothing = np.full(cost.shape[0], math.inf)
        return Solution(np.full(cost.shape[0], -1), prices, nothing, nothing)
    graph = CandidateGraph(cost, free, _anything_allowed(cost, free) if start is None else start)
    prices = np.where(np.isfinite(free.columns), free.columns, 0.0)
    with _timed(seconds, "candidates"):
        rest = np.full(cost.shape[0], _add_candidates(cost, graph))
    off = math.inf
    best: Solution | None = None
    for number in itertools.count(1):
        edges, before = len(graph), prices
        with _timed(seconds, "sparse optimum"):
            permutation, prices = graph.optimum(prices, off)
        rose = float((prices - before).max())  # what was bounded has come nearer by as much; rounded down
        known = np.isfinite(rest)
        rest[known] -= rose + 8 * UNIT_64 * (np.abs(rest[known]) + abs(rose))
        with _timed(seconds, "passes"):
            minima, proved, off = _price(cost, free, graph, permutation, prices, rest)
        improvable = off > 0
        now = Solution(permutation, prices, minima, proved, not improvable, number, len(graph), None, seconds)
        # Without new edges or another answer there is only rounding left to argue about.
        stalled = best is not None and len(graph) == edges and bool((permutation == best.permutation).all())
        if best is None or not improvable or now.bound(free) >= best.bound(free):
            best = now
        else:
            best = replace(now, prices=best.prices, minima=best.minima, proved=best.proved)
        if progress is not None:
            progress(Round(number, len(graph), best.grade(cost, free, permutation)))
        if not improvable or stalled:
            break
        if time.monotonic() >= deadline:
            best = replace(best, stopped_by="time_limit")
            break
        if number == max_rounds:
            best = replace(best, stopped_by="round_limit")
            break
    assert best is not None
    return replace(best, permutation=in_order(best.permutation, *cost.identical_rows))


def _add_candidates(cost: Cost, graph: CandidateGraph) -> float:
    """All pairs of a small problem, else the cheapest of each row and column; returns a bound for all others."""
    if cost.shape[0] * cost.shape[1] <= DENSE:
        graph.add(*(index.ravel() for index in np.indices(cost.shape)))
        return math.inf
    prices, potentials = cost.by_cost()
    every, nothing = np.arange(cost.shape[0]), np.zeros(cost.shape[1])
    _add_listed(cost, graph, cost.scan(every, prices, nothing, potentials, LISTED[cost.stored], math.inf))
    return -math.inf


def _add_listed(cost: Cost, graph: CandidateGraph, scan: Scan) -> None:
    """All pairs that a pass listed, and as many like them that lead to other members of groups of identical rows."""
    pairs = scan.pairs()
    graph.add(*pairs)
    graph.add(*spread(*pairs, *cost.identical_rows))


def _price(
    cost: Cost, free: Free, graph: CandidateGraph, permutation: Indices, prices: Floats, rest: Floats
) -> tuple[Floats, Floats, float]:
    """One pass: adds what was missing; returns the row minima, their proof, and what a row can gain at most.

    `rest (F_A,)`, which is updated, bounds M_ij - v_j from below over the pairs of row i that are not in the graph. It
    stays true while prices fall, so only rows that it does not settle are looked at: all at first, few later. That is
    why a row gets its cheapest pairs even where nothing is gained by them: the bound for the others is higher.
    """
    potentials, rounding = graph.potentials(permutation, prices)
    wanted = potentials + 2 * rounding
    rows = np.nonzero(rest < wanted)[0]
    if len(rows):
        scan = cost.scan(rows, prices, free.price_error(prices), wanted, LISTED[cost.stored])
        _add_listed(cost, graph, scan)
        rest[rows] = scan.floors[:, -1]
    minima, proved, gain = graph.settle(prices, potentials, rounding, wanted, rest)
    return minima, np.minimum(proved, rest), gain


def _is_constant(cost: Cost, free: Free) -> bool:
    """Whether the larger side is one row again and again: then it does not matter who gets which of them."""
    partial = np.isfinite(free.rows).any() and np.isfinite(free.columns).any()
    rows, columns = (bool((first == 0).all()) for first in cost.identical_rows)
    larger_alike = (rows and len(free.rows) >= len(free.columns)) or (columns and len(free.columns) >= len(free.rows))
    return larger_alike and not partial


def _left_over(free: Free) -> float:
    """What the rest of the larger side pays to stay free where a random part of it is matched, on average."""
    more = len(free.rows) - len(free.columns)
    return float(more * free.rows.mean() if more > 0 else -more * free.columns.mean() if more < 0 else 0.0)


def _anything_allowed(cost: Cost, free: Free) -> Indices:
    """A matching to start from: nobody's where all may stay free."""
    if np.isfinite(free.rows).all() and np.isfinite(free.columns).all():
        return np.full(cost.shape[0], -1)
    return cost.some_matching()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - began
