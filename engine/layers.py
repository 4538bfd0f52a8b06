"""A whole model: every neighbouring pair of layers, one after the other, each SAE read once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from saematch.assignment import Round
from saematch.backend import machine, versions
from saematch.chain import Chain
from saematch.cost import Rows
from saematch.errors import MatchError
from saematch.features import PARTS
from saematch.matching import Matching
from saematch.problem import Comparison, RowProblem, check_widths
from saematch.run_folder import Pair, RunFolder, check_target
from saematch.sae import SAE
from saematch.solver import Solver, require_certified
from saematch.sources import Layers


@dataclass(frozen=True)
class Progress:
    """News of a run: a pass over the pairs of `pair` is done, or, with `matching`, the whole pair is."""

    pair: Pair
    number: int
    of: int
    round: Round | None = None
    matching: Matching | None = None
    seconds: float = 0.0


def match_layers(
    layers: Mapping[int, SAE],
    out: str | os.PathLike[str] | None = None,
    *,
    parts: Sequence[str] = PARTS,
    weights: Mapping[str, float] | None = None,
    fold: str = "threshold",
    max_cost: float | None = None,
    method: str = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "ieee",
    strict: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Chain:
    """Match every layer with the next, in ascending order of their numbers, and write each pair as it is finished.

    Options that are not named here are those of `saematch.match`; limits are a pair's.

    Args:
        layers: layer number -> SAE, from `load_layers` or a dictionary.
        out: the run folder, new or empty; None keeps the run in memory.
        overwrite: replace a run that `out` holds.
        progress: called after each pass and each pair.

    Raises:
        MatchError: before the first pair, for layers that cannot be compared or a folder that cannot be written.
        NotCertified: under `strict`, at the first pair that is not proved optimal.
    """
    began = time.perf_counter()
    comparison = Comparison.checked(parts, weights, fold, max_cost)
    solver = Solver(method, max_rounds, time_limit, memory, device, backend, precision)
    if not isinstance(fold, str):
        raise MatchError("match_layers folds by name; for scales of your own call match for each pair")
    if not isinstance(layers, Mapping) or not all(isinstance(layer, int) for layer in layers):
        raise MatchError("match_layers takes a mapping of layer numbers to SAEs; saematch.load_layers makes one")
    if len(layers) < 2:
        raise MatchError(f"{len(layers)} layer to match; at least two are needed")
    if out is not None:
        check_target(out, overwrite)
    inputs = _check_inputs(layers, comparison)
    finished: dict[Pair, Matching] | RunFolder = {}
    if out is not None:
        limits = {"max_rounds": max_rounds, "time_limit": time_limit, "memory": memory}
        options = {**comparison.record(), "method": method, **limits}
        record = {"inputs": inputs, "options": options, "versions": versions(), "machine": machine()}
        finished = RunFolder.create(out, record, overwrite)
    for pair, matching, seconds in _matched(layers, comparison, solver, progress):
        if isinstance(finished, RunFolder):
            finished.add(pair, matching, seconds)
        else:
            finished[pair] = matching
        if strict:
            require_certified(matching)
    if isinstance(finished, RunFolder):
        finished.finish(time.perf_counter() - began)
    return Chain(finished, layers, comparison)


def _matched(
    layers: Mapping[int, SAE], comparison: Comparison, solver: Solver, progress: Callable[[Progress], None] | None
) -> Iterator[tuple[Pair, Matching, float]]:
    """Every neighbouring pair, its matching and seconds; each layer's rows are made once and kept for two pairs."""
    tell = progress or (lambda _: None)
    pairs = list(pairwise(sorted(layers)))
    rows: dict[int, Rows] = {}
    for number, pair in enumerate(pairs, 1):
        began = time.perf_counter()
        rows = {layer: kept for layer, kept in rows.items() if layer in pair}  # the others go before the next is made
        for layer in pair:
            if layer not in rows:
                rows[layer] = comparison.rows(layers[layer])
        here = Progress(pair, number, len(pairs))
        problem = RowProblem(rows[pair[0]], rows[pair[1]], comparison.max_cost, comparison.record())
        with_news = replace(solver, progress=partial(_tell_of_round, tell, here))
        matching = with_news.run(problem, again=partial(_problem_of, layers, comparison, pair))
        seconds = time.perf_counter() - began
        yield pair, matching, seconds
        tell(replace(here, matching=matching, seconds=seconds))


def _problem_of(layers: Mapping[int, SAE], comparison: Comparison, pair: Pair) -> RowProblem:
    return comparison.problem(layers[pair[0]], layers[pair[1]])


def _tell_of_round(tell: Callable[[Progress], None], here: Progress, news: Round) -> None:
    tell(replace(here, round=news))


def _check_inputs(layers: Mapping[int, SAE], comparison: Comparison) -> dict[str, Any]:
    """What `run.json` says of the inputs. Raises `MatchError` if one is damaged or two neighbours cannot be compared.

    Every SAE is read once for this alone, so that no run stops halfway over an input, and none is replaced by one.
    """
    found: dict[str, Any] = {}
    previous: tuple[int, str] | None = None
    for layer in sorted(layers):
        sae = layers[layer]
        if not isinstance(sae, SAE):
            raise MatchError(f"layer {layer} is a {type(sae).__name__}, expected an SAE")
        sae.check_finite().scale(comparison.folds[0])
        if previous is not None:
            check_widths(*previous, sae.d, sae.source, "d")
        previous = (sae.d, sae.source)
        stored = layers.stored[layer] if isinstance(layers, Layers) else None
        found[str(layer)] = {
            "path": str(stored.path.absolute()) if stored else None,
            "format": stored.family.name if stored else None,
            "sha256": stored.sha256() if stored else _tensor_hashes(sae),
            "F": sae.F, "d": sae.d, "activation": sae.activation,
        }  # fmt: skip
    return {"source": layers.source if isinstance(layers, Layers) else None, "layers": found}


def _tensor_hashes(sae: SAE) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in sae.tensors().items()
    }
