"""Matching of a whole model: every pair of the plan is matched, and written as soon as it is finished."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, cast

from saematch.activations import check_activity_metric
from saematch.activations.layers import as_layer_codes
from saematch.activations.stored import ActivationSource
from saematch.cost import checked_max_cost
from saematch.errors import MatchError
from saematch.matching.backend import machine, versions
from saematch.matching.by_activity import ActivityComparison, checked_weighing
from saematch.matching.comparison import Comparing, Comparison
from saematch.matching.problem import LARGEST_SQUARE
from saematch.matching.solver import Solver, require_certified
from saematch.options import (
    ActivityMetric,
    BackendName,
    FoldName,
    Method,
    Metric,
    PairsName,
    Part,
    PrecisionName,
    SiteName,
    names,
)
from saematch.runs.chain import Chain
from saematch.runs.folder import RunFolder
from saematch.runs.inputs import is_unchanged
from saematch.runs.locks import check_target, lock_run
from saematch.runs.mapped import in_other_basis
from saematch.runs.plan import Pair, checked_shard, is_flow, plan_pairs, share_of
from saematch.runs.records import Outcome, Progress, RunOptions, RunRecord, naming
from saematch.runs.results import Results, RunInMemory
from saematch.runs.work import Key, Work, check_headers, memory_needed
from saematch.runs.workers import Device, Workers
from saematch.sae.autoencoder import SAE
from saematch.sae.maps import MapLike
from saematch.sources import Names, SourceLike, as_layers, as_sites


def match_layers(
    layers: Mapping[int, SAE] | Mapping[str, SAE] | Mapping[SiteName, Mapping[int, SAE] | SourceLike],
    out: str | os.PathLike[str] | None = None,
    *,
    against: Mapping[int, SAE] | Mapping[str, SAE] | None = None,
    axis: str | None = None,
    pairs: PairsName | str | Iterable[Pair] | Iterable[tuple[str, str]] | None = None,
    metric: Metric | ActivityMetric | None = None,
    activations: ActivationSource | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    weights_share: float | None = None,
    map: MapLike | Mapping[int, MapLike] | Mapping[str, MapLike] | None = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: FoldName | None = None,
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    device: Device | Sequence[Device] = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    strict: bool = False,
    overwrite: bool = False,
    verify_inputs: bool = False,
    shard: tuple[int, int] | None = None,
    executor: Executor | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Chain:
    """Match the layers of a model, by default each layer with the next one.

    With `out`, every pair is written as soon as it is finished. To resume a run that was stopped or killed, call
    `match_layers` again with the same arguments: finished pairs are skipped, and the matchings are byte-identical to
    those of an uninterrupted run, unless there is a time limit. If the SAE of a layer cannot be read or compared, its
    pairs fail: the `failures` of the chain say why, and the next call tries these pairs again.

    Args:
        layers: layer number -> SAE: what `load_layers` returns, or a dictionary. SAEs that are not layers, such as
            checkpoints or seeds, may have names instead of numbers, and are matched in the order of the names. For
            pairs="flow", a mapping of "residual", "attention" and "mlp" to the layers of these sites, each as such a
            dictionary or as a source of `load_layers`.
        out: the run folder: a path, or a URL that fsspec knows. By default the run is kept in memory.
        against: a second set of SAEs, whose layers are the targets, such as SAEs of another seed or width for the same
            activations.
        axis: what the SAEs differ in, such as "step" or "seed": "layer" by default, "SAE" if the SAEs have names, and
            "site" if the names are those of sites.
        pairs: "adjacent" (the default for one set of SAEs), "same" (the same layer of both sets, the default for two),
            "all", or a list of (source layer, target layer), or of two names. "flow" matches the residual stream of
            each layer with its predecessors: the residual stream of the layer before, and the attention and the MLP of
            its own layer, as far as they are given; see `saematch.analysis.flow.find_predecessors`.
        metric: the cost of a pair of features, see `match`: "squared_distance" by default, and "cosine" in a flow.
        activations: for a metric of activations: a folder of hidden states, `layer_<number>.npy` `(tokens, d)`, of the
            same tokens in every layer; or another source of hidden states, such as `saematch.evaluation.LanguageModel`.
            Tokens whose norm in some layer exceeds 10 medians are left out. Or a folder of codes, which
            `saematch encode` writes; for two sets of SAEs, a folder of codes for each.
        weights_share: the share of the weights in the cost, see `match`.
        map: write the sources in the basis of the targets, which are of another model (`against`), see `SAE.mapped`:
            one map for all layers, or layer -> map for those layers alone, or the path of a file for each, with
            `{layer}` in it. Give files, so that `Chain.load` finds the maps again.
        parts: the parts of the SAEs that are compared, see `match`: in a flow, by default, decoders alone.
        weights: part -> weight, see `match`.
        fold: the name of the fold, see `match`.
        max_cost: the cost above which two features are not matched, see `match`.
        method: how to match, see `match`.
        max_rounds: the most passes over all pairs of features, for each pair of layers.
        time_limit: the most seconds for each pair of layers.
        device: one device, or a list of several, each of which gets its own process. With several, a script needs the
            guard `if __name__ == "__main__":`.
        backend: what runs the passes, see `match`.
        precision: the numbers in which passes multiply rows, see `match`.
        strict: raise an error at the first pair that fails or is not proved optimal.
        overwrite: start a new run, even if `out` has one.
        verify_inputs: compare the hashes of the SAEs of finished pairs, even if path, size and time have not changed.
        shard: (i, n): match only part i of n of the pairs, from 1. Calls for other parts may run at the same time, on
            other machines, with the same `out`.
        executor: what runs the pairs instead, one task per pair: "ray", or a `concurrent.futures.Executor`. A worker
            that can reach `out` writes its matching there; other workers send their matchings back.
        progress: a function that is called with each progress event, in the thread of the caller. Without one, a
            warning tells of pairs that have failed.

    Raises:
        MatchError: before the first pair is matched, if an option is wrong, if headers show that SAEs cannot be
            compared, or if `out` cannot be written, has another run, or is being written by another process; in these
            cases `out` is not changed. Also, if `strict`, at the first pair that fails.
        NotCertified: if `strict`, at the first pair that is not proved optimal.

    Examples:
        >>> import saematch as sm
        >>> layers = sm.load_layers("sample?layer=8-10")
        >>> chain = sm.match_layers(layers, "run")
        >>> list(chain), chain.certified
        ([(8, 9), (9, 10)], True)
        >>> chain[8, 9].perm[384]  # the feature of layer 9 that feature 384 of layer 8 is matched with
        tensor(455)

        The same call resumes the run, and finds both pairs finished:

        >>> sm.match_layers(layers, "run").complete
        True

        Only some pairs, compared by their decoder rows alone, in memory:

        >>> sm.match_layers(layers, pairs=[(8, 10)], parts=["decoder"], fold="decoder_norm").layers
        [8, 10]

        SAEs that are not layers have names:

        >>> saes = {"early": layers[8], "late": layers[10]}
        >>> chain = sm.match_layers(saes, axis="step")
        >>> chain["early", "late"].certified
        True
        >>> [(step.layer, step.feature) for step in chain.path("early", 384)]
        [('early', 384), ('late', 948)]

        The sites of layers together; here, SAEs of another layer stand for those of an MLP:

        >>> flow = sm.match_layers({"residual": layers, "mlp": {9: layers[10]}}, pairs="flow")
        >>> [flow.names.keys(pair) for pair in flow]
        [('residual.8', 'residual.9'), ('mlp.9', 'residual.9'), ('residual.9', 'residual.10')]
    """
    if not isinstance(fold, str | None):
        raise MatchError("match_layers takes the name of a fold; to fold by your own scales, call match for each pair")
    # Everything that can be wrong is checked before the folder of the run is touched.
    flow = is_flow(pairs)
    sources = as_sites(layers) if flow else as_layers(cast(Mapping[Any, SAE], layers))
    targets = None if against is None else as_layers(against)
    names = Names.of(sources, targets, axis)
    sources, targets = sources.numbered_by(names.names), targets and targets.numbered_by(names.names)
    workers = Workers.checked(device, executor, backend, precision)
    solver = Solver(
        method=method,
        max_rounds=max_rounds,
        time_limit=time_limit,
        device=workers.devices[0],
        backend=backend,
        precision=precision,
    ).checked()
    maps: dict[str, Any] = {}
    if map is not None:
        sources, maps = in_other_basis(sources, map, targets is not None, metric)
    planned = plan_pairs(sources, targets, pairs, names)
    if shard is not None and (out is None or overwrite):
        raise MatchError("a shard is part of a run folder: give out=, and not overwrite=True")
    share = planned if shard is None else share_of(planned, *checked_shard(shard))
    comparison = comparison_of_run(
        planned,
        targets is not None,
        bool(names.names),
        flow,
        metric=metric,
        activations=activations,
        weights_share=weights_share,
        parts=parts,
        weights=weights,
        fold=fold,
        max_cost=max_cost,
    )
    work = Work(sources, targets, comparison, solver, names, maps)
    check_headers(work, planned)
    # The pairs are matched, in memory or under the lock of the folder.
    call = _Call(workers, strict, (lambda _: None) if progress is None else progress)
    if out is None:
        chain, failures = call.finish(work, share, RunInMemory(planned, names))
    else:
        check_target(out)
        with lock_run(out, shard):
            run = _start_or_resume(work, out, planned, overwrite, verify_inputs)
            if shard is None:
                run.remove_leftovers()
            chain, failures = call.finish(work, share, run)
    if failures and progress is None:
        pair, reason = next(iter(failures.items()))
        shown = names.keys(pair)
        message = f"{len(failures)} of {len(share)} pairs have no matching, see .failures; {shown}: {reason}"
        warnings.warn(message, stacklevel=2)
    return chain


def comparison_of_run(
    planned: Sequence[Pair],
    two_sets: bool,
    named: bool,
    flow: bool,
    *,
    metric: Metric | ActivityMetric | None = None,
    activations: Any = None,
    weights_share: float | None = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: FoldName | None = None,
    max_cost: float | None = None,
) -> Comparing[Any]:
    """Return the comparison of a run, whose SAEs may be `named`, and its pairs a flow, from options of `match_layers`.

    Raises:
        MatchError: for options that are not valid, or not with this metric.
    """
    if metric is None:
        metric = "cosine" if flow else "squared_distance"
    if flow and parts is None and metric not in names(ActivityMetric):
        parts = ["decoder"]
    if activations is None and weights_share is None and metric not in names(ActivityMetric):
        return Comparison.checked(parts, weights, "threshold" if fold is None else fold, max_cost, metric)
    checked = check_activity_metric(metric)
    if activations is None:
        raise MatchError(f"metric {metric!r} needs activations=: a folder of hidden states, or of codes")
    share, compared = checked_weighing(checked, weights_share, parts, weights, fold)
    if named:
        raise MatchError(
            "activations are found by layer numbers, and these SAEs have names instead; compare each pair by itself: "
            "saematch.match(a, b, metric=…, activations=(of_a, of_b))"
        )
    codes = as_layer_codes(activations, [layer for pair in planned for layer in pair], two_sets)
    limit = checked_max_cost(max_cost, LARGEST_SQUARE)
    return ActivityComparison(checked, codes, limit, weights_share=share, weights=compared)


@dataclass(frozen=True)
class _Call:
    """One call of `match_layers`: which workers match the pairs, and how their events are handled."""

    workers: Workers
    strict: bool
    notify: Callable[[Progress], None]

    def finish(self, work: Work, pairs: list[Pair], results: Results) -> tuple[Chain, dict[Pair, str]]:
        """Match the pairs that have no matching yet.

        Returns:
            The chain of the run, and the failures of this call.
        """
        unfinished = [pair for pair in pairs if not results.has_matching(pair)]
        finished = len(pairs) - len(unfinished)
        failures: dict[Pair, str] = {}
        if self.strict:
            self._require_certified(pairs, results)
        number = self.workers.pairs_at_once(work, unfinished)
        peak = memory_needed(work, unfinished, number) * len(self.workers.devices)
        self.notify(Progress("start", len(pairs), finished, peak_bytes=peak, names=work.names))
        with self.workers.events(work, unfinished, number, results) as events:
            for outcome in events:
                event = outcome if isinstance(outcome, Progress) else _taken(outcome, results)
                finished += event.stage == "done"
                self.notify(replace(event, total=len(pairs), finished=finished, names=work.names))
                if event.pair is not None and event.error is not None:
                    failures[event.pair] = event.error
                    if self.strict:
                        raise MatchError(event.error)
                if self.strict and event.matching is not None:
                    require_certified(event.matching)
        return Chain(results, work.sources, work.comparison, work.against, solver=work.solver), failures

    def _require_certified(self, pairs: list[Pair], results: Results) -> None:
        """Raise `NotCertified` if a pair that an earlier call has finished is not proved optimal."""
        for pair in pairs:
            if results.has_matching(pair) and not results.is_certified(pair):
                require_certified(results.matching(pair))


def _taken(outcome: Outcome, results: Results) -> Progress:
    """Add an outcome to the results, and return the event that reports it."""
    results.add(outcome)
    if "failure" in outcome.record:
        return Progress("failed", pair=outcome.pair, error=outcome.record["failure"])
    matching = results.matching(outcome.pair)
    return Progress("done", pair=outcome.pair, matching=matching, seconds=outcome.record["seconds"])


def _start_or_resume(
    work: Work, out: str | os.PathLike[str], planned: list[Pair], overwrite: bool, verify: bool
) -> RunFolder:
    """Start a run in a folder, or resume the run that the folder has.

    Raises:
        MatchError: if the folder has another run, or an SAE has changed since it was matched.
    """
    run = RunFolder.start(out, _record_of(work, planned), overwrite)
    run.forget_damaged()
    checked: set[tuple[Key, str]] = set()  # an SAE that is in several pairs is checked once
    for pair in run.pairs:
        for key, record in zip(work.keys(pair), run.records[pair]["inputs"], strict=True):
            hashes = str(record["sha256"])
            if (key, hashes) in checked:
                continue
            checked.add((key, hashes))
            if key.layer not in work.layers(key.side) or not is_unchanged(work.handle(key), record, verify):
                raise MatchError(
                    f"{out}: the SAE of {work.names.title(key.layer)} ({record['path'] or 'in memory'}) has changed "
                    f"since pair {work.names.pair_name(pair)} was matched, or another SAE was given; choose another "
                    "folder, or overwrite it (overwrite=True)"
                )
    return run


def _record_of(work: Work, planned: list[Pair]) -> RunRecord:
    """Return the record of a run that starts now."""
    names = ("method", "max_rounds", "time_limit", "backend", "precision")
    options = {
        **work.comparison.record(),
        **({"map": work.maps} if work.maps else {}),
        **{name: getattr(work.solver, name) for name in names},
    }
    return {
        "source": work.sources.source,
        "against": None if work.against is None else work.against.source,
        **naming(work.names),
        "pairs": [list(pair) for pair in planned],
        "options": cast(RunOptions, options),
        "versions": versions(),
        "machine": machine(),
    }
