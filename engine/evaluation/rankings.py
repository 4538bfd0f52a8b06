"""Pairs of features in the order of their cost, by method, and the halves of the documents: to fit, and to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from saematch.activations.layers import EncodedLayers
from saematch.activations.selection import UNITS, TokenSelection
from saematch.evaluation.held_out import match_by_half
from saematch.evaluation.model import LanguageModel
from saematch.matching.result import Matching
from saematch.numeric.rounding import Indices
from saematch.options import Side
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

NEAREST_SOURCE = "nearest_source"  # the name of this method in the tables
BY_FIRST_HALF = ("correlation_of_half", "mixed_of_half")  # methods that are matched by the documents that fit slopes
# Every method takes ten forward passes. These answer questions about the cost alone, or, like `nearest_cosine`, have no
# one source for a target; `NEAREST_SOURCE` takes its place.
_NOT_RANKED = ("unfolded", "encoder_only", "decoder_only", "nearest_cosine")
_ROWS = 1024  # target features whose cosines with all source features are in memory at a time


@dataclass(frozen=True)
class RankedPairs:
    """Pairs of features that a method has matched, the cheapest first. No target is in two pairs.

    Attributes:
        method: the name of the method.
        sources: source features, int64 `(pairs,)`.
        targets: target features, int64 `(pairs,)`.
    """

    method: str
    sources: Indices
    targets: Indices


def is_ranked(method: str) -> bool:
    """Return whether the pairs of a method are ranked."""
    return method not in _NOT_RANKED


def ranked_pairs(matchings: Mapping[str, Matching]) -> list[RankedPairs]:
    """Return the pairs of the matching of each method, without the methods that are not ranked."""
    ranked = []
    for name, matching in matchings.items():
        if is_ranked(name):
            perm, costs = matching.perm.numpy(), matching.pair_cost.numpy()
            sources = np.nonzero(perm >= 0)[0]
            sources = sources[np.argsort(costs[sources], kind="stable")]
            # A run with method="nearest" may give several sources one target, which keeps the cheapest.
            _, first = np.unique(perm[sources], return_index=True)
            sources = sources[np.sort(first)]
            ranked.append(RankedPairs(name, sources, perm[sources]))
    return ranked


def match_by_first_half(fitted: TokenSelection, layers: Pair, a: SAE, b: SAE) -> dict[str, Matching]:
    """Match two SAEs by their codes on the first half of the documents: name of the method -> matching."""
    encoded = EncodedLayers(fitted)
    f, g = (encoded.codes(sae, layer, Side.SOURCE) for sae, layer in zip((a, b), layers, strict=True))
    return {name: match_by_half(name, a, b, (f, g)) for name in BY_FIRST_HALF}


def nearest_sources(a: SAE, b: SAE) -> RankedPairs:
    """Return each target feature with the source whose decoder row has the largest cosine, the nearest pair first."""
    rows, others = (nn.functional.normalize(sae.W_dec.float()) for sae in (b, a))
    best = [(part @ others.T).max(dim=1) for part in torch.split(rows, _ROWS)]
    cosines = torch.cat([values for values, _ in best]).cpu().numpy()
    sources = torch.cat([numbers for _, numbers in best]).cpu().numpy()
    order = np.argsort(-cosines, kind="stable")
    return RankedPairs(NEAREST_SOURCE, sources[order], order)


def halves(model: LanguageModel, selection: TokenSelection) -> tuple[TokenSelection, TokenSelection]:
    """Return the selected tokens of the first half of the documents, and those of the second half.

    What is fitted on the first half is measured on the second. The second half has every second document, as in the
    table `held_out`.
    """
    is_second = np.arange(int(model.documents.max()) + 1) % 2 == 1
    parts = []
    for documents in (~is_second, is_second):
        part, tokens = model.part(documents), documents[model.documents]
        parts.append(TokenSelection(part, selection.layers, selection.selected[tokens], part.documents % UNITS))
    return parts[0], parts[1]
