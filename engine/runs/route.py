"""The route of the paths of a run: which layer follows which, and how many features each layer has."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

from saematch.errors import MatchError
from saematch.runs.plan import Pair
from saematch.runs.results import Results


class Route:
    """The route that paths take through the layers: from each layer to the nearest later one it was matched with.

    Of the several SAEs whose routes lead to one layer, the nearest is on the route back; in a run of sites, it is the
    one of the same site, so that a route leads back through the residual stream.

    Attributes:
        layers: the numbers of the layers that have a matching, in ascending order.
    """

    def __init__(self, results: Results, two_sets: bool) -> None:
        self._results, self._two_sets, self._names = results, two_sets, results.names
        self.layers = sorted({layer for pair in results.pairs for layer in pair})
        self._next: dict[int, int] = {}  # layer -> the layer that follows
        for a, b in [] if two_sets else results.pairs:
            self._next[a] = min(b, self._next.get(a, b))
        self._sites = {number: site.site for number, site in self._names.sites.items()}
        self._previous: dict[int, int] = {}  # layer -> the layer before
        for a, b in sorted(self._next.items(), key=lambda step: (self._is_within_a_site(step), step)):
            self._previous[b] = a

    def steps(self) -> list[Pair]:
        """Return the pairs on the route, in the order of the plan."""
        return [
            pair
            for pair in self._results.pairs
            if self._next.get(pair[0]) == pair[1] and (not self._sites or self._is_within_a_site(pair))
        ]

    def layers_from(self, layer: int) -> list[int]:
        """Return the layers of the route from `layer` on, which is the first of them."""
        layers = [layer]
        while layers[-1] in self._next:
            layers.append(self._next[layers[-1]])
        return layers

    def layers_to(self, layer: int) -> list[int]:
        """Return the layers of the route that lead to `layer`, which is the last of them."""
        layers = [layer]
        while layers[-1] in self._previous:
            layers.append(self._previous[layers[-1]])
        return layers[::-1]

    def pairs_between(self, source: int, target: int) -> list[Pair]:
        """Return the successive pairs that lead from one layer to another. Raises `MatchError` if there are none."""
        for layer in (source, target):
            self._check(layer)
        layers = self.layers_from(source)
        if target not in layers:
            start, end = self._names.title(layers[-1]), self._names.title(target)
            raise MatchError(f"no pair leads from {start} towards {end} in this run")
        return list(pairwise(layers[: layers.index(target) + 1]))

    def features(self, layer: int) -> int:
        """Return the number of features of a layer. Raises `MatchError` if the layer is not on a route."""
        self._check(layer)
        return self._sizes[layer]

    @cached_property
    def _sizes(self) -> dict[int, int]:
        """Layer -> its number of features. If pairs disagree, the step that leaves the layer decides."""
        shapes = {pair: self._results.shape(pair) for pair in self._results.pairs}
        sizes = {pair[1]: shape[1] for pair, shape in shapes.items()}
        sizes |= {pair[0]: shape[0] for pair, shape in shapes.items()}
        return sizes | {pair[0]: shapes[pair][0] for pair in self.steps()}

    def _is_within_a_site(self, pair: Pair) -> bool:
        return self._sites.get(pair[0]) == self._sites.get(pair[1])

    def _check(self, layer: int) -> None:
        if self._two_sets:
            raise MatchError(
                "the pairs of this run lead from one set of SAEs to another, so that no path leads through its layers; "
                "`saematch export` and `saematch report` list the partner of each feature, and chain[pair].perm has it"
            )
        if layer not in self.layers:
            listed = ", ".join(str(self._names.key(layer)) for layer in self.layers)
            layers = f"whose {self._names.several} are {listed}" if self.layers else "which has no matching"
            raise MatchError(f"{self._names.title(layer)} is not in this run, {layers}")
