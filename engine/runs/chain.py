"""The matchings of a run as a chain: paths of features through the layers, and matchings between any two layers.

What imports torch is imported where it is needed: opening a run and following a path take a fraction of a second.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from saematch.errors import MatchError, NoSuchKey
from saematch.matching.files import FeaturePair
from saematch.matching.frames import columns_of, import_pandas
from saematch.matching.scalars import Scalars
from saematch.numeric.numbers import checked_count, whole_number
from saematch.options import Side
from saematch.runs.folder import RunFolder
from saematch.runs.inputs import ChainInputs, read_input
from saematch.runs.labels import checked_labels
from saematch.runs.plan import Pair, as_pair, by_pair
from saematch.runs.records import InputRecord, PairRecord, RunRecord
from saematch.runs.results import PairArrays, Results, RunInMemory
from saematch.runs.route import Route
from saematch.runs.summary import PairSummary, summary_of
from saematch.sources.names import Names
from saematch.text import html_table, listing, well_formed

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from saematch.matching.comparison import Comparing
    from saematch.matching.problem import Problem
    from saematch.matching.result import Matching
    from saematch.matching.solver import Solver
    from saematch.sae.autoencoder import SAE
    from saematch.sources import Layers


class Step(NamedTuple):
    """One step of the path of a feature.

    Attributes:
        layer: the layer that the step leads to; in a run of named SAEs, the name of the SAE.
        feature: the number of the feature in that layer.
        cost: the cost of the pair of features that the step follows; 0.0 at the start of the path.
        label: the label of the feature, if labels are known.
        cosine: the cosine of the decoder rows of the pair; None at the start of the path, or if it is not known.
        margin: how much the cost of the pair may rise before another matching is cheaper; None at the start of the
            path, or if margins were not asked for, or do not exist because the matching is not certified.
    """

    layer: int | str
    feature: int
    cost: float
    label: str | None
    cosine: float | None = None
    margin: float | None = None


class Chain(Mapping[Pair, "Matching"]):
    """The matchings of a run, by (source layer, target layer).

    Paths and compositions lead from each layer to the nearest later layer that it was matched with. Asking for a pair
    that has failed raises `MatchError` with the reason.

    `match_layers` returns a chain, and `Chain.load` opens the chain of a run folder. The constructor makes a chain of
    matchings that were computed one by one.

    Args:
        matchings: (source layer, target layer) -> matching.
        inputs: layer -> SAE. Labels, margins, and the costs of composed matchings need the SAEs.
        comparison: how the features were compared, if it is known.
        against: the layers of a second set of SAEs, if the targets are in one.
        failures: pair -> why the pair has no matching.
        solver: the device, the backend and the precision with which margins are computed.

    Attributes:
        layers: the numbers of the layers that have a matching, in ascending order.
        names: what the SAEs are called: `names.names` has the names of SAEs that are not layers, and `names.key(layer)`
            the name of one. In a run of such SAEs, layers are numbered from 0 in the order of the names. Every method
            that takes a layer takes a name, too, and every mapping by pairs two names.
        of_two_sets: whether the pairs lead from one set of SAEs to another. Such a chain has no paths.

    Examples:
        >>> import saematch as sm
        >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-10"))
        >>> chain.layers, list(chain), chain.complete
        ([8, 9, 10], [(8, 9), (9, 10)], True)
        >>> print(round(chain[8, 9].cost), chain[8, 9].status)
        15821 optimal

        A chain of your own matchings:

        >>> saes = {layer: sm.load(f"sample?layer={layer}") for layer in (8, 9, 10)}
        >>> by_decoder = {
        ...     (a, b): sm.match(saes[a], saes[b], parts=["decoder"], fold="decoder_norm") for a, b in [(8, 9), (9, 10)]
        ... }
        >>> sm.Chain(by_decoder, saes).path(8, 384)[1].feature
        455
    """

    def __init__(
        self,
        matchings: Mapping[Pair, Matching] | Results,
        inputs: Mapping[int, SAE] | Mapping[str, SAE] | None = None,
        comparison: Comparing[Any] | None = None,
        against: Mapping[int, SAE] | Mapping[str, SAE] | None = None,
        failures: Mapping[Pair, str] | None = None,
        solver: Solver | None = None,
    ) -> None:
        if not isinstance(matchings, Results):
            matchings = RunInMemory.of(by_pair(matchings), by_pair(failures or {}))
        self.names = matchings.names
        sources, targets = (_as_layers(given, self.names) for given in (inputs, against))
        self._results = matchings
        self._inputs = ChainInputs(sources, targets, matchings.record, self.names)
        self._comparison, self._solver = comparison, solver
        self.of_two_sets = matchings.two_sets or targets is not None
        self._cache = matchings.new_cache()  # matchings that can find their margins
        self._route = Route(matchings, self.of_two_sets)
        self.layers = self._route.layers

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        inputs: Mapping[int, SAE] | Mapping[str, SAE] | None = None,
        against: Mapping[int, SAE] | Mapping[str, SAE] | None = None,
    ) -> Chain:
        """Open the chain of a run folder. Each matching is read when it is asked for.

        Args:
            run: the run folder: a path or a URL.
            inputs: the SAEs of the run. By default they are located where the run found them, when they are needed:
                for labels, margins, and the costs of composed matchings.
            against: the second set of SAEs, for a run of two sets, located in the same way.

        Raises:
            MatchError: if the folder has no run, or a record of the run is damaged.

        Examples:
            >>> import saematch as sm
            >>> _ = sm.match_layers(sm.load_layers("sample?layer=8-10"), "run")
            >>> chain = sm.Chain.load("run")
            >>> chain.layers, chain.complete, chain.folder
            ([8, 9, 10], True, 'run')
        """
        return cls(RunFolder.open(run), inputs, None, against)

    def __repr__(self) -> str:
        matched = f"{len(self)} of {len(self.planned)} pairs of {len(self.layers)} {self.names.several} matched"
        folder = "" if self.folder is None else f", folder={self.folder!r}"
        return f"Chain({matched}, certified={self.certified}{folder})"

    def _repr_html_(self) -> str:
        rows = summary_of(self, recorded=True)
        columns = [name for name in PairSummary._fields if any(getattr(row, name) is not None for row in rows)]
        values = [[getattr(row, name) for name in columns] for row in rows]
        cells = [[f"{value:,.4g}" if isinstance(value, float) else value for value in line] for line in values]
        return html_table(repr(self), columns, cells)

    def __getitem__(self, pair: Pair | tuple[str, str]) -> Matching:
        given, pair = pair, self._pair(pair)
        matching = self._cache.get(pair)
        if matching is None:
            if pair in self.failures:
                raise MatchError(f"{self.names.titles(pair)} have no matching: {self.failures[pair]}")
            if pair not in self:
                raise self._no_such_pair(given)
            matching = self._cache[pair] = self._with_margins(pair, self._results.matching(pair))
        return matching

    def __contains__(self, pair: object) -> bool:
        known = as_pair(pair) or self.names.pair(pair)
        return known is not None and self._results.has_matching(known)

    def _pair(self, given: Any) -> Pair:
        pair = as_pair(given) or self.names.pair(given)
        if pair is None:
            raise self._no_such_pair(given)
        return pair

    def _no_such_pair(self, given: Any) -> NoSuchKey:
        there = listing(str(self.names.keys(pair)) for pair in self) or "none"
        return NoSuchKey(f"there is no matching of {given!r:.60}; the pairs are {there}, and `compose` joins pairs")

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
        """All pairs that the run is to match, including pairs that have failed or are not finished."""
        return self._results.planned

    @property
    def failures(self) -> Mapping[Pair, str]:
        """Pair -> why the pair has no matching."""
        return self._results.failures

    @property
    def complete(self) -> bool:
        """Whether every pair of the run has a matching; False for a run without pairs."""
        return self._results.complete

    @property
    def certified(self) -> bool:
        """Whether every matching is certified; False if there is no matching."""
        return self._results.certified

    @property
    def record(self) -> RunRecord:
        """The content of `run.json`; empty for a chain in memory."""
        return self._results.record

    def options(self) -> dict[str, Any]:
        """Return the options of `match_layers` that say how features were compared, such as `parts` and `max_cost`.

        Raises:
            MatchError: if they are not known, because the chain was made of matchings.
        """
        return self.known_comparison().options()

    def inputs(self, side: Side = Side.SOURCE) -> Layers:
        """Return the SAEs of the source layers or of the target layers; for a run of one set, of all layers.

        Raises:
            MatchError: if they cannot be located.
        """
        return self._inputs.layers(side)

    @cached_property
    def comparison(self) -> Comparing[Any] | None:
        """How the features were compared; None if it is not known.

        Raises:
            MatchError: if they were compared by activations that are no longer there.
        """
        if self._comparison is not None or not self.record:
            return self._comparison
        options = self.record["options"]
        metric = options.get("metric", "squared_distance")
        if "activations" in options:
            from saematch.matching.by_activity import ActivityComparison

            layers = [layer for pair in self.planned for layer in pair]
            return ActivityComparison.from_record({**options}, layers)
        from saematch.matching.comparison import Comparison

        return Comparison.checked(options["parts"], options["weights"], options["fold"], options["max_cost"], metric)

    def known_comparison(self) -> Comparing[Any]:
        """Return `comparison`. Raises `MatchError` if it is not known, because the chain was made of matchings."""
        if self.comparison is None:
            raise MatchError("this chain was made of matchings, and how their features were compared is not known")
        return self.comparison

    def scalars(self) -> dict[Pair, Scalars]:
        """Return pair -> the numbers of the matching, by name. In a run folder, no matching is read for this.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-9"))
            >>> chain.scalars()[8, 9]["status"]
            'optimal'
        """
        return {pair: self._results.scalars(pair) for pair in self}

    def arrays(self, pair: Pair, *, recorded: bool = False) -> PairArrays:
        """Return partner, cost and cosine of each source feature of a pair, as arrays and without importing torch.

        Cosines that the run has not recorded are computed from the SAEs, if these can be read and unless `recorded` is
        true.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-9"))
            >>> perm, cost, cosine = chain.arrays((8, 9))
            >>> print(perm[384], f"{cosine[384]:.3f}")
            455 0.967
        """
        pair = self._pair(pair)
        arrays = self._results.arrays(pair)
        if recorded or arrays.cosine is not None:
            return arrays
        try:
            a, b = (self.sae(layer, side) for side, layer in zip(Side, pair, strict=True))
        except MatchError:
            return arrays
        if self.shape(pair) != (a.F, b.F):
            return arrays
        from saematch.numeric.cosines import row_cosines
        from saematch.sae.features import folded_rows

        x, y = (folded_rows(sae, ["decoder"], fold="none") for sae in (a, b))
        return arrays._replace(cosine=row_cosines(x, y, arrays.perm))

    def to_pandas(self) -> DataFrame:
        """Return the run as a pandas `DataFrame` with one row for each pair of layers and source feature.

        The columns are `source` and `target` (numbers of layers, or names), `feature`, `partner`, `cost`, `cosine`,
        `label` and `partner_label`. What is not known, such as the partner of an unmatched feature, is missing.

        Raises:
            MatchError: if pandas is not installed.
        """
        pandas = import_pandas()
        frames = []
        for pair in self:
            columns = columns_of(*self.arrays(pair))
            source, target = self.names.keys(pair)
            frame = pandas.DataFrame({"source": source, "target": target, **columns})
            partner_side = Side.TARGET if self.of_two_sets else Side.SOURCE
            frame["label"] = frame["feature"].map(self.labels(pair[0]))
            frame["partner_label"] = frame["partner"].map(self.labels(pair[1], partner_side))
            frames.append(frame.astype({"partner": "Int64"}))
        return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()

    def shape(self, pair: Pair) -> tuple[int, int]:
        """Return the numbers of features of the source and of the target, (F_A, F_B), without reading a matching."""
        return self._results.shape(self._pair(pair))

    def pair_record(self, pair: Pair) -> PairRecord:
        """Return the record of a pair: its inputs, numbers and seconds; empty for a chain in memory."""
        return self._results.pair_record(self._pair(pair))

    def input_record(self, layer: int | str, side: Side = Side.SOURCE) -> InputRecord | None:
        """Return the record of the SAE of a layer; None for a chain in memory."""
        return self._results.input(self.names.number(layer), side)

    def steps(self) -> list[Pair]:
        """Return the pairs that paths follow: from each layer to the nearest later layer that it was matched with.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-10"), pairs="all")
            >>> list(chain), chain.steps()
            ([(8, 9), (8, 10), (9, 10)], [(8, 9), (9, 10)])
        """
        return self._route.steps()

    def layers_from(self, layer: int | str) -> list[int]:
        """Return the layers of the paths that start at `layer`, beginning with `layer` itself."""
        return self._route.layers_from(self.names.number(layer))

    def compose(self, source: int | str, target: int | str) -> Matching:
        """Compose the matchings between two layers into one matching from `source` to `target`.

        A composed matching is not optimal in general, so that its status is "unproved" (or "many_to_one");
        `saematch.certify` computes how far it is from the optimum. Its `pair_cost` is the folded cost between the two
        layers themselves, and is computed from the SAEs when it is first read. If `source` is after `target`, the
        result is the inverse of the composed matching. For two layers that were matched, it is their own matching.

        Raises:
            MatchError: if the chain does not lead from one layer to the other, or, when `pair_cost` is read, if the
                SAEs cannot be located or have changed.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-10"))
            >>> composed = chain.compose(8, 10)
            >>> composed.perm[384], composed.status
            (tensor(948), 'unproved')
            >>> exact = sm.match(chain.sae(8), chain.sae(10))
            >>> bool(composed.cost > exact.cost)
            True
        """
        from saematch.runs.composed import compose, identity

        source, target = self.names.number(source), self.names.number(target)
        if source > target:
            return self.compose(target, source).inverse()
        pairs = self._route.pairs_between(source, target)
        if len(pairs) == 1:
            return self[pairs[0]]
        if not pairs:
            return identity(self._route.features(source))
        return compose((self[pair] for pair in pairs), partial(self._direct_cost, source, target))

    def path(
        self,
        layer: int | str,
        feature: int,
        *,
        margins: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Step]:
        """Follow a feature through the layers in both directions, as far as it has a partner.

        Args:
            layer: the layer of the feature.
            feature: the number of the feature in that layer.
            margins: whether to compute the margin of each step, which takes some passes over all pairs of features, and
                the SAEs of the run.
            progress: called with the number of margins that are computed, and that of all, before each of them.

        Returns:
            The steps, from the first layer to the last. Where a baseline has matched several features with one, the
            cheapest pair leads back.

        Raises:
            MatchError: if the layer or the feature does not exist, or the chain is of two sets of SAEs.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-10"))
            >>> for step in chain.path(9, 455):
            ...     print(step.layer, step.feature, round(step.cost, 3), step.label)
            8 384 0.0 Kn, Ex, Module, Dist, Gn
            9 455 0.837 Module, Syn, Ex, Dist, Gn
            10 948 1.001 De, Dist, Module, Ex, Syn
            >>> step = chain.path(8, 384, margins=True)[1]
            >>> print(f"cosine {step.cosine:.3f}, margin {step.margin:.2f}")
            cosine 0.967, margin 18.41
        """
        layer = self.names.number(layer)
        size = self._route.features(layer)
        wrong = f"feature {feature!r:.40} is not in {self.names.title(layer)}, whose features are 0 to {size - 1}"
        feature = checked_count(feature, 0, wrong, size - 1)
        steps: list[tuple[Pair, FeaturePair]] = []
        first = feature
        for pair in reversed(list(pairwise(self._route.layers_to(layer)))):
            step = self._follow(pair, first, back=True)
            if step.source < 0:
                break
            steps.insert(0, (pair, step))
            first = step.source
        for pair in pairwise(self._route.layers_from(layer)):
            step = self._follow(pair, feature)
            if step.target < 0:
                break
            steps.append((pair, step))
            feature = step.target
        start = steps[0][0][0] if steps else layer
        path = [Step(self.names.key(start), first, 0.0, self.label(start, first))]
        for (_, to), step in steps:
            label = self.label(to, step.target)
            path.append(Step(self.names.key(to), step.target, step.cost, label, step.cosine))
        for number, (pair, step) in enumerate(steps if margins else ()):
            if progress is not None:
                progress(number, len(steps))
            path[number + 1] = path[number + 1]._replace(margin=self._margin(pair, step.source))
        return path

    def _follow(self, pair: Pair, feature: int, back: bool = False) -> FeaturePair:
        """Return the pair of a source feature or, with `back`, of a target feature."""
        if feature >= self._results.shape(pair)[back]:
            title = self.names.title(pair[back])
            raise MatchError(f"the pairs of this run do not fit: {title} has no feature {feature}")
        return self._results.follow_back(pair, feature) if back else self._results.follow(pair, feature)

    def _margin(self, pair: Pair, feature: int) -> float | None:
        matching = self[pair]
        return float(matching.margins().exact([feature])[0]) if matching.certified else None

    def sae(self, layer: int | str, side: Side = Side.SOURCE) -> SAE:
        """Read the SAE of a layer.

        Args:
            layer: the number of the layer.
            side: for a chain of two sets of SAEs, `Side.SOURCE` or `Side.TARGET` (`saematch.options`).

        Raises:
            MatchError: if the SAE cannot be located, or has changed since the run.
        """
        layer = self.names.number(layer)
        return self._inputs.handle(layer, side, self._results.input(layer, side)).read()

    def hashes(self, layer: int | str) -> dict[str, str]:
        """Return the hashes of the SAE of a source layer, from the records of the run if there are any."""
        layer = self.names.number(layer)
        record = self._results.input(layer, Side.SOURCE) or read_input(self.inputs().handles[layer])[1]
        return dict(record["sha256"])

    def label(self, layer: int | str, feature: int, side: Side = Side.SOURCE) -> str | None:
        """Return the label of a feature; None if it has none, see `labels`."""
        label = self._labels(layer, side).get(_feature(feature))
        return None if label is None else well_formed(label)

    def labels(self, layer: int | str, side: Side = Side.SOURCE) -> dict[int, str]:
        """Return feature -> label for a layer: those of `labelled`, or those in `labels.json` next to its SAE.

        Args:
            layer: the number of the layer.
            side: for a chain of two sets of SAEs, `Side.SOURCE` or `Side.TARGET` (`saematch.options`).
        """
        return {feature: well_formed(text) for feature, text in self._labels(layer, side).items()}

    def labelled(
        self, labels: Mapping[int, Mapping[int, str]] | Mapping[str, Mapping[int, str]], side: Side = Side.SOURCE
    ) -> Chain:
        """Return the same chain with other labels, which paths, exported tables and pages then show.

        Args:
            labels: layer -> feature -> label, for example from `saematch.evaluation.read_explanations`. They replace
                all labels of these SAEs.
            side: for a chain of two sets of SAEs, the set whose features are labelled (`saematch.options.Side`).

        Raises:
            MatchError: if these are not labels, or not for the features of the run.

        Examples:
            >>> import saematch as sm
            >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-9"))
            >>> chain.labelled({8: {384: "lists of abbreviations"}}).path(8, 384)[0].label
            'lists of abbreviations'
        """
        if side == Side.TARGET and not self.of_two_sets:
            raise MatchError("labels of a second set of SAEs were given, and this run has only one set")
        labelled = copy.copy(self)
        labelled._inputs = self._inputs.labelled(checked_labels(labels, self, side), side)
        return labelled

    def _labels(self, layer: int | str, side: Side) -> Mapping[int, str]:
        layer = self.names.number(layer)
        return self._inputs.labels(layer, side, self._results.input(layer, side))

    def _with_margins(self, pair: Pair, matching: Matching) -> Matching:
        """Give a matching that comes from a file or another process what it needs to find its margins."""
        unknown = self._comparison is None and not self.record
        if unknown or matching.margin_finder is not None or not matching.certified:
            return matching
        from saematch.matching.margins import MarginFinder
        from saematch.matching.solver import Solver

        made = self._solver or Solver()
        solver = Solver(device=made.device, backend=made.backend, precision=made.precision)
        return replace(matching, margin_finder=MarginFinder(partial(self._problem, pair), solver))

    def _direct_cost(self, source: int, target: int, perm: Tensor) -> Tensor:
        import torch

        problem = self._problem((source, target))
        return torch.from_numpy(problem.pair_cost(perm.numpy()))

    def _problem(self, pair: Pair) -> Problem:
        comparison = self.known_comparison()
        a, b = (self.sae(layer, side) for side, layer in zip(Side, pair, strict=True))
        comparison.check(a, b)
        x, y = (comparison.features(sae, side, layer) for sae, side, layer in zip((a, b), Side, pair, strict=True))
        return comparison.problem_of(x, y)


def _as_layers(given: Mapping[int, SAE] | Mapping[str, SAE] | None, names: Names) -> Layers | None:
    if given is None:
        return None
    from saematch.sources import as_layers, as_sites

    return (as_sites if names.sites else as_layers)(given).numbered_by(names.names)


def _feature(given: Any) -> int:
    number = whole_number(given)
    if number is None:
        raise MatchError(f"feature {given!r:.40} is not a whole number")
    return number
