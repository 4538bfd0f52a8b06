"""The exact optimum by column generation: solve on few pairs, let a pass over all pairs say which ones were missing."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from saematch.assignment.auction import auction
from saematch.assignment.graph import CandidateGraph
from saematch.assignment.ties import in_order
from saematch.cost import Floats, Indices, PairCost

CANDIDATES = 8  # cheapest partners a row and a column in the first graph
VIOLATORS = 8  # partners a row and a column that are added while something can be gained
LISTED = 32  # partners a row and a column that a pass lists, so that nearly all rows can be proved from their lists
TOLERANCE = 1e-9  # certified: no further from the optimum than this share of what matching can gain at all


@dataclass(frozen=True)
class Certificate:
    """How far a permutation can be from the optimum, in units of the cost.

    `gap` is its excess over what the prices prove, `error` bounds the rounding of `gap`, and `scale` is R - lower
    bound, R the cost of a random pairing: what matching can gain at all.
    """

    gap: float
    error: float
    scale: float

    @property
    def certified(self) -> bool:
        """Whether the permutation is proved optimal; where every pairing costs the same, each is."""
        return self.gap + self.error <= TOLERANCE * self.scale or self.scale <= self.error


@dataclass(frozen=True)
class Round:
    """What is known after one pass over all pairs."""

    number: int
    edges: int
    certificate: Certificate


@dataclass(frozen=True)
class Solution:
    """A permutation and prices, with what a pass over all pairs proved about them.

    In the reduced units of the `PairCost` M: `minima (n,)` is min_j M_ij - v_j in float64, `proved (n,)` a lower bound
    for it that no rounding can break.
    """

    permutation: Indices
    prices: Floats
    minima: Floats
    proved: Floats
    rounds: int
    edges: int
    stopped_by: str | None

    @property
    def bound(self) -> float:
        """The proved lower bound of sum_i M_i,perm(i)."""
        return math.fsum(self.proved) + math.fsum(self.prices)

    def grade(self, cost: PairCost, permutation: Indices) -> Certificate:
        """What the prices prove about any permutation.

        In a complete matching the excess of its cost over sum u + sum v is, row by row, M_i,perm(i) - v_perm(i) less
        min_j (M_ij - v_j): no term is negative, and the large constants of the cost never appear.
        """
        every = np.arange(len(permutation))
        matched = cost.exact(every, permutation)
        excess = matched - self.prices[permutation] - self.minima
        error = self.minima - self.proved + cost.exact_error(every, permutation, self.prices)
        gap = max(math.fsum(excess), 0.0) / cost.scale
        bound = math.fsum(error) / cost.scale
        gain = (cost.random_total() - math.fsum(matched)) / cost.scale
        return Certificate(gap, bound, gain + gap + bound)


def solve(
    cost: PairCost,
    *,
    start: Indices | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    progress: Callable[[Round], None] | None = None,
) -> Solution:
    """The optimal permutation of a square problem and prices that prove it, unless a limit stops the rounds first.

    `start`, a permutation, is among the candidates from the first round on. Limits are looked at after each round, so
    that there always is an answer with a bound.
    """
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    every = np.arange(cost.shape[0])
    if not len(every):
        return Solution(every, np.empty(0), np.empty(0), np.empty(0), 0, 0, None)
    graph = CandidateGraph(cost, every if start is None else start)
    graph.add(*cost.scan(*cost.by_distance(), CANDIDATES, math.inf).pairs(CANDIDATES))
    # Only the first prices come from an auction: another one would scramble what the passes since have settled.
    prices = auction(graph.starts, graph.columns, graph.costs, graph.column_minima())
    best = Solution(every, prices, np.full(len(every), -math.inf), np.full(len(every), -math.inf), 0, 0, None)
    for number in itertools.count(1):
        edges = len(graph)
        permutation = graph.solve(prices)
        prices = graph.settle(permutation, prices)
        minima, proved, improvable = _price(cost, graph, permutation, prices)
        now = Solution(permutation, prices, minima, proved, number, len(graph), None)
        unchanged = number > 1 and edges == len(graph) and bool((permutation == best.permutation).all())
        best = now if now.bound >= best.bound else replace(best, permutation=permutation, rounds=number)
        if progress is not None:
            progress(Round(number, len(graph), best.grade(cost, permutation)))
        if not improvable or unchanged:  # unchanged: there is only rounding left to argue about
            break
        if time.monotonic() >= deadline:
            best = replace(best, stopped_by="time_limit")
            break
        if number == max_rounds:
            best = replace(best, stopped_by="round_limit")
            break
    return replace(best, permutation=in_order(permutation, *cost.identical_rows()))


def _price(cost: PairCost, graph: CandidateGraph, permutation: Indices, prices: Floats) -> tuple[Floats, Floats, bool]:
    """One pass over all pairs: adds what was missing; returns the row minima, their proof, and if any row can gain.

    A list that is full within rounding of its row's minimum proves nothing about the pairs it had no place for. Those
    rows, few, are priced in float64 once no list shows a gain.
    """
    every = np.arange(len(permutation))
    potentials = graph.find(every, permutation) - prices[permutation]
    scan = cost.scan(prices, potentials, LISTED)

    def priced() -> tuple[Floats, Floats, bool]:
        minima, proved = graph.minima(prices)
        noise = minima - proved + cost.exact_error(every, permutation, prices)
        return minima, proved, bool((minima < potentials - noise).any())

    graph.add(*scan.pairs(VIOLATORS))
    minima, proved, improvable = priced()
    if improvable:
        return minima, np.minimum(proved, scan.floors[:, VIOLATORS]), True
    graph.add(*scan.pairs(LISTED))
    minima, proved, _ = priced()
    doubtful = np.nonzero(scan.floors[:, -1] < proved)[0]
    if len(doubtful):
        cheapest, lowest = cost.row_minima(doubtful, prices)
        graph.add(doubtful, cheapest)
        minima, proved, improvable = priced()
        proved[doubtful] = np.minimum(proved[doubtful], lowest)
    return minima, proved, improvable
