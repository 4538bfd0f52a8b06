"""A whole model: every pair of the plan, written as it is finished, taken up again where a run was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from saematch.cost import BLOCK_BYTES
from saematch.errors import MatchError
from saematch.matching.backend import choose_backend, free_memory, machine, versions
from saematch.matching.problem import Comparison, check_widths
from saematch.matching.result import Matching
from saematch.matching.solver import Solver, require_certified
from saematch.options import BackendName, FoldName, Method, PairsName, Part, PrecisionName
from saematch.runs.chain import Chain
from saematch.runs.executors import RayExecutor, check_executor, on_devices, through
from saematch.runs.folder import RunFolder, check_target, lock_run
from saematch.runs.inputs import is_unchanged
from saematch.runs.pipeline import LANES, Outcome, Progress, Work, memory_needed, stream
from saematch.runs.plan import Pair, checked_shard, plan_pairs, share_of
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS
from saematch.sources import as_layers

Device = str | torch.device | None


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
    sources, others = as_layers(layers), None if against is None else as_layers(against)
    check_executor(executor)
    on_gpu = executor is not None and str(device or "").startswith("cuda") and not torch.cuda.is_available()
    if on_gpu and backend == "auto":
        device = None  # the workers have GPUs, this process has none: they find theirs
    devices = [device] if device is None or isinstance(device, str | torch.device) else list(device)
    if not devices or (len(devices) > 1 and executor is not None):
        raise MatchError("give one device or several, and several without an executor")
    comparison = Comparison.checked(parts, weights, fold, max_cost)
    solver = Solver(method, max_rounds, time_limit, memory, devices[0], backend, precision)
    for other in devices[1:]:
        choose_backend(backend, other, precision)
    planned = plan_pairs(sources, others, pairs)
    shard = None if shard is None else checked_shard(shard)
    if shard is not None and (out is None or overwrite):
        raise MatchError("a shard is part of a run folder: give out, and overwrite nothing")
    mine = planned if shard is None else share_of(planned, *shard)
    work = Work(sources, others, comparison, solver)
    check_headers(work, planned)
    memory = share_of_memory(devices, backend, precision) if solver.memory is None else solver.memory
    options = {**comparison.record(), "method": method, "max_rounds": solver.max_rounds}
    options |= {"time_limit": solver.time_limit, "backend": backend, "precision": precision, "memory": memory}
    if out is None:
        work = replace(work, solver=replace(solver, memory=memory))
        return _run(work, mine, None, devices, executor, on_gpu, strict, progress)
    record = {
        "source": sources.source,
        "against": None if others is None else others.source,
        "pairs": [list(pair) for pair in planned],
        "options": options,
        "versions": versions(),
        "machine": machine(),
    }
    check_target(out)
    with lock_run(out, shard):
        run = _taken_up(work, out, record, solver.memory is None, overwrite, verify_inputs)
        if shard is None:
            run.remove_leftovers()
        work = replace(work, solver=replace(solver, memory=run.record["options"]["memory"]))
        return _run(work, mine, run, devices, executor, on_gpu, strict, progress)


def share_of_memory(devices: Sequence[Device], backend: BackendName = "auto", precision: PrecisionName = "ieee") -> int:
    """Bytes for the products of one pair: half of what is free, shared out among the pairs in work."""
    most = min(free_memory(choose_backend(backend, each, precision).device) for each in devices)
    return max(BLOCK_BYTES, most // 2 // (LANES * len(devices)))


def _run(
    work: Work,
    pairs: list[Pair],
    run: RunFolder | None,
    devices: Sequence[Device],
    executor: Executor | str | None,
    on_gpu: bool,
    strict: bool,
    progress: Callable[[Progress], None] | None,
) -> Chain:
    found: dict[Pair, Matching] = {}
    failures: dict[Pair, str] = {}
    todo = [pair for pair in pairs if run is None or pair not in run]
    if run is not None and strict:
        for pair in (pair for pair in pairs if pair in run and not run.records[pair]["certified"]):
            require_certified(run[pair])
    tell = (lambda _: None) if progress is None else progress
    so_far = Progress("start", len(pairs), len(pairs) - len(todo), bytes=memory_needed(work, todo) * len(devices))
    tell(so_far)
    with _runner(work, todo, run, devices, executor, on_gpu) as events:
        for told in events:
            if isinstance(told, Progress):
                tell(replace(told, of=so_far.of, finished=so_far.finished))
                continue
            pair, error = told.pair, told.record.get("failure")
            if run is not None:
                run.add(told)
            if error is not None:
                failures[pair] = error
                tell(replace(so_far, stage="failed", pair=pair, error=error, bytes=0))
                if strict:
                    raise MatchError(error)
                continue
            matching = run[pair] if run is not None else told.matching
            assert matching is not None
            found |= {} if run is not None else {pair: matching}
            so_far = replace(so_far, finished=so_far.finished + 1)
            seconds = told.record["seconds"]
            tell(replace(so_far, stage="done", pair=pair, matching=matching, seconds=seconds, bytes=0))
            if strict:
                require_certified(matching)
    if failures and progress is None:
        pair, reason = next(iter(failures.items()))
        warnings.warn(
            f"{len(failures)} of {len(pairs)} pairs have no matching, see .failures; {pair}: {reason}", stacklevel=3
        )
    found = {pair: found[pair] for pair in pairs if pair in found}  # in the order of the plan
    return Chain(run if run is not None else found, work.sources, work.comparison, work.against, failures, work.solver)


@contextmanager
def _runner(
    work: Work,
    pairs: Sequence[Pair],
    run: RunFolder | None,
    devices: Sequence[Device],
    executor: Executor | str | None,
    on_gpu: bool,
) -> Iterator[Iterator[Progress | Outcome]]:
    """What does the pairs; it is stopped on leaving."""
    if not pairs:
        yield iter(())
    elif executor is None:
        names = [str(device) for device in devices]
        with closing(stream(work, pairs) if len(devices) == 1 else on_devices(work, pairs, names)) as events:
            yield events
    elif isinstance(executor, Executor):
        with closing(through(executor, work, pairs, run)) as events:
            yield events
    else:
        gpu = choose_backend(work.solver.backend, work.solver.device, work.solver.precision).device.type == "cuda"
        with RayExecutor(work, pairs, gpu or on_gpu) as ray, closing(through(ray, work, pairs, run)) as events:
            yield events


def _taken_up(
    work: Work, out: str | os.PathLike[str], record: dict[str, Any], any_memory: bool, overwrite: bool, verify: bool
) -> RunFolder:
    """The run in a folder, new or as it was left. Raises `MatchError` if an input of a finished pair has changed."""
    run = RunFolder.start(out, record, overwrite, frozenset({"memory"} if any_memory else ()))
    run.forget_damaged()
    known: set[tuple[Any, str]] = set()
    for pair in run:
        for key, recorded in zip(work.keys(pair), run.records[pair]["inputs"], strict=True):
            this = key, str(recorded["sha256"])
            if this in known:
                continue
            known.add(this)
            layers = work.targets if key.side else work.sources
            if key.layer not in layers or not is_unchanged(layers.handles[key.layer], recorded, verify):
                raise MatchError(
                    f"{out}: the SAE of layer {key.layer} ({recorded['path'] or 'in memory'}) has changed since pair "
                    f"{pair[0]}-{pair[1]} was matched; choose another folder, or overwrite it (--overwrite)"
                )
    return run


def check_headers(work: Work, pairs: Sequence[Pair]) -> None:
    """Raise `MatchError` for what shows before weights are read: SAEs that cannot be folded or compared."""
    seen: dict[Any, SAE | None] = {}
    for pair in pairs:
        for key in work.keys(pair):
            if key not in seen:
                seen[key] = work.handle(key).header()
        a, b = (seen[key] for key in work.keys(pair))
        for sae in (a, b):
            if sae is not None:
                sae.check_fold(str(work.comparison.folds[0]))
        if a is not None and b is not None:
            check_widths(a.d, a.source, b.d, b.source, "d")
