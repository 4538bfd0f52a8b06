"""A run turned into evidence: tables of what its matchings are worth, beside baselines, in a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch

import saematch
from saematch.analysis.tables import Ledger, Row, Schema, Table, same
from saematch.errors import MatchError
from saematch.evaluation import codes, meaning, weights
from saematch.evaluation.activations import OUTLIERS, Source, Survey
from saematch.evaluation.explanations import checked_explanations
from saematch.evaluation.loss import LOSS, measure_loss
from saematch.evaluation.meaning import Grade, Judge, PairOfFeatures, TokenOverlap
from saematch.evaluation.methods import ABOUT, MATCHED, RANDOM, Matched, baselines, matchings
from saematch.evaluation.model import LanguageModel
from saematch.matching.result import Matching
from saematch.numeric.numbers import checked_count, checked_number
from saematch.numeric.threads import torch_threads
from saematch.options import FoldName
from saematch.runs.api import match_layers
from saematch.runs.chain import Chain
from saematch.runs.pipeline import Progress
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import as_json

FAR = "far"  # the run of far pairs
SCHEMAS = (*weights.TABLES, codes.VARIANCE, codes.SCORES, LOSS, meaning.JUDGEMENTS, meaning.MEANING, meaning.AGREEMENT)


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        folder: where it is written.
        tables: name -> table, of what could be measured.
        fold: how weights were folded to be compared.
        left: what was not measured, and why.
        unfinished: why something is missing that the same call would add, such as an endpoint that refused.
    """

    folder: str
    tables: dict[str, Table]
    fold: FoldName
    left: dict[str, str] = field(default_factory=dict)
    unfinished: str | None = None


@torch_threads()
def evaluate(
    chain: Chain,
    out: str | os.PathLike[str],
    *,
    activations: Source | None = None,
    explanations: Mapping[int, Mapping[int, str]] | None = None,
    judge: Judge | None = None,
    judged: int = meaning.JUDGED,
    human: Mapping[PairOfFeatures, Grade] | None = None,
    distance: int | None = None,
    outliers: float | None = OUTLIERS,
    device: torch.device | str = "cpu",
    progress: Callable[[str, Progress | None], None] | None = None,
) -> Evaluation:
    """Measure a run, and write a table a measurement to `out`, as CSV and, where pyarrow is installed, Parquet.

    Weights are compared folded as the run folded them, whatever a baseline looked at; a run that folded nothing is
    compared folded by threshold, or by decoder norm where there is none. Baselines and exact matchings of far layers
    are runs of their own in `out`. The same call goes on with an evaluation that was stopped.

    Args:
        chain: a run of one set of SAEs, see `match_layers` and `Chain.load`.
        out: a folder for tables and the runs of the baselines.
        activations: `StoredActivations`, or a `LanguageModel`, whose loss is measured too.
        explanations: layer -> feature -> text, see `read_explanations`; labels that lie beside the SAEs unless given.
        judge: reads explanations; unless given, `TokenOverlap`, a proxy.
        judged: pairs of features that are read for each pair of layers and method.
        human: a person's grades, to compare the judge with.
        distance: how many steps of the run far layers are apart at most, all unless given; 1 leaves them out.
        outliers: tokens whose norm exceeds so many medians of their layer are left out; None leaves out none.
        device: where codes and the language model's hidden states are computed.
        progress: called with what is being done, and with the news of its run where it is one.

    Raises:
        MatchError: for a run that cannot be evaluated, activations that do not fit, or a folder that cannot be written.
    """
    explanations = None if explanations is None else checked_explanations(explanations, chain)
    judged = checked_count(judged, 0, f"judged is {judged!r:.40}; give how many pairs of features are read")
    if distance is not None:
        distance = checked_count(distance, 0, f"distance is {distance!r:.40}; give steps of the run")
    if outliers is not None:
        wrong = f"outliers is {outliers!r:.40}; give medians of the norm, above 0, or None"
        outliers = checked_number(outliers, 0, math.inf, wrong, above=True)
    study = _Study(
        chain, LocalFolder(out), (lambda _, __: None) if progress is None else progress, torch.device(device)
    )
    if activations is not None:
        study.check(activations)
    study.match_baselines()
    study.weights()
    study.distances(distance)
    if activations is not None:
        study.activations(activations, outliers)
    else:
        study.left["explained_variance, matching_score, delta_loss"] = "no activations or language model were given"
    study.meaning(explanations, TokenOverlap() if judge is None else judge, judged, human)
    return study.write(getattr(judge, "trouble", None))


