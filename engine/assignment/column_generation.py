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
from saematch.assignment.duals import PassBounds
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.refinement import refined
from saematch.assignment.ties import in_order, spread, spread_ties
from saematch.cost import Cost, Scan, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least

# The number of cheapest partners of each row and column that a pass adds to the graph: if the products of all pairs are
# stored, and if each pass computes them again. A longer list settles more rows for good, at the price of more edges:
# that pays where a pass is expensive.
LISTED_STORED = 8
LISTED_MATRIX_FREE = 16
DENSE = 2**14  # a problem of no more pairs has all of them as candidates, and needs no pass


@dataclass(frozen=True)
class Round:
    """The state of the search after one round: an optimum of the candidate pairs, and a check of all other pairs.

    The check is a pass over the rows for which a pair that is not a candidate may improve the matching. These are all
    rows at first, and none for a small problem, all of whose pairs are candidates.

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
        return Solution(np.full(cost.shape[0], -1), unmatched.columns.copy(), nothing, nothing)
    # The candidates, prices to start with, and a lower bound, for each row, on all pairs that are not candidates.
    graph = CandidateGraph(cost, unmatched, _allowed_matching(cost, unmatched) if start is None else start)
    prices = np.where(np.isfinite(unmatched.columns), unmatched.columns, 0.0)
    with _timed(seconds, "candidates"):
        rest = np.full(cost.shape[0], _add_candidates(cost, graph))
    undercut = math.inf  # the most by which a pair is below the potential of its row: estimates the error of prices
    best: Solution | None = None
    for number in itertools.count(1):
        edges, before = len(graph), prices
        # Solve the graph.
        with _timed(seconds, "sparse optimum"):
            permutation, prices = graph.optimum(prices, undercut)
        _follow_prices(rest, unmatched, before, prices)
        # Check all other pairs at these prices, and add those that may improve the matching.
        with _timed(seconds, "passes"):
            minima, proved, others, undercut = _price(cost, unmatched, graph, permutation, prices, rest)
        now = Solution(permutation, prices, minima, proved, others, undercut == 0, number, len(graph), None, seconds)
        # Without new candidates or another matching, further rounds would differ only by rounding.
        stalled = best is not None and len(graph) == edges and bool((permutation == best.permutation).all())
        best = now if best is None else _better(best, now, unmatched)
        if progress is not None:
            progress(Round(number, len(graph), best.grade(cost, unmatched, permutation)))
        if undercut == 0 or stalled:
            break
        if time.monotonic() >= deadline:
            best = replace(best, stopped_by="time_limit")
            break
        if number == max_rounds:
            best = replace(best, stopped_by="round_limit")
            break
    assert best is not None
    # Where float64 leaves the proof open, refine the matching and its prices in twice the precision.
    certificate = best.grade(cost, unmatched, best.permutation)
    if best.stopped_by is None and not certificate.certified:
        with _timed(seconds, "refinement"):
            seen = PassBounds(cost, unmatched, prices, rest)
            best = refined(cost, unmatched, graph, best, certificate, seen, deadline)
    return best.exchanged(in_order(best.permutation, *cost.identical_rows))


def _better(best: Solution, now: Solution, unmatched: Unmatched) -> Solution:
    """Return the matching of the last round with the prices of whichever round has proved more."""
    if now.finished or now.bound(unmatched) >= best.bound(unmatched):
        return now
    return replace(now, prices=best.prices, minima=best.minima, proved=best.proved, others=None)


def _follow_prices(rest: Floats, unmatched: Unmatched, before: Floats, prices: Floats) -> None:
    """Update `rest`, the lower bounds on M_ij - v_j of pairs that are not candidates, for new prices.

    If no price rises by more than r, no M_ij - v_j falls by more than r. (If all prices fall, r is negative, and the
    bounds rise.) A price that stands for the unmatched cost of its column (see `Unmatched.at_limit`) may be too
    low by the error of that cost: twice that error is added to r for prices that stand for it now and did not before.
    The last term covers the rounding of r and of the difference.
    """
    rise = float((prices - before).max())
    rise += 2 * float(unmatched.column_error[unmatched.at_limit(prices) & ~unmatched.at_limit(before)].max(initial=0.0))
    known = np.isfinite(rest)
    rest[known] -= rise + 8 * UNIT_64 * (np.abs(rest[known]) + abs(rise))


def _add_candidates(cost: Cost, graph: CandidateGraph) -> float:
    """Add all pairs of a small problem, else the cheapest of each row and column; return a bound for all others."""
    if cost.shape[0] * cost.shape[1] <= DENSE:
        graph.add(*(index.ravel() for index in np.indices(cost.shape)))
        return math.inf
    prices, potentials = cost.by_cost()
    rows, price_error = np.arange(cost.shape[0]), np.zeros(cost.shape[1])
    scan = cost.scan(rows, prices, price_error, potentials, _list_length(cost), math.inf)
    _add_listed(cost, graph, scan, prices)
    return -math.inf


def _add_listed(cost: Cost, graph: CandidateGraph, scan: Scan, prices: Floats) -> None:
    """Add all pairs that a pass listed, and pairs of equal cost: of identical rows, and of rows with many ties."""
    pairs = scan.pairs()
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
    cost: Cost, unmatched: Unmatched, graph: CandidateGraph, permutation: Indices, prices: Floats, rest: Floats
) -> _Priced:
    """Scan the rows that pairs outside the graph may improve, add these pairs, and return what is proved of each row.

    `rest (F_A,)` is a lower bound for M_ij - v_j over the pairs of row i that are not candidates, and is updated. A row
    needs no scan if `rest` is above its potential, with a margin for rounding. The bound stays true while prices fall,
    so that all rows are scanned at first, and few later. A scan adds the cheapest pairs of a row even if they improve
    nothing, because the bound for all other pairs is higher then.
    """
    potentials, rounding = graph.potentials(permutation, prices)
    wanted = potentials + 2 * rounding
    rows = np.nonzero(rest < wanted)[0]
    if len(rows):
        scan = cost.scan(rows, prices, unmatched.bound_price_error(prices), wanted, _list_length(cost))
        _add_listed(cost, graph, scan, prices)
        rest[rows] = scan.floors[:, -1]
    # Combine the bounds over the candidates, over all other pairs, and for the pair of each row.
    minima, others, undercut = graph.settle_row_minima(permutation, prices, potentials, rounding, wanted, rest)
    others = np.minimum(others, rest)
    own = np.where(permutation >= 0, at_least(potentials, rounding), np.inf)
    return _Priced(minima, np.minimum(others, own), others, undercut)


def _list_length(cost: Cost) -> int:
    return LISTED_STORED if cost.stored else LISTED_MATRIX_FREE


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
