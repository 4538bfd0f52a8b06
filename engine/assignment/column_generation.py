"""The exact optimum by column generation: solve on few pairs, and add the missing ones by passes over all pairs.

One round solves the sparse problem of the candidate pairs, which gives a matching and prices v. Then a pass over all
pairs compares M_ij - v_j with the potential u_i of each row. Where no pair is below the potential, the matching is
optimal among all pairs. Where some are, they become candidates, and the next round follows.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from saematch.assignment.certificate import Certificate, Solution
from saematch.assignment.dense import solve_all_pairs
from saematch.assignment.duals import PassBounds
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.refinement import refined
from saematch.assignment.ties import in_order, once_for_identical_rows, spread, spread_ties
from saematch.cost import DENSE, Cost, Scan, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least

# The number of cheapest partners of each row and column that a pass adds to the graph, and that a pass over the columns
# whose prices rose adds for the other rows. A longer list settles more rows for good, at the price of more edges.
LISTED = 16
LISTED_OF_RISEN = 4
_OF_IDENTICAL = 16  # identical rows whose pairs with a column become edges
_SETTLING = 3  # the round by which the lists of most rows have what matters
WORTH = 0.7  # of all pairs: a pass that would look at more of them looks at all of them
_QUANTILES = (*np.linspace(0, 0.9, 10), 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)  # of the rises of prices, tried as t
FEW = 2**14  # pairs: with no more, a search for other prices than those of all pairs needs no pass either


@dataclass(frozen=True)
class Round:
    """The state of the search after one round: an optimum of the candidate pairs, and a check of all other pairs.

    The check is a pass over the pairs that are not candidates and may improve the matching. These are all pairs at
    first, and none for a small problem, all of whose pairs are candidates.

    Attributes:
        number: the number of rounds so far.
        edges: the number of candidate pairs.
        certificate: what is proved of the best matching so far.
    """

    number: int
    edges: int
    certificate: Certificate


def solve(
    cost: Cost,
    unmatched: Unmatched,
    *,
    start: Indices | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[Round], None] | None = None,
) -> Solution:
    """Return the optimal matching and prices that prove it, or the best so far if a limit stops the search first.

    Args:
        cost: the costs of all pairs.
        unmatched: the costs of leaving features unmatched.
        start: a matching that the problem allows; its pairs are candidates from the first round on.
        max_rounds: the most rounds.
        time_limit: seconds. Both limits are checked after each round, so that there always is an answer with a bound.
        progress: called after each round.
    """
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    seconds: dict[str, float] = defaultdict(float)
    if 0 in cost.shape:
        nothing = np.full(cost.shape[0], math.inf)
        empty = Solution(np.full(cost.shape[0], -1), unmatched.columns.copy(), nothing, nothing)
        return empty.graded(cost, unmatched)
    if start is None:
        start = _allowed_matching(cost, unmatched)
    best: Solution | None = None
    # A small problem is solved on all pairs. If float64 leaves its proof open, the search below finds other prices.
    if math.prod(cost.shape) <= DENSE:
        with _timed(seconds, "dense optimum"):
            best = replace(solve_all_pairs(cost, unmatched), seconds=seconds).graded(cost, unmatched)
        if best.certified and progress is not None:
            assert best.certificate is not None
            progress(Round(1, best.edges, best.certificate))
    if best is None or not best.certified:
        best = _by_passes(cost, unmatched, start, max_rounds, deadline, progress, seconds).graded(cost, unmatched)
    return best.exchanged(in_order(best.permutation, *cost.identical_rows)).graded(cost, unmatched)


def _by_passes(
    cost: Cost,
    unmatched: Unmatched,
    start: Indices,
    max_rounds: int | None,
    deadline: float,
    progress: Callable[[Round], None] | None,
    seconds: dict[str, float],
) -> Solution:
    """Return the optimum of candidate pairs to which passes over all pairs add no more, or the best so far."""
    graph = CandidateGraph(cost, unmatched, start)
    prices = np.where(np.isfinite(unmatched.columns), unmatched.columns, 0.0)
    with _timed(seconds, "candidates"):
        others = _Others(np.full(cost.shape[0], _add_candidates(cost, graph)), prices)
    undercut = math.inf  # the most by which a pair is below the potential of its row: estimates the error of prices
    best: Solution | None = None
    for number in itertools.count(1):
        edges = len(graph)
        # Solve the graph.
        with _timed(seconds, "sparse optimum"):
            permutation, prices = graph.optimum(prices, undercut, None if best is None else best.permutation)
        # Check all other pairs at these prices, and add those that may improve the matching.
        with _timed(seconds, "passes"):
            minima, proved, apart, undercut = _price(cost, unmatched, graph, permutation, prices, others, number)
        now = Solution(permutation, prices, minima, proved, apart, undercut == 0, number, len(graph), None, seconds)
        # Without new candidates or another matching, further rounds would differ only by rounding.
        stalled = best is not None and len(graph) == edges and bool((permutation == best.permutation).all())
        best = now if best is None else _better(best, now, unmatched)
        if progress is not None:
            progress(Round(number, len(graph), best.grade(cost, unmatched, permutation)))
        if undercut == 0 or stalled:
            break
        if time.monotonic() >= deadline:
            return replace(best, stopped_by="time_limit")
        if number == max_rounds:
            return replace(best, stopped_by="round_limit")
    assert best is not None
    # Where float64 leaves the proof open, refine the matching and its prices in twice the precision.
    best = best.graded(cost, unmatched)
    if best.certified:
        return best
    with _timed(seconds, "refinement"):
        seen = PassBounds(cost, unmatched, prices, others.floors)
        return refined(cost, unmatched, graph, best, seen, deadline)


def _better(best: Solution, now: Solution, unmatched: Unmatched) -> Solution:
    """Return the matching of the last round with the prices of whichever round has proved more."""
    if now.finished or now.bound(unmatched) >= best.bound(unmatched):
        return now
    return replace(now, prices=best.prices, minima=best.minima, proved=best.proved, others=None)


@dataclass
class _Others:
    """Lower bounds for the pairs that are not candidates: M_ij - v_j is at least `floors (F_A,)` at the `prices` v."""

    floors: Floats
    prices: Floats

    def follow(self, unmatched: Unmatched, prices: Floats, wanted: Floats) -> list[tuple[Indices, Indices]]:
        """Move to new prices, and return the pairs that may now be below the bound that each row needs, `wanted`.

        They are returned as rows and columns, all pairs of which must be looked at: first rows that need all columns,
        then the other rows with the columns whose price rose by more than some t. If no other price rises by more than
        t, no other M_ij - v_j falls by more than t. So the floors fall by t (they rise, if t is negative), and hold for
        all pairs but the returned ones. Of some values for t, the one that leaves the fewest pairs is chosen.

        A price that stands for the unmatched cost of its column (see `Unmatched.at_limit`) may be too low by the error
        of that cost: twice that error is added to its rise if it does now and did not before.
        """
        rise = prices - self.prices
        new = unmatched.at_limit(prices) & ~unmatched.at_limit(self.prices)
        rise[new] += 2 * unmatched.column_error[new]
        # Choose t. Rows that it hardly settles look at all columns, so that the next round has room.
        spare, rises = self.floors - wanted, np.sort(rise)
        heights = np.unique(np.quantile(rise, _QUANTILES, method="higher"))
        open_rows = np.searchsorted(np.sort(spare), heights + np.maximum(heights, 0.0) / 2) / len(spare)
        open_columns = 1 - np.searchsorted(rises, heights, side="right") / len(rises)
        looked_at = open_rows + (1 - open_rows) * open_columns
        best = int(looked_at.argmin())
        t, all_rows = float(heights[best]), looked_at[best] > WORTH
        # Move the floors, rounded down.
        known = np.isfinite(self.floors)
        self.floors[known] -= t + 8 * UNIT_64 * (np.abs(self.floors[known]) + abs(t))
        self.prices = prices
        # The pairs to look at.
        risen = np.nonzero(rise > t)[0]
        if not len(risen) and not all_rows:
            return [(np.nonzero(self.floors < wanted)[0], np.arange(len(prices)))]
        whole = all_rows | (spare < t + max(t, 0.0) / 2) | (self.floors < wanted)
        return [(np.nonzero(whole)[0], np.arange(len(prices))), (np.nonzero(~whole)[0], risen)]


def _add_candidates(cost: Cost, graph: CandidateGraph) -> float:
    """Add all pairs if they are few, else the cheapest of each row and column; return a bound for all others."""
    if math.prod(cost.shape) <= min(FEW, DENSE):
        graph.add(*(index.ravel() for index in np.indices(cost.shape)))
        return math.inf
    prices, potentials = cost.by_cost()
    rows, price_error = np.arange(cost.shape[0]), np.zeros(cost.shape[1])
    scan = cost.scan(rows, prices, price_error, potentials, LISTED, math.inf)
    _add_listed(cost, graph, scan, prices)
    return -math.inf


def _add_listed(cost: Cost, graph: CandidateGraph, scan: Scan, prices: Floats) -> None:
    """Add all pairs that a pass listed, and pairs of equal cost: of identical rows, and of rows with many ties."""
    pairs = once_for_identical_rows(*scan.pairs(), cost.identical_rows[0], _OF_IDENTICAL)
    graph.add(*pairs)
    graph.add(*spread(*pairs, *cost.identical_rows))
    graph.add(*spread_ties(cost, scan, prices))


class _Priced(NamedTuple):
    """The results of a pass at some prices: `minima`, `proved` and `others` of a `Solution`, and `undercut`.

    `undercut` is the most by which a candidate is below the potential of its row, 0.0 if it is no more than rounding.
    """

    minima: Floats
    proved: Floats
    others: Floats
    undercut: float


def _price(
    cost: Cost,
    unmatched: Unmatched,
    graph: CandidateGraph,
    permutation: Indices,
    prices: Floats,
    others: _Others,
    number: int,
) -> _Priced:
    """Look at the pairs outside the graph that may improve the matching, add those that do, and return what is proved.

    A pass adds the cheapest pairs of a row even if they improve nothing, because the bound for all other pairs is
    higher then.
    """
    potentials, rounding = graph.potentials(permutation, prices)
    wanted = potentials + 2 * rounding
    lengths = (LISTED, LISTED_OF_RISEN)
    for (rows, columns), k in zip(others.follow(unmatched, prices, wanted), lengths, strict=False):
        if not len(rows) or not len(columns):
            continue
        scan = cost.scan(rows, prices, unmatched.bound_price_error(prices), wanted, k, columns=columns)
        _add_listed(cost, graph, scan, prices)
        every, floors = len(columns) == cost.shape[1], scan.floors[:, -1]
        others.floors[rows] = floors if every else np.minimum(others.floors[rows], floors)
        # If the lists of most rows still leave pairs out that may matter, costs differ too little for int8.
        if number >= _SETTLING and np.count_nonzero(floors < wanted[rows]) > cost.shape[0] / 2:
            cost.sharpen()
    # Combine the bounds over the candidates, over all other pairs, and for the pair of each row.
    rest = others.floors
    minima, apart, undercut = graph.settle_row_minima(permutation, prices, potentials, rounding, wanted, rest)
    apart = np.minimum(apart, rest)
    own = np.where(permutation >= 0, at_least(potentials, rounding), np.inf)
    return _Priced(minima, np.minimum(apart, own), apart, undercut)


def _allowed_matching(cost: Cost, unmatched: Unmatched) -> Indices:
    """Return a matching to start from: the empty one if all features may be unmatched, else a complete one."""
    if np.isfinite(unmatched.rows).all() and np.isfinite(unmatched.columns).all():
        return np.full(cost.shape[0], -1)
    return cost.some_matching()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - began