class _Study:
    """One evaluation under way."""

    def __init__(
        self, chain: Chain, folder: LocalFolder, tell: Callable[[str, Progress | None], None], device: torch.device
    ) -> None:
        self._chain, self._folder, self._tell, self._device = chain, folder, tell, device
        self._pairs = _pairs_of(chain)
        self._layers = sorted({layer for pair in self._pairs for layer in pair})
        self._sae = lru_cache(2)(chain.sae)  # neighbouring pairs share a layer
        self._fold = _yardstick(chain, self._sae)
        self._folded = lru_cache(2)(lambda layer: weights.Folded.of(self._sae(layer), self._fold))
        self._ledger = Ledger(folder)
        self._rows: dict[str, list[Row]] = {}
        self.left: dict[str, str] = {}
        self._chains: dict[str, Chain] = {}

    def check(self, source: Source) -> None:
        """Raise `MatchError` unless the source has activations for every SAE."""
        for layer in self._layers:
            source.check(layer, self._sae(layer))

    def match_baselines(self) -> None:
        """The same pairs by other methods, to compare with."""
        self._chains = baselines(self._chain, self._pairs, self._folder.path / "runs", self._listen)
        for name, chain in self._chains.items():
            self._note_failures(name, chain)

    def weights(self) -> None:
        """Errors, cosines, norms, margins, lifetimes."""
        for layer in self._layers:
            self._measure(f"layer-{layer}", self._chain.hashes(layer), partial(self._measure_layer, layer))
        cosines = {}
        for pair in self._pairs:
            self._tell(f"weights of layers {pair[0]} and {pair[1]}", None)
            a, b = self._folded(pair[0]), self._folded(pair[1])
            ways = self._ways(pair)
            measure = partial(weights.measure_pair, pair, a, b, ways)
            self._measure(f"weights-{_name(pair)}", self._mark(pair, ways), measure)
            cosines[pair] = weights.decoder_cosines(a, b, ways[0].perm)
            matching = self._chain[pair]
            if matching.certified:
                measure = partial(weights.measure_margins, pair, matching)
                self._measure(f"margins-{_name(pair)}", self._mark(pair, ways[:1]), measure)
        self._add(weights.measure_lifetimes(self._chain, cosines))

    def distances(self, most: int | None) -> None:
        """Composed against exact matchings of far layers."""
        far = {}
        for start in self._chain.layers:
            for steps, end in enumerate(self._chain.way_from(start)[2:], 2):
                if most is None or steps <= most:
                    far[start, end] = steps
        if not far:
            self.left[weights.DISTANCES.name] = "no two layers are more than one step of the run apart"
            return
        exact = match_layers(
            self._chain.inputs,
            self._folder.path / "runs" / FAR,
            pairs=list(far),
            progress=self._listen("far layers"),
            **self._chain.options,
        )
        self._note_failures("far layers", exact)
        for pair in exact:
            self._tell(f"composed and exact matching of layers {pair[0]} and {pair[1]}", None)
            composed, found = self._chain.compose(*pair), exact[pair]
            of = {**self._mark(pair, []), "perms": same([composed.perm.numpy(), found.perm.numpy()])}
            measure = partial(self._measure_distance, pair, far[pair], composed, found)
            self._measure(f"distance-{_name(pair)}", of, measure)

    def activations(self, source: Source, outliers: float | None) -> None:
        """Explained variance and matching scores, and the loss of a language model."""
        self._tell("norms of all tokens in all layers", None)
        survey = Survey.of(source, self._layers, outliers)
        of = {"source": source.record(), "kept": same([survey.kept])}
        for pair in self._pairs:
            self._tell(f"activations of layers {pair[0]} and {pair[1]}", None)
            ways, costs = self._ways(pair), self._chain[pair].pair_cost.numpy()
            mark = {**self._mark(pair, ways), **of}
            a, b = self._sae(pair[0]), self._sae(pair[1])
            measure = partial(codes.measure_codes, survey, pair, a, b, ways, costs, self._device)
            self._measure(f"codes-{_name(pair)}", mark, measure)
            if isinstance(source, LanguageModel):
                self._tell(f"loss with hidden states after layer {pair[1]} replaced", None)
                measure = partial(measure_loss, source, survey, pair, a, b, ways, costs)
                self._measure(f"loss-{_name(pair)}", mark, measure)
        if not isinstance(source, LanguageModel):
            self.left[LOSS.name] = "no language model was given"

    def meaning(
        self,
        explanations: Mapping[int, Mapping[int, str]] | None,
        judge: Judge,
        judged: int,
        human: Mapping[PairOfFeatures, Grade] | None,
    ) -> None:
        """Grades of explanations. A judge keeps its own answers."""
        explained = _labels(self._chain) if explanations is None else explanations
        if not explained:
            self.left["judgements, meaning"] = "there are no explanations, nor labels beside the SAEs"
            return
        for pair in self._pairs:
            self._tell(f"meaning of features in layers {pair[0]} and {pair[1]}", None)
            a, b = self._folded(pair[0]), self._folded(pair[1])
            ways = [way for way in self._ways(pair) if way.method in (MATCHED, RANDOM) and way.seed == 0]
            with_errors = [(way, weights.feature_errors(a, b, way.perm)) for way in ways]
            texts = [explained.get(layer, {}) for layer in pair]
            self._add(meaning.measure_meaning(pair, with_errors, texts, judge, judged))
        if human is not None:
            self._add(meaning.measure_agreement(self._rows[meaning.JUDGEMENTS.name], human))
        else:
            self.left[meaning.AGREEMENT.name] = "no person's grades were given"

    def write(self, trouble: str | None) -> Evaluation:
        """The tables and `tables.json`, which defines methods and columns."""
        tables = {name: Table(_schema(name), rows) for name, rows in self._rows.items()}
        for table in tables.values():
            table.write(self._folder)
        defined = {
            name: {"about": table.schema.about, "columns": dict(table.schema.columns)} for name, table in tables.items()
        }
        about = {"version": saematch.__version__, "run": self._chain.folder, "fold": self._fold, "methods": ABOUT}
        self._folder.write("tables.json", as_json({**about, "tables": defined, "left": self.left}))
        return Evaluation(str(self._folder), tables, self._fold, self.left, trouble)

    def _measure_layer(self, layer: int) -> dict[str, list[Row]]:
        return weights.measure_layer(layer, self._sae(layer))

    def _measure_distance(self, pair: Pair, steps: int, composed: Matching, exact: Matching) -> dict[str, list[Row]]:
        a, b = self._folded(pair[0]), self._folded(pair[1])
        return weights.measure_distance(pair, steps, a, b, composed, exact)

    def _ways(self, pair: Pair) -> list[Matched]:
        return matchings(self._chains, pair, self._chain[pair].target_features)

    def _mark(self, pair: Pair, ways: list[Matched]) -> dict[str, Any]:
        """What measurements of a pair depend on."""
        inputs = [self._chain.hashes(layer) for layer in pair]
        perms = {f"{way.method} {way.seed}": same([way.perm]) for way in ways}
        return {"version": saematch.__version__, "fold": self._fold, "inputs": inputs, "perms": perms}

    def _measure(self, name: str, of: Any, measure: Callable[[], Mapping[str, list[Row]]]) -> None:
        self._add(self._ledger.measured(name, of, measure))

    def _add(self, rows: Mapping[str, list[Row]]) -> None:
        for name, some in rows.items():
            self._rows.setdefault(name, []).extend(some)

    def _note_failures(self, name: str, chain: Chain) -> None:
        self.left |= {f"{name}, layers {a} and {b}": reason for (a, b), reason in chain.failures.items()}

    def _listen(self, what: str) -> Callable[[Progress], None]:
        return lambda news: self._tell(what, news)


