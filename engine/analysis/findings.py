"""Findings: what a run says about every feature of a matched pair of layers.

The findings of a feature are its partner, the cost of the pair in total and by part, the cosine of the decoder rows,
and how far the pair is from being replaced by another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.matching.problem import Problem
from saematch.matching.solver import Solver
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import Indices
from saematch.numeric.rows import Rows
from saematch.options import Side
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS, folded_rows

DEFINITIONS = {
    "partner": "number of the target feature that the feature is matched with; -1 without a partner",
    "cost": "cost of the pair: squared distance of the two folded feature rows, or what the metric of the run says; 0 "
    "without a partner",
    "encoder": "contribution of the encoder columns to the cost",
    "bias": "contribution of the encoder biases to the cost",
    "decoder": "contribution of the decoder rows to the cost",
    "cosine": "cosine of the two decoder rows",
    "margin": "how much the cost of the pair can rise before another matching costs less; at least so much where "
    "margin_exact is 0",
    "margin_exact": "1 if the margin is exact; 0 if it is a proved lower bound",
    "tied": "1 if the feature could have another partner at the same total cost, within rounding; otherwise 0",
    "runner_up": "number of the cheapest target feature other than the partner; it costs less than the partner where "
    "the smallest sum of all costs needs it for another feature",
    "runner_up_cost": "cost of the pair of the feature and its runner-up",
    "runner_up_taken_by": "number of the source feature that the runner-up is matched with; -1 if it has none",
}
MARGIN_COLUMNS = ("margin", "margin_exact", "tied", "runner_up", "runner_up_cost", "runner_up_taken_by")
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class OpenedLayer:
    """The SAE of a layer, and what the run compares of it, see `Comparing.features`."""

    sae: SAE
    features: Any

    @cached_property
    def decoder(self) -> Rows:
        """Decoder rows, `(F, d)`."""
        return folded_rows(self.sae, ["decoder"], fold="none")


class Findings:
    """The findings of a run, one pair of layers after another.

    Partner and cost are always known. The cost by part and the cosine need the SAEs: those that were passed to the
    chain, or else those at the source that the run recorded. Margins and runners-up also take some passes over all
    pairs of features.

    Args:
        chain: the run.
        margins: whether to compute margins and runners-up.
        weights: whether to use the SAEs at all.

    Attributes:
        without_saes: why the SAEs are not used; None as long as all SAEs that were needed could be read.
    """

    def __init__(self, chain: Chain, margins: bool = False, weights: bool = True) -> None:
        self.chain, self.margins = chain, margins and weights
        self.without_saes = None if weights else "the weights of the SAEs were not used"
        self._opened: dict[tuple[int, Side], OpenedLayer] = {}
        self._problem: tuple[Pair, Problem] | None = None  # of the last pair

    def columns(self, pair: Pair) -> Columns:
        """Return the columns of `DEFINITIONS` that are known for a pair, `(F_A,)` each.

        Raises:
            MatchError: if the pair has no matching.
        """
        matching = self.chain[pair]
        perm: Indices = matching.perm.numpy()
        columns: Columns = {"partner": perm, "cost": matching.pair_cost.numpy()}
        layers = self.layers(pair)
        if layers is None:
            return columns
        a, b = layers
        comparison = self.chain.known_comparison()
        for part, span in self._parts(a.sae.d):
            columns[part] = squared_distances(
                a.features.rows, b.features.rows, perm, comparison.metric == "absolute_cosine", span
            )
        columns["cosine"] = row_cosines(a.decoder, b.decoder, perm)
        if self.margins and matching.certified:
            margins = matching.margins()
            columns |= {"margin": margins.bound.numpy(), "margin_exact": margins.is_exact.numpy()}
            columns["tied"] = margins.tied.numpy()
            assert matching.margin_finder is not None
            problem = self.problem(pair)
            assert problem is not None
            columns |= _runners_up(matching.margin_finder.solver, problem, perm)
        return columns

    def expected(self) -> list[str]:
        """Return the names of the columns that a certified pair has if its SAEs can be read."""
        if self.without_saes:
            return ["partner", "cost"]
        absent = {str(part) for part in PARTS if part not in self.chain.known_comparison().parts}
        if not self.margins:
            absent |= set(MARGIN_COLUMNS)
        return [name for name in DEFINITIONS if name not in absent]

    def sae(self, layer: int, side: Side = Side.SOURCE) -> SAE | None:
        """Return the SAE of a layer, or None if it cannot be read."""
        opened = self._layer(layer, side)
        return None if opened is None else opened.sae

    def layers(self, pair: Pair) -> tuple[OpenedLayer, OpenedLayer] | None:
        """Return both layers of a pair, or None if one of them cannot be read.

        The layers are kept until another pair is asked for, since neighbouring pairs share a layer.
        """
        keys = (pair[0], Side.SOURCE), (pair[1], Side.TARGET if self.chain.of_two_sets else Side.SOURCE)
        self._opened = {key: opened for key, opened in self._opened.items() if key in keys}
        source, target = (self._layer(*key) for key in keys)
        return None if source is None or target is None else (source, target)

    def problem(self, pair: Pair) -> Problem | None:
        """Return the problem of a pair, or None if one of its SAEs cannot be read."""
        if self._problem is None or self._problem[0] != pair:
            layers = self.layers(pair)
            if layers is None:
                return None
            a, b = layers
            self._problem = pair, self.chain.known_comparison().problem_of(a.features, b.features)
        return self._problem[1]

    def _layer(self, layer: int, side: Side) -> OpenedLayer | None:
        if (layer, side) not in self._opened:
            if self.without_saes is not None:
                return None
            try:
                sae, comparison = self.chain.sae(layer, side), self.chain.known_comparison()
            except (MatchError, OSError) as error:
                self.without_saes = str(error)
                return None
            self._opened[layer, side] = OpenedLayer(sae, comparison.features(sae, side, layer))
        return self._opened[layer, side]

    def _parts(self, d: int) -> Iterator[tuple[str, slice]]:
        """Yield each part that is compared, with its columns in the feature rows of SAEs of width d."""
        start = 0
        for part in self.chain.known_comparison().parts:
            stop = start + (1 if part == "bias" else d)
            yield part, slice(start, stop)
            start = stop


def _runners_up(solver: Solver, problem: Problem, perm: Indices) -> Columns:
    """Return the columns of the runner-up: for each feature, the cheapest target feature other than its partner.

    The runner-up is not the next partner that the feature would get: it costs less than the partner wherever the
    optimum gives the target to another feature, which is named.

    A pass over all pairs in float32, which ranks pairs more finely than int8, lists the two cheapest target features of
    each feature, at least one of which is not the partner. The costs of the listed pairs are computed again in float64.

    Args:
        solver: says which backend and which device the pass uses.
        problem: the features of both layers.
        perm: partner of every source feature.
    """
    cost = replace(solver, precision="float32").make_cost(problem)
    prices = -cost.scale * cost.column_constant  # under these prices the pairs of a row rank by their cost
    price_error, potentials = np.zeros(cost.shape[1]), np.zeros(len(perm))
    scan = partial(cost.scan, np.arange(len(perm)), prices, price_error, potentials, 2, -math.inf)
    listed = cost.retry_if_out_of_memory(scan).row_partners
    best, least = np.full(len(perm), -1), np.full(len(perm), np.inf)
    for candidates in listed.T:
        others = np.where(candidates == perm, -1, candidates)
        costs = np.where(others >= 0, problem.pair_cost(others), np.inf)
        best, least = np.where(costs < least, others, best), np.minimum(costs, least)
    matched = np.nonzero(perm >= 0)[0]
    source_of = np.full(cost.shape[1] + 1, -1)  # the last entry is for features without a runner-up, whose `best` is -1
    source_of[perm[matched]] = matched
    return {"runner_up": best, "runner_up_cost": least, "runner_up_taken_by": source_of[best]}
