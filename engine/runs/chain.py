"""The matchings of a run put together: any layer to any other, and one feature through all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.matching.files import Scalars
from saematch.matching.margins import MarginFinder
from saematch.matching.problem import Comparison, RowProblem
from saematch.matching.result import Matching
from saematch.matching.solver import Solver
from saematch.numeric.numbers import checked_count, whole_number
from saematch.options import Side
from saematch.runs.composed import ComposedMatching
from saematch.runs.folder import RunFolder
from saematch.runs.inputs import ChainInputs, read_input
from saematch.runs.plan import Pair, as_pair, by_pair
from saematch.runs.records import InputRecord, PairRecord, RunRecord
from saematch.runs.results import Results, RunInMemory
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, as_layers
from saematch.text import well_formed


class Step(NamedTuple):
    """One stop of a feature's path. `cost` is that of the step which led here, 0.0 at the first."""

    layer: int
    feature: int
    cost: float
    label: str | None


class Chain(Mapping[Pair, Matching]):
    """The matchings of a run by (source layer, target layer).

    Paths and compositions lead from each layer to the nearest later one that it was matched with. Asking for a pair
    that has failed raises `MatchError` with the reason.

    Attributes:
        layers: the layer numbers, ascending.
        comparison: how features are compared; None for a chain that was put together from matchings.
        of_two_sets: whether its pairs lead from one set of SAEs to another.
    """

    def __init__(
        self,
        matchings: Mapping[Pair, Matching] | Results,
        inputs: Mapping[int, SAE] | None = None,
        comparison: Comparison | None = None,
        against: Mapping[int, SAE] | None = None,
        failures: Mapping[Pair, str] | None = None,
        solver: Solver | None = None,
    ) -> None:
        if not isinstance(matchings, Results):
            matchings = RunInMemory.of(by_pair(matchings), by_pair(failures or {}))
        sources, targets = (None if given is None else as_layers(given) for given in (inputs, against))
        self._results = matchings
        self._inputs = ChainInputs(sources, targets, matchings.record)
        self.comparison = comparison
        made = solver or Solver()
        self._solver = Solver(memory=made.memory, device=made.device, backend=made.backend, precision=made.precision)
        self.of_two_sets = matchings.two_sets or targets is not None
        self._held = matchings.new_cache()  # the matchings, able to find their margins
        self._next: dict[int, int] = {}
        for a, b in [] if self.of_two_sets else self:
            self._next[a] = min(b, self._next.get(a, b))
        self.layers = sorted({layer for pair in self for layer in pair})

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        inputs: Mapping[int, SAE] | None = None,
        against: Mapping[int, SAE] | None = None,
    ) -> Chain:
        """The chain of a run folder, or of the URL of one, each matching read when it is asked for.

        The SAEs it was made from, `inputs` and, for a run of two sets, `against`, are looked for where the run found
        them unless they are given; labels, margins and the costs of composed matchings need them. Raises `MatchError`
        if there is no run.
        """
        folder = RunFolder.open(run)
        options = folder.record["options"]
        comparison = Comparison.checked(options["parts"], options["weights"], options["fold"], options["max_cost"])
        return cls(folder, inputs, comparison, against)

    def __getitem__(self, pair: Pair) -> Matching:
        pair = as_pair(pair) or pair
        matching = self._held.get(pair)
        if matching is None:
            if pair in self.failures:
                raise MatchError(f"layers {pair[0]} and {pair[1]} have no matching: {self.failures[pair]}")
            matching = self._held[pair] = self._with_margins(pair, self._results.matching(pair))
        return matching

    def __contains__(self, pair: object) -> bool:
        pair = as_pair(pair)
        return pair is not None and self._results.has_matching(pair)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._results.pairs)

    def __len__(self) -> int:
        return len(self._results.pairs)

    @property
    def folder(self) -> str | None:
        """The path or the URL of the run folder; None for a chain in memory."""
        return self._results.location

    @property
    def planned(self) -> list[Pair]:
        """All pairs of the run, those included that have failed or are not finished."""
        return self._results.planned

    @property
    def failures(self) -> Mapping[Pair, str]:
        """Pair -> why it has no matching."""
        return self._results.failures

    @property
    def complete(self) -> bool:
        """Whether every pair of the run has its matching; False where there is none."""
        return self._results.complete

    @property
    def certified(self) -> bool:
        """Whether every matching is certified; False where there is none."""
        return self._results.certified

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`; empty for a chain in memory."""
        return self._results.record

    @property
    def options(self) -> dict[str, Any]:
        """Parts, weights, fold and max_cost of the run. Raises `MatchError` for a chain that was put together."""
        return self.known_comparison().record()

    @property
    def inputs(self) -> Layers:
        """The SAEs of the sources, of all layers in a run of one set. Raises `MatchError` if they are gone."""
        return self._inputs.layers(Side.SOURCE)

    def known_comparison(self) -> Comparison:
        """How features are compared. Raises `MatchError` for a chain that was put together from matchings."""
        if self.comparison is None:
            raise MatchError("this chain was put together from matchings: how they were made is not known")
        return self.comparison

    def scalars(self) -> dict[Pair, Scalars]:
        """The numbers of every matching, by name; of a run folder, without reading a matching."""
        return {pair: self._results.scalars(pair) for pair in self}

    def shape(self, pair: Pair) -> tuple[int, int]:
        """How many features the source and the target of a pair have; of a run folder, without reading a matching."""
        return self._results.shape(as_pair(pair) or pair)

    def pair_record(self, pair: Pair) -> PairRecord:
        """What the run wrote down of a pair: inputs, numbers, seconds; empty for a chain in memory."""
        return self._results.pair_record(as_pair(pair) or pair)

    def input_record(self, layer: int, side: Side = Side.SOURCE) -> InputRecord | None:
        """What the run wrote down of the SAE of a layer; None where it wrote nothing."""
        return self._results.input(_number(layer), side)

    def steps(self) -> list[Pair]:
        """The pairs that paths follow: from each layer to the nearest later one that it was matched with."""
        return [pair for pair in self if self._next.get(pair[0]) == pair[1]]

    def layers_from(self, layer: int) -> list[int]:
        """The layers that a path from `layer` goes through, itself the first."""
        layers = [_number(layer)]
        while layers[-1] in self._next:
            layers.append(self._next[layers[-1]])
        return layers

    def compose(self, source: int, target: int) -> Matching:
        """The matching between any two layers that follows from the pairs between them.

        Not optimal as such, hence `"unproved"`, or `"many_to_one"`: `saematch.certify` says how far from the optimum it
        is. Its `pair_cost` is the direct folded cost between the two layers, computed from the inputs when it is first
        asked for.
        """
        source, target = _number(source), _number(target)
        if source > target:
            return self.compose(target, source).inverse()
        pairs = self._pairs_between(source, target)
        if len(pairs) == 1:
            return self[pairs[0]]
        if not pairs:
            size = self._features(source)
            itself, nothing = torch.from_numpy(np.arange(size)), torch.from_numpy(np.zeros(size))
            return Matching(itself, nothing, target_features=size)
        perm = self[pairs[0]].perm
        for pair in pairs[1:]:
            perm = torch.where(perm >= 0, self[pair].perm[perm.clamp(min=0)], -1)
        last, taken = self[pairs[-1]], perm[perm >= 0]
        return ComposedMatching(
            perm,
            lambda: self._direct_cost(source, target, perm),
            target_features=last.target_features,
            status="unproved" if len(np.unique(taken)) == len(taken) else "many_to_one",
            options=last.options,
        )

    def path(self, layer: int, feature: int) -> list[Step]:
        """The feature's counterparts in the layers from `layer` on, up to the last or to the first without one."""
        layer = _number(layer)
        size = self._features(layer)
        wrong = f"feature {feature!r:.40} is not in layer {layer}, whose features are 0 to {size - 1}"
        feature = checked_count(feature, 0, wrong, size - 1)
        steps = [Step(layer, feature, 0.0, self.label(layer, feature))]
        while layer in self._next:
            following, cost = self._follow((layer, self._next[layer]), feature)
            if following < 0:
                break
            layer, feature = self._next[layer], following
            steps.append(Step(layer, feature, cost, self.label(layer, feature)))
        return steps

    def sae(self, layer: int, side: Side = Side.SOURCE) -> SAE:
        """The SAE of a layer, of the sources or of another set of targets, read again.

        Raises `MatchError` if it is gone or has changed since the run.
        """
        layer = _number(layer)
        return self._inputs.handle(layer, side, self._results.input(layer, side)).read()

    def hashes(self, layer: int) -> dict[str, str]:
        """What the SAE of a layer is known by: as the run recorded it, else found by reading it."""
        layer = _number(layer)
        record = self._results.input(layer, Side.SOURCE) or read_input(self.inputs.handles[layer])[1]
        return dict(record["sha256"])

    def label(self, layer: int, feature: int) -> str | None:
        """What the feature fires on, if labels lie beside its SAE."""
        label = self._inputs.labels(_number(layer)).get(_number(feature, "feature"))
        return None if label is None else well_formed(label)

    def labels(self, layer: int) -> dict[int, str]:
        """What the features of a source layer fire on; empty where no labels lie beside its SAE."""
        return {feature: well_formed(text) for feature, text in self._inputs.labels(_number(layer)).items()}

    def _follow(self, pair: Pair, feature: int) -> tuple[int, float]:
        """The target of a feature, and the cost of the step."""
        if feature >= self._features(pair[0]):
            raise MatchError(f"the pairs of this run do not fit: layer {pair[0]} has no feature {feature}")
        return self._results.follow(pair, feature)

    def _pairs_between(self, source: int, target: int) -> list[Pair]:
        for layer in (source, target):
            self._check_on_a_path(layer)
        layers = self.layers_from(source)
        if target not in layers:
            raise MatchError(f"no pair leads from layer {layers[-1]} towards layer {target} in this run")
        return list(pairwise(layers[: layers.index(target) + 1]))

    def _check_on_a_path(self, layer: int) -> None:
        if self.of_two_sets:
            raise MatchError("the pairs of this run lead from one set of SAEs to another: there is no way through them")
        if layer not in self.layers:
            layers = f"whose layers are {', '.join(map(str, self.layers))}" if self.layers else "which has no matching"
            raise MatchError(f"layer {layer} is not in this run, {layers}")

    def _features(self, layer: int) -> int:
        self._check_on_a_path(layer)
        return self._sizes[layer]

    @cached_property
    def _sizes(self) -> dict[int, int]:
        """Layer -> how many features it has, as the pair says by which a path leaves it, where there is one."""
        sizes = {pair[1]: self.shape(pair)[1] for pair in self}
        return sizes | {pair[0]: self.shape(pair)[0] for pair in [*self, *self.steps()]}

    def _with_margins(self, pair: Pair, matching: Matching) -> Matching:
        """The matching, with the SAEs to find its margins by where it came from a file or another process."""
        if self.comparison is None or matching.margin_finder is not None or not matching.certified:
            return matching
        return replace(matching, margin_finder=MarginFinder(partial(self._problem, pair), self._solver))

    def _direct_cost(self, source: int, target: int, perm: Tensor) -> Tensor:
        problem = self._problem((source, target))
        return torch.from_numpy(squared_distances(problem.x, problem.y, perm.numpy()))

    def _problem(self, pair: Pair) -> RowProblem:
        source, target = (self.sae(layer, side) for side, layer in zip(Side, pair, strict=True))
        return self.known_comparison().problem(source, target)


def _number(given: Any, what: str = "layer") -> int:
    number = whole_number(given)
    if number is None:
        raise MatchError(f"{what} {given!r:.40} is not a whole number")
    return number
