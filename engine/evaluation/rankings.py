"""Pairs of features in the order of their cost, by method, and the halves of the documents: to fit, and to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from saematch.activations.selection import UNITS, TokenSelection
from saematch.evaluation.model import LanguageModel
from saematch.numeric.rounding import Indices
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

NEAREST_SOURCE = "nearest_source"  # the name of this method in the tables
# Each answers a question about the cost, or has no one source for a target; `NEAREST_SOURCE` takes its place.
_NOT_RANKED = ("encoder_only", "decoder_only", "nearest_cosine")
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


def ranked_pairs(chains: Mapping[str, Chain], pair: Pair) -> list[RankedPairs]:
    """Return the pairs of features of every run that has a pair of layers and matches one to one."""
    ranked = []
    for name, chain in chains.items():
        if pair in chain and name not in _NOT_RANKED:
            perm, costs = chain[pair].perm.numpy(), chain[pair].pair_cost.numpy()
            sources = np.nonzero(perm >= 0)[0]
            sources = sources[np.argsort(costs[sources], kind="stable")]
            # A run with method="nearest" may give several sources one target, which keeps the cheapest.
            _, first = np.unique(perm[sources], return_index=True)
            sources = sources[np.sort(first)]
            ranked.append(RankedPairs(name, sources, perm[sources]))
    return ranked


def nearest_sources(a: SAE, b: SAE) -> RankedPairs:
    """Return each target feature with the source whose decoder row has the largest cosine, the nearest pair first."""
    rows, others = (nn.functional.normalize(sae.W_dec.float()) for sae in (b, a))
    best = [(part @ others.T).max(dim=1) for part in torch.split(rows, _ROWS)]
    cosines = torch.cat([values for values, _ in best]).cpu().numpy()
    sources = torch.cat([numbers for _, numbers in best]).cpu().numpy()
    order = np.argsort(-cosines, kind="stable")
    return RankedPairs(NEAREST_SOURCE, sources[order], order)


def halves(model: LanguageModel, selection: TokenSelection) -> tuple[TokenSelection, TokenSelection]:
    """Return the selected tokens of every second document, and those of all others, among them the first document.

    What is fitted on the one half is measured on the other.
    """
    is_fitted = np.arange(int(model.documents.max()) + 1) % 2 == 1
    parts = []
    for documents in (is_fitted, ~is_fitted):
        part, tokens = model.part(documents), documents[model.documents]
        parts.append(TokenSelection(part, selection.layers, selection.selected[tokens], part.documents % UNITS))
    return parts[0], parts[1]
