"""The part of a run that is evaluated: its pairs of layers, the fold of the weights, and the labels."""

from __future__ import annotations

from collections.abc import Callable

from saematch.errors import MatchError
from saematch.options import FoldName
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE


def steps_of(chain: Chain) -> list[Pair]:
    """Return the pairs that are steps of a path of the run. Raises `MatchError` if the run cannot be evaluated."""
    chain.known_comparison()
    if not chain.names.of_layers:
        raise MatchError(
            f"an evaluation is of the layers of a model, and this run is of SAEs that differ in {chain.names.axis}; "
            "match layers to evaluate them"
        )
    pairs = chain.steps()
    if not chain:
        raise MatchError("the run has no finished pair to evaluate")
    if not pairs:
        raise MatchError("a run of two sets of SAEs cannot be evaluated: its pairs do not connect layers of one model")
    missing = sorted({layer for pair in pairs for layer in pair} - set(chain.inputs()))
    if missing:
        raise MatchError(
            f"the SAEs of layers {', '.join(map(str, missing))} are no longer where the run found them; say where they "
            "are (inputs=)"
        )
    return pairs


def far_pairs(chain: Chain, farthest: int | None) -> dict[Pair, int]:
    """Return the pairs of layers that are at least two steps of the run apart, with their distance in steps."""
    return {
        (start, end): steps
        for start in chain.layers
        for steps, end in enumerate(chain.layers_from(start)[2:], 2)
        if farthest is None or steps <= farthest
    }


def common_fold(chain: Chain, sae: Callable[[int], SAE]) -> FoldName:
    """Return the fold of the weights that all methods are compared on."""
    fold: FoldName = chain.options().get("fold", "none")  # which a run by activations lacks
    if fold != "none":
        return fold
    return "threshold" if all(sae(layer).threshold is not None for layer in chain.layers) else "decoder_norm"


def labels_of(chain: Chain) -> dict[int, dict[int, str]]:
    """Return the labels that are stored next to the SAEs, by layer and feature."""
    return {layer: labels for layer in chain.layers if (labels := chain.labels(layer))}
