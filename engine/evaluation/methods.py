"""The methods that an evaluation compares: the evaluated run, and baselines, each of which is a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from saematch.numeric.rounding import Indices
from saematch.options import ActivityMetric, FoldName, Method, Part
from saematch.runs.api import match_layers
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.runs.records import Progress

SEEDS = 5  # random permutations, so that their spread is known


class BaselineOptions(TypedDict, total=False):
    """Options of `match_layers` in which a baseline differs from the evaluated run."""

    parts: list[Part]
    weights: None
    fold: FoldName
    max_cost: None
    method: Method


@dataclass(frozen=True)
class Baseline:
    """A method that is compared with the evaluated run.

    Attributes:
        name: the name of the method in the tables.
        about: the definition of the method, for `tables.json`.
        options: options of `match_layers` that replace those of the evaluated run.
    """

    name: str
    about: str
    options: BaselineOptions


# The weights and the max_cost of the run are for its own cost, and mean nothing for another one.
_OTHER_COST: BaselineOptions = {"weights": None, "max_cost": None}
_COSINE: BaselineOptions = {**_OTHER_COST, "parts": ["decoder"], "fold": "decoder_norm"}
BASELINES = (
    Baseline("weights", "optimal for the folded weights, if the run is by activations", {}),
    Baseline("unfolded", "optimal for the unfolded weights", {"fold": "none", "max_cost": None}),
    Baseline("encoder_only", "optimal for the folded encoder alone", {**_OTHER_COST, "parts": ["encoder"]}),
    Baseline("decoder_only", "optimal for the folded decoder alone", {**_OTHER_COST, "parts": ["decoder"]}),
    Baseline("greedy", "the cheapest pair first, with the cost of the run", {"method": "greedy"}),
    Baseline("cosine", "one to one, with the largest sum of decoder cosines", _COSINE),
    Baseline(
        "nearest_cosine",
        "the target with the largest decoder cosine for each source, many to one",
        {**_COSINE, "method": "nearest"},
    ),
)
# Methods that match by the codes of the first half of the documents: what is compared, and the share of the weights.
BY_HALF: dict[str, tuple[ActivityMetric, float | None]] = {
    "correlation_of_half": ("correlation", None),
    "jaccard_of_half": ("jaccard", None),
    "mixed_of_half": ("correlation", 0.5),
}
EVALUATED, IDENTITY, RANDOM = "matched", "identity", "random"  # names of further methods in the tables
ABOUT = {
    EVALUATED: "the run that is evaluated",
    **{baseline.name: baseline.about for baseline in BASELINES},
    **{
        name: f"one to one, with the largest sum of the {metric} of codes on the first half of the documents"
        + ("" if share is None else f" and of cosines of weights, with a share of {share:g}")
        for name, (metric, share) in BY_HALF.items()
    },
    IDENTITY: "feature i with feature i",
    RANDOM: f"a random permutation, {SEEDS} seeds",
}


@dataclass(frozen=True)
class MethodPermutation:
    """The permutation that a method gives a pair of layers.

    Attributes:
        method: the name of the method.
        seed: the seed of a random permutation, 0 for all other methods.
        perm: the target of each source feature, int64 `(F_A,)`; -1 if it is unmatched.
    """

    method: str
    seed: int
    perm: Indices


def baselines_of(chain: Chain, fold: FoldName) -> Iterator[tuple[Baseline, dict[str, Any]]]:
    """Yield each baseline with all its options, except those whose options are those of the run.

    Baselines by weights that keep other options of a run by weights mean nothing for a run by activations. The fold is
    that of the weights on which such a run is compared with its baselines.
    """
    own = chain.options()
    for baseline in BASELINES:
        options: dict[str, Any] = {**own, **baseline.options}
        if "activations" in own and baseline.name != "greedy":
            if baseline.options and "fold" not in baseline.options:
                continue
            options = {"fold": fold, **baseline.options}
        if options != own:
            yield baseline, options


def run_baselines(
    chain: Chain,
    pairs: Sequence[Pair],
    fold: FoldName,
    out: Path,
    listener: Callable[[str], Callable[[Progress], None]],
) -> dict[str, Chain]:
    """Match some pairs of layers by every baseline, in a run folder `out / name` for each.

    Args:
        chain: the evaluated run.
        pairs: the pairs of layers.
        fold: the fold of the weights, see `baselines_of`.
        out: the folder of the runs. Unfinished runs in it are resumed.
        listener: a function that returns the listener for the progress of a baseline, from its name.

    Returns:
        Name of the method -> its chain; the evaluated run is the first. A baseline is left out if its options are
        those of the run.
    """
    chains = {EVALUATED: chain}
    for baseline, options in baselines_of(chain, fold):
        folder, progress = out / baseline.name, listener(baseline.name)
        chains[baseline.name] = match_layers(chain.inputs(), folder, pairs=pairs, progress=progress, **options)
    return chains


def permutations_of(chains: Mapping[str, Chain], pair: Pair, targets: int) -> list[MethodPermutation]:
    """Return the permutation of every method for a pair: of the chains that have the pair, the identity, random ones.

    The first chain must have the pair, and its permutation is the first. `targets` is the number of target features.
    """
    permutations = [
        MethodPermutation(name, 0, chain[pair].perm.numpy()) for name, chain in chains.items() if pair in chain
    ]
    sources = len(permutations[0].perm)
    features = np.arange(sources)
    permutations.append(MethodPermutation(IDENTITY, 0, np.where(features < targets, features, -1)))
    for seed in range(SEEDS):
        drawn = np.random.default_rng([seed, *pair]).permutation(max(sources, targets))[:sources]
        permutations.append(MethodPermutation(RANDOM, seed, np.where(drawn < targets, drawn, -1)))
    return permutations
