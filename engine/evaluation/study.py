"""The steps of an evaluation: each measures one thing, keeps its results in a folder, and adds rows to the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import torch

import saematch
from saematch.activations.layers import EncodedLayers
from saematch.activations.selection import TokenSelection
from saematch.activations.stored import ActivationSource
from saematch.analysis.tables import Ledger, Row, Schema, Table, fingerprint
from saematch.evaluation import ablation, coactivity, codes, held_out, loss, meaning, substitution, weights
from saematch.evaluation.ablation import ABLATED
from saematch.evaluation.causes import Causes, causes_left_out
from saematch.evaluation.meaning import Grade, Judge, PairOfFeatures
from saematch.evaluation.methods import (
    ABOUT,
    EVALUATED,
    RANDOM,
    MethodPermutation,
    baselines_of,
    permutations_of,
    run_baselines,
)
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.plan import Plan
from saematch.evaluation.schedule import Measurement, Schedule
from saematch.evaluation.scope import common_fold, far_pairs, labels_of, steps_of
from saematch.options import Side
from saematch.runs.api import match_layers
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair, pair_name
from saematch.runs.records import Progress
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import as_json

FAR_RUN = "far"  # the folder of the run of far pairs
SCHEMAS = (
    *weights.WEIGHT_SCHEMAS,
    codes.VARIANCE,
    coactivity.SCORES,
    held_out.HELD_OUT,
    held_out.RARE,
    loss.LOSS,
    substitution.SUBSTITUTION,
    substitution.AREA,
    ablation.ABLATION,
    ablation.ABLATED_FEATURES,
    meaning.JUDGEMENTS,
    meaning.MEANING,
    meaning.AGREEMENT,
)


class Study:
    """An evaluation in progress.

    Attributes:
        folder: the folder of the tables.
        fold: the fold of the weights that all methods are compared on.
        not_measured: what was not measured -> the reason.

    Raises:
        MatchError: if the run cannot be evaluated.
    """

    def __init__(
        self, chain: Chain, folder: LocalFolder, progress: Callable[[Measurement], None] | None, device: torch.device
    ) -> None:
        self._chain, self._progress, self._device = chain, progress, device
        self.folder = folder
        self._pairs = steps_of(chain)
        self._layers = sorted({layer for pair in self._pairs for layer in pair})
        self._sae = lru_cache(2)(chain.sae)  # neighbouring pairs share a layer
        self.fold = common_fold(chain, self._sae)
        self._folded = lru_cache(2)(lambda layer: weights.Folded.of(self._sae(layer), self.fold))
        self._ledger = Ledger(folder)
        self._rows: dict[str, list[Row]] = {}
        self.not_measured: dict[str, str] = {}
        self._chains: dict[str, Chain] = {EVALUATED: chain}
        self._schedule = Schedule({}, {})

    def plan(self, source: ActivationSource | None, causal_pairs: int, farthest: int | None, has_texts: bool) -> None:
        """Plan the measurements, so that their number and their time are known. For the arguments, see `evaluate`."""
        far, baselines = far_pairs(self._chain, farthest), baselines_of(self._chain, self.fold)
        names = [baseline.name for baseline, _ in baselines]
        plan = Plan(len(self._pairs), len(far), names, source, causal_pairs, has_texts)
        self._schedule = plan.schedule()
        self._notify(plan.cost(), None)

    def check_activations(self, source: ActivationSource) -> None:
        """Raise `MatchError` unless the source has activations for every SAE."""
        for layer in self._layers:
            source.check(layer, self._sae(layer))

    def match_baselines(self) -> None:
        """Match the pairs of the run by every baseline."""
        out = self.folder.path / "runs"
        self._chains = run_baselines(self._chain, self._pairs, self.fold, out, self._baseline_listener)
        for name, chain in self._chains.items():
            self._note_failures(name, chain)

    def measure_weights(self) -> None:
        """Measure errors, cosines, norms, margins and lifetimes."""
        for layer in self._layers:
            self._measure(f"layer-{layer}", self._chain.hashes(layer), partial(self._measure_layer, layer))
        cosines = {}
        for pair in self._pairs:
            self._begin("weights", f"weights of layers {pair[0]} and {pair[1]}")
            a, b = self._folded(pair[0]), self._folded(pair[1])
            permutations = self._permutations(pair)
            measure = partial(weights.measure_pair, pair, a, b, permutations)
            self._measure(f"weights-{pair_name(pair)}", self._inputs(pair, permutations), measure)
            cosines[pair] = weights.decoder_cosines(a, b, permutations[0].perm)
            matching = self._chain[pair]
            if matching.certified:
                measure = partial(weights.measure_margins, pair, matching)
                self._measure(f"margins-{pair_name(pair)}", self._inputs(pair, permutations[:1]), measure)
        self._add(weights.measure_lifetimes(self._chain, cosines))

    def measure_distances(self, farthest: int | None) -> None:
        """Compare composed matchings of far layers with exact ones, which are a run of their own."""
        distances = far_pairs(self._chain, farthest)
        if not distances:
            self.not_measured[weights.DISTANCES.name] = "no two layers are more than one step of the run apart"
            return
        exact = match_layers(
            self._chain.inputs(),
            self.folder.path / "runs" / FAR_RUN,
            pairs=list(distances),
            progress=self._begin("far run", "exact matchings of far layers"),
            **self._chain.options(),
        )
        self._note_failures("far layers", exact)
        for pair in exact:
            self._begin("distance", f"composed and exact matching of layers {pair[0]} and {pair[1]}")
            composed, matching = self._chain.compose(*pair), exact[pair]
            perms = fingerprint([composed.perm.numpy(), matching.perm.numpy()])
            a, b = self._folded(pair[0]), self._folded(pair[1])
            measure = partial(weights.measure_distance, pair, distances[pair], a, b, composed, matching)
            self._measure(f"distance-{pair_name(pair)}", {**self._inputs(pair, []), "perms": perms}, measure)

    def measure_activations(self, source: ActivationSource, outliers: float | None, causal_pairs: int) -> None:
        """Measure explained variance and matching scores, and, with a language model, its loss and causes."""
        self._begin("norms", "norms of all tokens in all layers")
        selection = TokenSelection.of(source, self._layers, outliers)
        tokens = {"source": source.record(), "kept": fingerprint([selection.selected])}
        encoded, measured = EncodedLayers(selection), set[int]()
        codes_of = lru_cache(2)(lambda layer: encoded.codes(self._sae(layer), layer, Side.SOURCE))  # as for `_sae`
        for pair in self._pairs:
            self._begin("codes", f"activations of layers {pair[0]} and {pair[1]}")
            permutations, costs = self._permutations(pair), self._chain[pair].pair_cost.numpy()
            inputs = {**self._inputs(pair, permutations), **tokens}
            a, b = self._sae(pair[0]), self._sae(pair[1])
            measure = partial(codes.measure_codes, selection, pair, a, b, permutations, costs, self._device)
            self._measure(f"codes-{pair_name(pair)}", inputs, measure)
            self._begin("held out", f"layers {pair[0]} and {pair[1]}, matched by half of the documents")
            measure = partial(held_out.measure_held_out, selection, pair, a, b, permutations, codes_of)
            self._measure(f"held-out-{pair_name(pair)}", inputs, measure)
            for layer in pair:
                if layer not in measured:
                    measured.add(layer)
                    measure = partial(held_out.rare_features, selection, layer, codes_of)
                    self._measure(f"rare-{layer}", {"inputs": self._chain.hashes(layer), **tokens}, measure)
            if isinstance(source, LanguageModel):
                self._begin("loss", f"loss with hidden states after layer {pair[1]} replaced")
                name = f"loss-{pair_name(pair)}"
                unfinished = self._ledger.unfinished(name, inputs)
                measure = partial(loss.measure_loss, source, selection, pair, a, b, permutations, costs, unfinished)
                self._measure(name, inputs, measure)
                if causes_left_out(source, causal_pairs) is None:
                    self._measure_causes(selection, pair, inputs, causal_pairs)
        if not isinstance(source, LanguageModel):
            self.not_measured[loss.LOSS.name] = "no language model was given"
        left_out = causes_left_out(source, causal_pairs)
        if left_out is not None:
            self.not_measured["substitution, ablation"] = left_out

    def _measure_causes(
        self, selection: TokenSelection, pair: Pair, inputs: Mapping[str, object], causal_pairs: int
    ) -> None:
        """Measure substitution and ablation of one pair of layers."""
        causes = Causes(selection, pair, self._sae(pair[0]), self._sae(pair[1]), self._chains)
        layers, passes = f"layers {pair[0]} and {pair[1]}", causes.passes
        self._begin("substitution", f"substitution, {layers}: at most {passes} passes over half of the texts")
        if causes.has_pairs:
            with_order = {**inputs, "order": causes.record(), "most": causal_pairs}
            name = f"substitution-{pair_name(pair)}"
            unfinished = self._ledger.unfinished(name, with_order)
            self._measure(name, with_order, partial(causes.substitution, causal_pairs, unfinished))
        else:
            self.not_measured[f"substitution, {layers}"] = "a method has matched no features"
        blocks = f"{causes.blocks} {'block' if causes.blocks == 1 else 'blocks'}"
        self._begin("ablation", f"ablation, {layers}: {ABLATED} features, {blocks} of the model for each")
        if causes.blocks > 0:
            self._measure(f"ablation-{pair_name(pair)}", inputs, partial(causes.ablation, self._permutations(pair)))
        else:
            self.not_measured[f"ablation, {layers}"] = "the first SAE does not read an earlier block"

    def texts(self, explanations: Mapping[int, Mapping[int, str]] | None) -> Mapping[int, Mapping[int, str]]:
        """Return the explanations that were given, or else the labels that are stored next to the SAEs."""
        return labels_of(self._chain) if explanations is None else explanations

    def measure_meaning(
        self,
        explanations: Mapping[int, Mapping[int, str]] | None,
        judge: Judge,
        judged: int,
        human: Mapping[PairOfFeatures, Grade] | None,
    ) -> None:
        """Measure grades of explanations. The results are not kept in the folder: a judge keeps its own answers."""
        texts = self.texts(explanations)
        if not texts:
            self.not_measured["judgements, meaning"] = "there are no explanations, and no labels next to the SAEs"
            return
        for pair in self._pairs:
            self._begin("meaning", f"meaning of features in layers {pair[0]} and {pair[1]}")
            a, b = self._folded(pair[0]), self._folded(pair[1])
            with_errors = [
                (permutation, weights.feature_errors(a, b, permutation.perm))
                for permutation in self._permutations(pair)
                if permutation.method in (EVALUATED, RANDOM) and permutation.seed == 0
            ]
            of_pair = [texts.get(layer, {}) for layer in pair]
            self._add(meaning.measure_meaning(pair, with_errors, of_pair, judge, judged))
        if human is not None:
            self._add(meaning.measure_agreement(self._rows[meaning.JUDGEMENTS.name], human))
        else:
            self.not_measured[meaning.AGREEMENT.name] = "no person's grades were given"

    def write(self) -> dict[str, Table]:
        """Write the tables, and `tables.json`, which defines methods and columns. Return the tables by name."""
        tables = {name: Table(_schema(name), rows) for name, rows in self._rows.items()}
        for table in tables.values():
            table.write(self.folder)
        definitions = {
            name: {"about": table.schema.about, "columns": dict(table.schema.columns)} for name, table in tables.items()
        }
        about = {"version": saematch.__version__, "run": self._chain.folder, "fold": self.fold, "methods": ABOUT}
        self.folder.write("tables.json", as_json({**about, "tables": definitions, "left": self.not_measured}))
        return tables

    def _measure_layer(self, layer: int) -> dict[str, list[Row]]:
        return weights.measure_layer(layer, self._sae(layer))

    def _permutations(self, pair: Pair) -> list[MethodPermutation]:
        return permutations_of(self._chains, pair, self._chain[pair].target_features)

    def _inputs(self, pair: Pair, permutations: list[MethodPermutation]) -> dict[str, object]:
        """Return what measurements of a pair depend on, as JSON: a resumed evaluation measures again if it differs."""
        inputs = [self._chain.hashes(layer) for layer in pair]
        perms = {
            f"{permutation.method} {permutation.seed}": fingerprint([permutation.perm]) for permutation in permutations
        }
        return {"version": saematch.__version__, "fold": self.fold, "inputs": inputs, "perms": perms}

    def _measure(self, name: str, inputs: Mapping[str, object], measure: Callable[[], Mapping[str, list[Row]]]) -> None:
        made = False

        def make() -> Mapping[str, list[Row]]:
            nonlocal made
            made = True
            return measure()

        self._add(self._ledger.measured(name, inputs, make))
        if not made:
            self._schedule.skip()

    def _add(self, rows: Mapping[str, list[Row]]) -> None:
        for name, more in rows.items():
            self._rows.setdefault(name, []).extend(more)

    def _note_failures(self, name: str, chain: Chain) -> None:
        for (a, b), reason in chain.failures.items():
            self.not_measured[f"{name}, layers {a} and {b}"] = reason

    def _begin(self, kind: str, name: str) -> Callable[[Progress], None]:
        """Begin a measurement of a kind in the schedule, and return a listener for the run that it consists of."""
        self._schedule.begin(kind)
        self._notify(name, None)
        return partial(self._notify, name)

    def _baseline_listener(self, method: str) -> Callable[[Progress], None]:
        return self._begin("baseline", f"baseline {method}: {ABOUT[method]}")

    def _notify(self, name: str, run: Progress | None) -> None:
        if self._progress is not None:
            schedule = self._schedule
            if run is not None and run.stage == "start" and run.finished == run.total:
                schedule.skip()  # an earlier call has matched all pairs
            left = schedule.seconds_left()
            self._progress(Measurement(name, schedule.number, schedule.total, left, run))


def _schema(name: str) -> Schema:
    return next(schema for schema in SCHEMAS if schema.name == name)
