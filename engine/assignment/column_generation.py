"""The exact optimum by column generation: solve on few pairs, let a pass over all pairs say which ones were missing."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from saematch.assignment.certificate import Certificate, Solution
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.refinement import PassBounds, refined
from saematch.assignment.ties import in_order, spread, spread_ties
from saematch.cost import Cost, Scan, Unmatched
from saematch.numeric.rounding import UNIT_64, Floats, Indices, at_least

# Cheapest partners of a row and of a column that a pass adds to the graph, where costs are stored and where they are
# made again. More of them settle more rows for good, at the price of more edges: worth it where a pass is a product.
LISTED = {True: 8, False: 16}
DENSE = 2**14  # pairs; with no more, all are candidates, and no pass is needed


@dataclass(frozen=True)
class Round:
    """What is known after one pass over all pairs."""

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
    """The optimal matching and prices that prove it, unless a limit stops the rounds first.

    `start`, a matching that the problem allows, is among the candidates from the first round on. Limits are looked at
    after each round, so that there always is an answer with a bound.
    """
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    seconds: dict[str, float] = defaultdict(float)
    if 0 in cost.shape:
        prices = unmatched.columns.copy()
        nothing = np.full(cost.shape[0], math.inf)
        return Solution(np.full(cost.shape[0], -1), prices, nothing, nothing)
    graph = CandidateGraph(cost, unmatched, _anything_allowed(cost, unmatched) if start is None else start)
    prices = np.where(np.isfinite(unmatched.columns), unmatched.columns, 0.0)
    with _timed(seconds, "candidates"):
        rest = np.full(cost.shape[0], _add_candidates(cost, graph))
    off = math.inf
    best: Solution | None = None
    for number in itertools.count(1):
        edges, before = len(graph), prices
        with _timed(seconds, "sparse optimum"):
            permutation, prices = graph.optimum(prices, off)
        rose = float((prices - before).max())  # what was bounded has come nearer by as much; rounded down
        at_limit_now = unmatched.at_limit(prices) & ~unmatched.at_limit(before)
        rose += 2 * float(unmatched.column_error[at_limit_now].max(initial=0.0))
        known = np.isfinite(rest)
        rest[known] -= rose + 8 * UNIT_64 * (np.abs(rest[known]) + abs(rose))
        with _timed(seconds, "passes"):
            minima, others, off = _price(cost, unmatched, graph, permutation, prices, rest)
        improvable = off > 0
        now = Solution(permutation, prices, *minima, others, not improvable, number, len(graph), None, seconds)
        # Without new edges or another answer there is only rounding left to argue about.
        stalled = best is not None and len(graph) == edges and bool((permutation == best.permutation).all())
        if best is None or not improvable or now.bound(unmatched) >= best.bound(unmatched):
            best = now
        else:
            best = replace(now, prices=best.prices, minima=best.minima, proved=best.proved, others=None)
        if progress is not None:
            progress(Round(number, len(graph), best.grade(cost, unmatched, permutation)))
        if not improvable or stalled:
            break
        if time.monotonic() >= deadline:
            best = replace(best, stopped_by="time_limit")
            break
        if number == max_rounds:
            best = replace(best, stopped_by="round_limit")
            break
    assert best is not None
    certificate = best.grade(cost, unmatched, best.permutation)
    if best.stopped_by is None and not certificate.certified:
        with _timed(seconds, "refinement"):
            seen = PassBounds(cost, unmatched, prices, rest)
            best = refined(cost, unmatched, graph, best, certificate, seen, deadline)
    return best.exchanged(in_order(best.permutation, *cost.identical_rows))


def _add_candidates(cost: Cost, graph: CandidateGraph) -> float:
    """All pairs of a small problem, else the cheapest of each row and column; returns a bound for all others."""
    if cost.shape[0] * cost.shape[1] <= DENSE:
        graph.add(*(index.ravel() for index in np.indices(cost.shape)))
        return math.inf
    prices, potentials = cost.by_cost()
    every, nothing = np.arange(cost.shape[0]), np.zeros(cost.shape[1])
    scan = cost.scan(every, prices, nothing, potentials, LISTED[cost.stored], math.inf)
    _add_listed(cost, graph, scan, prices)
    return -math.inf


def _add_listed(cost: Cost, graph: CandidateGraph, scan: Scan, prices: Floats) -> None:
    """All pairs that a pass listed, and as many like them that lead elsewhere where rows or costs are equal."""
    pairs = scan.pairs()
    graph.add(*pairs)
    graph.add(*spread(*pairs, *cost.identical_rows))
    graph.add(*spread_ties(cost, scan, prices))


def _price(
    cost: Cost, unmatched: Unmatched, graph: CandidateGraph, permutation: Indices, prices: Floats, rest: Floats
) -> tuple[tuple[Floats, Floats], Floats, float]:
    """One pass: adds what was missing; returns the row minima and their proof, the latter without each row's own
    partner, and what a row can gain at most.

    `rest (F_A,)`, which is updated, bounds M_ij - v_j from below over the pairs of row i that are not in the graph. It
    stays true while prices fall, so only rows that it does not settle are looked at: all at first, few later. That is
    why a row gets its cheapest pairs even where nothing is gained by them: the bound for the others is higher.
    """
    potentials, rounding = graph.potentials(permutation, prices)
    wanted = potentials + 2 * rounding
    rows = np.nonzero(rest < wanted)[0]
    if len(rows):
        scan = cost.scan(rows, prices, unmatched.bound_price_error(prices), wanted, LISTED[cost.stored])
        _add_listed(cost, graph, scan, prices)
        rest[rows] = scan.floors[:, -1]
    minima, others, gain = graph.settle(permutation, prices, potentials, rounding, wanted, rest)
    others = np.minimum(others, rest)
    own = np.where(permutation >= 0, at_least(potentials, rounding), np.inf)
    return (minima, np.minimum(others, own)), others, gain


def _anything_allowed(cost: Cost, unmatched: Unmatched) -> Indices:
    """A matching to start from: nobody's where all may stay free."""
    if np.isfinite(unmatched.rows).all() and np.isfinite(unmatched.columns).all():
        return np.full(cost.shape[0], -1)
    return cost.some_matching()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - began