def hooks_of(layers: Layers) -> dict[int, str | None]:
    """Where in the model the SAEs read, as far as their files say it."""
    return {layer: handle.describe().hook for layer, handle in layers.handles.items()}


def _pairs_of(chain: Chain) -> list[Pair]:
    """The steps of the run's paths. Raises `MatchError` for a run that has none."""
    _ = chain.options  # of a chain that was put together they are not known
    pairs = [pair for pair in chain if chain.way_from(pair[0])[1:2] == [pair[1]]]
    if not chain:
        raise MatchError("the run has no finished pair to evaluate")
    if not pairs:
        raise MatchError("a run of two sets of SAEs cannot be evaluated: its pairs are no layers of one model")
    gone = sorted({layer for pair in pairs for layer in pair} - set(chain.inputs))
    if gone:
        raise MatchError(
            f"the SAEs of layers {', '.join(map(str, gone))} are not where they were; say where (inputs=, --inputs)"
        )
    return pairs


def _yardstick(chain: Chain, sae: Callable[[int], SAE]) -> FoldName:
    """The fold that weights are compared under."""
    fold: FoldName = chain.options["fold"]
    if fold != "none":
        return fold
    return "threshold" if all(sae(layer).threshold is not None for layer in chain.layers) else "decoder_norm"


def _labels(chain: Chain) -> dict[int, dict[int, str]]:
    return {layer: labels for layer in chain.layers if (labels := chain.labels(layer))}


def _schema(name: str) -> Schema:
    return next(schema for schema in SCHEMAS if schema.name == name)


def _name(pair: Pair) -> str:
    return f"{pair[0]}-{pair[1]}"
