"""A whole model: every pair of the plan, written as it is finished, taken up again where a run was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import cast

from saematch.errors import MatchError
from saematch.matching.backend import machine, versions
from saematch.matching.problem import Comparison
from saematch.matching.solver import Solver, require_certified
from saematch.options import BackendName, FoldName, Method, PairsName, Part, PrecisionName
from saematch.runs.chain import Chain
from saematch.runs.folder import RunFolder, check_target, lock_run
from saematch.runs.inputs import is_unchanged
from saematch.runs.plan import Pair, checked_shard, pair_name, plan_pairs, share_of
from saematch.runs.records import Outcome, Progress, RunOptions, RunRecord
from saematch.runs.results import Results, RunInMemory
from saematch.runs.work import Key, Work, check_headers, memory_needed
from saematch.runs.workers import Device, Workers, share_of_memory
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS
from saematch.sources import as_layers


def match_layers(
    layers: Mapping[int, SAE],
    out: str | os.PathLike[str] | None = None,
    *,
    against: Mapping[int, SAE] | None = None,
    pairs: PairsName | str | Iterable[Pair] | None = None,
    parts: Sequence[Part] = PARTS,
    weights: Mapping[Part, float] | None = None,
    fold: FoldName = "threshold",
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: Device | Sequence[Device] = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "ieee",
    strict: bool = False,
    overwrite: bool = False,
    verify_inputs: bool = False,
    shard: tuple[int, int] | None = None,
    executor: Executor | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Chain:
    """Match the layers of a model, by default each with the next, and write every pair as it is finished.

    A run that was stopped, however that happened, goes on when it is called again in the same way: finished pairs are
    kept, and the matchings are those of an undisturbed run to the last bit, unless there is a time limit. A pair whose
    SAE cannot be read or compared is left out, with the reason in `failures` of what is returned, and tried again by
    the next call. Options that are not named here are those of `saematch.match`; limits are a pair's.

    Args:
        layers: layer number -> SAE, from `load_layers` or a dictionary.
        out: the run folder: a path, or a URL that fsspec knows; None keeps the run in memory.
        against: a second set of SAEs, whose layers are the targets: another seed, width or model of the same space.
        pairs: "adjacent", "all", "same" (the same layer of both sets), or a list of (source, target) layers.
        memory: bytes for the products of one pair; half of what is free is shared out among the pairs in work unless
            given, and a run that goes on keeps to what it began with.
        device: one for all, or several: each gets a process of its own, so that a script needs its
            `if __name__ == "__main__":`.
        overwrite: begin anew, even if `out` holds a run.
        verify_inputs: hash the inputs of finished pairs again, even where path, size and time are the same.
        shard: (i, n), this call does the i-th of n parts, from 1; the calls for the others may run anywhere.
        executor: what runs the pairs instead, one task each: "ray", or anything with the interface of
            `concurrent.futures`. Workers that see `out` write to it.
        progress: called with the news of the run, in the caller's thread.

    Raises:
        MatchError: before the first pair, if headers show layers that cannot be compared, the folder cannot be written,
            another process is writing it, or it holds another run. Then nothing of it is touched.
        NotCertified: under `strict`, at the first pair that is not proved optimal; and `MatchError` at one that failed.
    """
    if not isinstance(fold, str):
        raise MatchError("match_layers folds by name; for scales of your own call match for each pair")
    sources, targets = as_layers(layers), None if against is None else as_layers(against)
    workers = Workers.checked(device, executor, backend, precision)
    comparison = Comparison.checked(parts, weights, fold, max_cost)
    solver = Solver(method, max_rounds, time_limit, memory, workers.devices[0], backend, precision)
    planned = plan_pairs(sources, targets, pairs)
    if shard is not None and (out is None or overwrite):
        raise MatchError("a shard is part of a run folder: give out, and overwrite nothing")
    share = planned if shard is None else share_of(planned, *checked_shard(shard))
    work = Work(sources, targets, comparison, solver)
    check_headers(work, planned)
    adopted = frozenset({"memory"} if solver.memory is None else ())  # a run that resumes keeps the memory it has
    if solver.memory is None:
        work = work.with_memory(share_of_memory(workers.devices, backend, precision))
    call = _Call(workers, strict, (lambda _: None) if progress is None else progress)
    if out is None:
        chain, failures = call.finish(work, share, RunInMemory(planned))
    else:
        check_target(out)
        with lock_run(out, shard):
            run = _start_or_resume(work, out, planned, adopted, overwrite, verify_inputs)
            if shard is None:
                run.remove_leftovers()
            chain, failures = call.finish(work.with_memory(run.record["options"]["memory"]), share, run)
    if failures and progress is None:
        pair, reason = next(iter(failures.items()))
        message = f"{len(failures)} of {len(share)} pairs have no matching, see .failures; {pair}: {reason}"
        warnings.warn(message, stacklevel=2)
    return chain


@dataclass(frozen=True)
class _Call:
    """How one call of `match_layers` works on a run."""

    workers: Workers
    strict: bool
    notify: Callable[[Progress], None]

    def finish(self, work: Work, pairs: list[Pair], results: Results) -> tuple[Chain, dict[Pair, str]]:
        """Match the pairs that have no matching yet. Returns the chain of the run, and the failures of these pairs."""
        unfinished = [pair for pair in pairs if not results.has_matching(pair)]
        finished = len(pairs) - len(unfinished)
        failures: dict[Pair, str] = {}
        if self.strict:
            self._require_certified(pairs, results)
        peak = memory_needed(work, unfinished) * len(self.workers.devices)
        self.notify(Progress("start", len(pairs), finished, peak_bytes=peak))
        with self.workers.events(work, unfinished, results) as events:
            for outcome in events:
                event = outcome if isinstance(outcome, Progress) else _taken(outcome, results)
                finished += event.stage == "done"
                self.notify(replace(event, total=len(pairs), finished=finished))
                if event.pair is not None and event.error is not None:
                    failures[event.pair] = event.error
                    if self.strict:
                        raise MatchError(event.error)
                if self.strict and event.matching is not None:
                    require_certified(event.matching)
        return Chain(results, work.sources, work.comparison, work.against, solver=work.solver), failures

    def _require_certified(self, pairs: list[Pair], results: Results) -> None:
        """Raise `NotCertified` for a pair that was finished before and is not proved optimal."""
        for pair in pairs:
            if results.has_matching(pair) and not results.is_certified(pair):
                require_certified(results.matching(pair))


def _taken(outcome: Outcome, results: Results) -> Progress:
    """Add an outcome to the results. Returns the event that reports it."""
    results.add(outcome)
    if "failure" in outcome.record:
        return Progress("failed", pair=outcome.pair, error=outcome.record["failure"])
    matching = results.matching(outcome.pair)
    return Progress("done", pair=outcome.pair, matching=matching, seconds=outcome.record["seconds"])


def _start_or_resume(
    work: Work, out: str | os.PathLike[str], planned: list[Pair], adopted: frozenset[str], overwrite: bool, verify: bool
) -> RunFolder:
    """The run in a folder, new or as it was left. Raises `MatchError` if an input of a finished pair has changed."""
    limits = ("method", "max_rounds", "time_limit", "backend", "precision", "memory")
    options = {**work.comparison.record(), **{name: getattr(work.solver, name) for name in limits}}
    record: RunRecord = {
        "source": work.sources.source,
        "against": None if work.against is None else work.against.source,
        "pairs": [list(pair) for pair in planned],
        "options": cast(RunOptions, options),
        "versions": versions(),
        "machine": machine(),
    }
    run = RunFolder.start(out, record, overwrite, adopted)
    run.forget_damaged()
    checked: set[tuple[Key, str]] = set()
    for pair in run.pairs:
        for key, recorded in zip(work.keys(pair), run.records[pair]["inputs"], strict=True):
            if (key, str(recorded["sha256"])) in checked:
                continue
            checked.add((key, str(recorded["sha256"])))
            if key.layer not in work.layers(key.side) or not is_unchanged(work.handle(key), recorded, verify):
                raise MatchError(
                    f"{out}: the SAE of layer {key.layer} ({recorded['path'] or 'in memory'}) has changed since pair "
                    f"{pair_name(pair)} was matched; choose another folder, or overwrite it (overwrite=True)"
                )
    return run
