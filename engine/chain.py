"""Matchings of neighbouring layers put together: any layer to any other, and one feature through all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.matching import Matching
from saematch.problem import Comparison
from saematch.run_folder import Pair, RunFolder
from saematch.sae import SAE
from saematch.sources import Layers, load_layers


class Step(NamedTuple):
    """One stop of a feature's path. `cost` is that of the step which led here, 0.0 at the first."""

    layer: int
    feature: int
    cost: float
    label: str | None


class Chain(Mapping[Pair, Matching]):
    """The matchings of a model's neighbouring layers, by (source layer, target layer).

    Attributes:
        layers: the layer numbers, ascending.
        folder: the run folder they live in, or None.
    """

    def __init__(
        self,
        matchings: Mapping[Pair, Matching],
        inputs: Mapping[int, SAE] | None = None,
        comparison: Comparison | None = None,
    ) -> None:
        self._matchings = matchings
        self._inputs = inputs
        self._comparison = comparison
        self._next = dict(matchings.keys())
        self.layers = sorted({layer for pair in matchings for layer in pair})
        self.folder = matchings.path if isinstance(matchings, RunFolder) else None

    @classmethod
    def load(cls, run: str | os.PathLike[str], inputs: Mapping[int, SAE] | None = None) -> Chain:
        """The chain of a run folder.

        `inputs`, the SAEs it was made from, are looked for where the run found them unless they are given; labels and
        the costs of composed matchings need them. Raises `MatchError` if there is no run.
        """
        folder = RunFolder.open(run)
        try:
            source, options = folder.record["inputs"]["source"], folder.record["options"]
            checked = Comparison.checked(options["parts"], options["weights"], options["fold"], options["max_cost"])
        except (KeyError, TypeError) as error:
            raise MatchError(f"{run}: run.json does not say how the run was made") from error
        if inputs is None and isinstance(source, str):
            try:
                inputs = load_layers(source)
            except MatchError:
                inputs = None  # moved or deleted: said when something needs them
        return cls(folder, inputs, checked)

    def __getitem__(self, pair: Pair) -> Matching:
        return self._matchings[pair]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._matchings)

    def __len__(self) -> int:
        return len(self._matchings)

    @property
    def certified(self) -> bool:
        """Whether every pair is."""
        return all(matching.certified for matching in self.values())

    @property
    def complete(self) -> bool:
        """Whether every pair of the run is finished."""
        return not isinstance(self._matchings, RunFolder) or self._matchings.complete

    def compose(self, source: int, target: int) -> Matching:
        """The matching between any two layers that follows from the pairs between them.

        Not optimal as such, hence `"unproved"`: `saematch.certify` says how far from the optimum it is. Its `pair_cost`
        is the direct folded cost between the two layers, computed from the inputs when it is first asked for.
        """
        if source > target:
            return self.compose(target, source).inverse()
        if (source, target) in self:
            return self[source, target]
        pairs = self._pairs_between(source, target)
        if not pairs:
            size = self._features(source)
            itself, nothing = torch.from_numpy(np.arange(size)), torch.from_numpy(np.zeros(size))
            return Matching(itself, nothing, target_features=size)
        perm = self[pairs[0]].perm
        for pair in pairs[1:]:
            perm = torch.where(perm >= 0, self[pair].perm[perm.clamp(min=0)], -1)
        last = self[pairs[-1]]
        return Matching(
            perm, lambda: self._direct_cost(source, target, perm), target_features=last.target_features,
            options=last.options,
        )  # fmt: skip

    def path(self, layer: int, feature: int) -> list[Step]:
        """The feature's counterparts in the layers from `layer` on, up to the last or to the first without one."""
        size = self._features(layer)
        if not isinstance(feature, int) or not 0 <= feature < size:
            raise MatchError(f"feature {feature} is not in layer {layer}, whose features are 0 to {size - 1}")
        steps = [Step(layer, feature, 0.0, self.label(layer, feature))]
        while layer in self._next:
            matching = self[layer, self._next[layer]]
            if feature >= len(matching.perm):
                raise MatchError(f"the pairs of this run do not fit: layer {layer} has no feature {feature}")
            following = int(matching.perm[feature])
            if following < 0:
                break
            cost = float(matching.pair_cost[feature])
            layer, feature = self._next[layer], following
            steps.append(Step(layer, feature, cost, self.label(layer, feature)))
        return steps

    def label(self, layer: int, feature: int) -> str | None:
        """What the feature fires on, if labels lie beside its SAE."""
        if not isinstance(self._inputs, Layers) or layer not in self._inputs:
            return None
        return self._inputs.stored[layer].labels.get(feature)

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
        if layer not in self.layers:
            raise MatchError(f"layer {layer} is not in this run, whose layers are {', '.join(map(str, self.layers))}")
        if layer in self._next:
            return len(self[layer, self._next[layer]].perm)
        return next(matching.target_features for pair, matching in self.items() if pair[1] == layer)

    def _direct_cost(self, source: int, target: int, perm: Tensor) -> Tensor:
        assert self._comparison is not None
        inputs = self._inputs or {}
        for layer in (source, target):
            if layer not in inputs:
                raise MatchError(f"the SAE of layer {layer}, which this cost needs, is not where it was; pass inputs=")
            self._check_unchanged(layer)
        x, y = (self._comparison.rows(inputs[layer]) for layer in (source, target))
        return torch.from_numpy(squared_distances(x, y, perm.numpy()))

    def _check_unchanged(self, layer: int) -> None:
        if isinstance(self._matchings, RunFolder) and isinstance(self._inputs, Layers):
            stored = self._inputs.stored[layer]
            if self._matchings.record["inputs"]["layers"][str(layer)]["sha256"] != stored.sha256():
                raise MatchError(f"{stored.path}: the SAE of layer {layer} has changed since the run")
