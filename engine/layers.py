"""A whole model: every neighbouring pair of layers, one after the other, each SAE read once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from saematch.assignment import Round
from saematch.backend import machine, versions
from saematch.chain import Chain
from saematch.errors import MatchError
from saematch.features import PARTS
from saematch.matching import Matching
from saematch.pairs import Comparison, Problem, Solver, check_comparable, require_certified
from saematch.run_folder import Pair, RunFolder
from saematch.sae import SAE
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
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
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
    comparison = Comparison.checked(parts, weights, fold)
    if not isinstance(fold, str):
        raise MatchError("match_layers folds by name; for scales of your own call match for each pair")
    pairs = list(pairwise(sorted(layers)))
    if not pairs:
        raise MatchError(f"{len(layers)} layer to match; at least two are needed")
    inputs = _check_inputs(layers)
    folder = None
    if out is not None:
        record = {"inputs": inputs, "options": comparison.record(), "versions": versions(), "machine": machine()}
        folder = RunFolder.create(out, record, overwrite)
    finished: dict[Pair, Matching] = {}
    kept: dict[int, Any] = {}
    for number, pair in enumerate(pairs, 1):
        start = time.perf_counter()
        kept = {layer: kept[layer] if layer in kept else comparison.rows(layers[layer]) for layer in pair}

        def after_round(news: Round, pair: Pair = pair, number: int = number) -> None:
            if progress is not None:
                progress(Progress(pair, number, len(pairs), round=news))

        solver = Solver(max_rounds, time_limit, memory, device, progress=after_round)
        matching = solver.run(Problem(kept[pair[0]], kept[pair[1]], comparison.record()))
        finished[pair] = matching
        seconds = time.perf_counter() - start
        if folder is not None:
            folder.add(pair, matching, seconds)
        if strict:
            require_certified(matching)
        if progress is not None:
            progress(Progress(pair, number, len(pairs), matching=matching, seconds=seconds))
    if folder is not None:
        folder.finish(time.perf_counter() - began)
    return Chain(finished if folder is None else folder, layers, comparison)


def _check_inputs(layers: Mapping[int, SAE]) -> dict[str, Any]:
    """What `run.json` says of the inputs. Raises `MatchError` if two neighbours cannot be compared."""
    found: dict[str, Any] = {}
    previous: SAE | None = None
    for layer in sorted(layers):
        stored = layers.stored[layer] if isinstance(layers, Layers) else None
        sae = stored.describe().sae if stored else layers[layer]
        if previous is not None:
            check_comparable(previous, sae)
        previous = sae
        found[str(layer)] = {
            "path": str(stored.path.absolute()) if stored else None,
            "format": stored.family.name if stored else None,
            "sha256": stored.sha256() if stored else _tensor_hashes(sae),
            "F": sae.F, "d": sae.d, "activation": sae.activation,
        }  # fmt: skip
    source = layers.source if isinstance(layers, Layers) else None
    return {"source": source if source in (None, "sample") else os.path.abspath(source), "layers": found}


def _tensor_hashes(sae: SAE) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in sae.tensors().items()
    }
