"""Matchings of neighbouring layers put together: any layer to any other, and one feature through all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.matching.files import SCALARS, scalars
from saematch.matching.margins import MarginFinder
from saematch.matching.problem import Comparison, RowProblem
from saematch.matching.result import Matching
from saematch.matching.solver import Solver
from saematch.numeric.numbers import checked_count, whole_number
from saematch.runs.composed import ComposedMatching
from saematch.runs.folder import RunFolder
from saematch.runs.inputs import is_unchanged, read_input
from saematch.runs.plan import Pair, as_pair, by_pair
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, SourceLike, as_layers, load_layers
from saematch.storage.folders import well_formed


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
        folder: the run folder they live in, or None.
        comparison: how features are compared; None for a chain that was put together from matchings.
        of_two_sets: whether its pairs lead from one set of SAEs to another.
        failures: pair -> why it has no matching.
    """

    def __init__(
        self,
        matchings: Mapping[Pair, Matching],
        inputs: Mapping[int, SAE] | None = None,
        comparison: Comparison | None = None,
        against: Mapping[int, SAE] | None = None,
        failures: Mapping[Pair, str] | None = None,
        solver: Solver | None = None,
    ) -> None:
        self._run = matchings if isinstance(matchings, RunFolder) else None
        self._matchings = matchings if self._run is not None else by_pair(matchings)
        sources, targets = (None if one is None else as_layers(one) for one in (inputs, against))
        self._inputs: list[Layers | MatchError | None] = [sources, sources if targets is None else targets]
        self._found: tuple[SourceLike | None, SourceLike | None] = (None, None)  # where a run found them
        self.comparison = comparison
        made = solver or Solver()
        self._solver = Solver(memory=made.memory, device=made.device, backend=made.backend, precision=made.precision)
        self.of_two_sets = against is not None or (self._run is not None and self._run.record["against"] is not None)
        self.failures = by_pair(failures or {}) if self._run is None else self._run.failures
        # Those of a folder are read again once nobody holds them.
        self._held: MutableMapping[Pair, Matching] = {} if self._run is None else WeakValueDictionary()
        self._next: dict[int, int] = {}
        for a, b in [] if self.of_two_sets else self._matchings:
            self._next[a] = min(b, self._next.get(a, b))
        self.layers = sorted({layer for pair in self._matchings for layer in pair})
        self.folder = None if self._run is None else str(self._run.folder)

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
        try:
            options = folder.record["options"]
            checked = Comparison.checked(options["parts"], options["weights"], options["fold"], options["max_cost"])
        except (KeyError, TypeError) as error:
            raise MatchError(f"{run}: run.json does not say how the run was made") from error
        chain = cls(folder, inputs, checked, against)
        chain._found = folder.record["source"], folder.record["against"] or folder.record["source"]
        return chain

    def __getitem__(self, pair: Pair) -> Matching:
        pair = as_pair(pair) or pair
        if pair in self.failures:
            raise MatchError(f"layers {pair[0]} and {pair[1]} have no matching: {self.failures[pair]}")
        matching = self._held.get(pair)
        if matching is None:
            matching = self._held[pair] = self._with_margins(pair, self._matchings[pair])
        return matching

    def __contains__(self, pair: object) -> bool:
        return as_pair(pair) in self._matchings

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._matchings)

    def __len__(self) -> int:
        return len(self._matchings)

    def scalars(self) -> dict[Pair, dict[str, Any]]:
        """The numbers of every matching, by name; of a run folder, without reading a matching."""
        if self._run is None:
            return {pair: scalars(matching) for pair, matching in self.items()}
        return {pair: {name: self._run.records[pair][name] for name in SCALARS} for pair in self}

    @property
    def certified(self) -> bool:
        """Whether every matching is certified; False where there is none."""
        if self._run is not None:
            return self._run.certified
        return len(self) > 0 and all(matching.certified for matching in self.values())

    @property
    def options(self) -> dict[str, Any]:
        """Parts, weights, fold and max_cost of the run. Raises `MatchError` for a chain that was put together."""
        if self.comparison is None:
            raise MatchError("this chain was put together from matchings: how they were made is not known")
        return self.comparison.record()

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`; empty for a chain in memory."""
        return {} if self._run is None else self._run.record

    def pair_record(self, pair: Pair) -> dict[str, Any]:
        """What the run wrote down of a pair: inputs, numbers, seconds; empty for a chain in memory."""
        return {} if self._run is None else self._run.records[as_pair(pair) or pair]

    @property
    def inputs(self) -> Layers:
        """The SAEs of the sources, of all layers in a run of one set. Raises `MatchError` if they are gone."""
        return self._saes(0)

    @property
    def complete(self) -> bool:
        """Whether every pair of the run has its matching; False where there is none."""
        return len(self) > 0 and not self.failures if self._run is None else self._run.complete

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

    def way_from(self, layer: int) -> list[int]:
        """The layers that a path from `layer` goes through, itself the first."""
        way = [_number(layer)]
        while way[-1] in self._next:
            way.append(self._next[way[-1]])
        return way

    def sae(self, layer: int, side: int = 0) -> SAE:
        """The SAE of a layer, of the sources (side 0) or another set of targets (1), read again.

        Raises `MatchError` if it is gone or has changed since the run.
        """
        layer, layers = _number(layer), self._saes(side)
        if layer not in layers:
            raise MatchError(f"the SAE of layer {layer}, which this needs, is not where it was; pass inputs=")
        record = None if self._run is None else self._run.input(layer, side)
        if record is not None and not is_unchanged(layers.handles[layer], record):
            raise MatchError(f"{record['path'] or 'SAE'}: the SAE of layer {layer} has changed since the run")
        return layers[layer]

    def hashes(self, layer: int) -> dict[str, str]:
        """What the SAE of a layer is known by: as the run recorded it, else found by reading it."""
        layer = _number(layer)
        record = None if self._run is None else self._run.input(layer)
        return dict((read_input(self.inputs.handles[layer])[1] if record is None else record)["sha256"])

    def label(self, layer: int, feature: int) -> str | None:
        """What the feature fires on, if labels lie beside its SAE."""
        label = self._labels(_number(layer)).get(_number(feature, "feature"))
        return None if label is None else well_formed(label)

    def labels(self, layer: int) -> dict[int, str]:
        """What the features of a source layer fire on; empty where no labels lie beside its SAE."""
        return {feature: well_formed(text) for feature, text in self._labels(_number(layer)).items()}

    def _labels(self, layer: int) -> Mapping[int, str]:
        if self._inputs[0] is None and "://" in str(self._found[0]):
            return {}  # labels are no reason to ask the network
        try:
            layers = self._saes(0)
        except MatchError:
            return {}
        return layers.handles[layer].labels if layer in layers else {}

    def _saes(self, side: int) -> Layers:
        """Those that were given, else where the run found them, looked for when they are needed."""
        given, found = self._inputs[side], self._found[side]
        if given is None:
            if found is None:
                raise MatchError("the SAEs of this chain are not known, and this needs them; pass inputs=")
            try:
                given = self._inputs[side] = load_layers(found)
            except MatchError as error:
                gone = "the SAEs of the run, which this needs, are not where they were; pass inputs="
                given = self._inputs[side] = MatchError(f"{gone} ({error})")  # they are looked for once
        if isinstance(given, MatchError):
            raise given
        return given

    def _follow(self, pair: Pair, feature: int) -> tuple[int, float]:
        """The target of a feature, and the cost of the step."""
        if feature >= self._features(pair[0]):
            raise MatchError(f"the pairs of this run do not fit: layer {pair[0]} has no feature {feature}")
        if self._run is not None:
            return self._run.follow(pair, feature)
        return int(self[pair].perm[feature]), float(self[pair].pair_cost[feature])

    def _pairs_between(self, source: int, target: int) -> list[Pair]:
        self._features(source), self._features(target)
        pairs, layer = [], source
        while layer != target:
            if layer not in self._next:
                raise MatchError(f"no pair leads from layer {layer} towards layer {target} in this run")
            pairs.append((layer, self._next[layer]))
            layer = self._next[layer]
        return pairs

    def _features(self, layer: int) -> int:
        if self.of_two_sets:
            raise MatchError("the pairs of this run lead from one set of SAEs to another: there is no way through them")
        if layer not in self.layers:
            layers = f"whose layers are {', '.join(map(str, self.layers))}" if self.layers else "which has no matching"
            raise MatchError(f"layer {layer} is not in this run, {layers}")
        if self._run is not None:
            record = self._run.input(layer)
            assert record is not None, "a layer of the run is a layer of one of its pairs"
            return int(record["F"])
        if layer in self._next:
            return len(self[layer, self._next[layer]].perm)
        return next(matching.target_features for pair, matching in self.items() if pair[1] == layer)

    def _with_margins(self, pair: Pair, matching: Matching) -> Matching:
        """The matching, with the SAEs to find its margins by where it came from a file or another process."""
        if self.comparison is None or matching.margin_finder is not None or not matching.certified:
            return matching
        return replace(matching, margin_finder=MarginFinder(partial(self._problem, pair), self._solver))

    def _direct_cost(self, source: int, target: int, perm: Tensor) -> Tensor:
        problem = self._problem((source, target))
        return torch.from_numpy(squared_distances(problem.x, problem.y, perm.numpy()))

    def _problem(self, pair: Pair) -> RowProblem:
        assert self.comparison is not None
        return self.comparison.problem(self.sae(pair[0]), self.sae(pair[1], 1))


def _number(given: Any, what: str = "layer") -> int:
    number = whole_number(given)
    if number is None:
        raise MatchError(f"{what} {given!r:.40} is not a whole number")
    return number
