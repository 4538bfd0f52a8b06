"""The ways to match that are compared: the run itself, and baselines, each a run of its own beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saematch.numeric.rounding import Indices
from saematch.runs.api import match_layers
from saematch.runs.chain import Chain
from saematch.runs.pipeline import Progress
from saematch.runs.plan import Pair

SEEDS = 5  # random permutations, so that their spread is known


@dataclass(frozen=True)
class Method:
    """A way to match; `options` are those of `match_layers`, in place of the run's own."""

    name: str
    about: str
    options: Mapping[str, Any]


_ALL = {"weights": None, "max_cost": None}  # what the run was given says nothing of other costs than its own
_COSINE = {**_ALL, "parts": ["decoder"], "fold": "decoder_norm"}
BASELINES = (
    Method("unfolded", "optimal for the weights as they are, without a fold", {"fold": "none", "max_cost": None}),
    Method("encoder_only", "optimal for the folded encoder alone", {**_ALL, "parts": ["encoder"]}),
    Method("decoder_only", "optimal for the folded decoder alone", {**_ALL, "parts": ["decoder"]}),
    Method("greedy", "the cheapest pair first, in the run's own cost", {"method": "greedy"}),
    Method("cosine", "one-to-one with the largest sum of decoder cosines", _COSINE),
    Method("nearest_cosine", "each source's largest decoder cosine, many to one", {**_COSINE, "method": "nearest"}),
)
MATCHED, IDENTITY, RANDOM = "matched", "identity", "random"
ABOUT = {
    MATCHED: "the run that is evaluated",
    **{method.name: method.about for method in BASELINES},
    IDENTITY: "feature i with feature i",
    RANDOM: f"a random permutation, {SEEDS} seeds",
}


@dataclass(frozen=True)
class Matched:
    """A permutation `(F_A,)`, -1 for no partner, and how it was found."""

    method: str
    seed: int
    perm: Indices


def baselines(
    chain: Chain, pairs: Sequence[Pair], out: Path, progress: Callable[[str], Callable[[Progress], None]]
) -> dict[str, Chain]:
    """The chain of every method over some pairs of `chain`; runs in `out`, which go on where they were left."""
    found = {MATCHED: chain}
    for method in BASELINES:
        options = {**chain.options, **method.options}
        if options != chain.options:
            found[method.name] = match_layers(
                chain.inputs, out / method.name, pairs=pairs, progress=progress(method.name), **options
            )
    return found


def matchings(chains: Mapping[str, Chain], pair: Pair, targets: int) -> list[Matched]:
    """Of a pair: all methods that have it, the run first, then the identity and random permutations."""
    found = [Matched(name, 0, chain[pair].perm.numpy()) for name, chain in chains.items() if pair in chain]
    sources = len(found[0].perm)
    every = np.arange(sources)
    found.append(Matched(IDENTITY, 0, np.where(every < targets, every, -1)))
    for seed in range(SEEDS):
        drawn = np.random.default_rng([seed, *pair]).permutation(max(sources, targets))[:sources]
        found.append(Matched(RANDOM, seed, np.where(drawn < targets, drawn, -1)))
    return found
