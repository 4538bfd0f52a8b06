"""Measures of features that both the evaluation and the report show: cosines, persistence, lifetimes and norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from saematch.analysis.tables import quantiles
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair, nearest_steps
from saematch.sae.autoencoder import SAE

LEAST_COSINES = (0.5, 0.7, 0.9)  # decoder cosines from which on a partner counts as the same feature


def persistence(cosine: Floats, perm: Indices, targets: int, least: float) -> tuple[float, float]:
    """Return the share of source features that persist, and the share of target features that are born.

    A source feature persists if the cosine with its partner is at least `least`. A target feature is born if it is not
    the partner of a feature that persists.

    Args:
        cosine: cosine of every source feature with its partner, see `row_cosines`.
        perm: partner of every source feature.
        targets: number of target features.
        least: least cosine at which a partner counts as the same feature.
    """
    persists = np.nan_to_num(cosine, nan=-1.0) >= least
    return float(persists.mean()), 1 - len(np.unique(perm[persists])) / targets


class Lifetime(NamedTuple):
    """How many features live for a number of layers, if steps must have a least cosine.

    Attributes:
        cosine: least decoder cosine of a step.
        layers: number of layers.
        features: number of features that live for exactly this many layers.
        from_the_first: how many of these features are present in the first layer, and may be older.
        to_the_last: how many of these features are present in the last layer, and may live on.
    """

    cosine: float
    layers: int
    features: int
    from_the_first: int
    to_the_last: int


def lifetimes(chain: Chain, cosines: Mapping[Pair, Floats]) -> list[Lifetime]:
    """Count the layers that features live for. A feature ends where the cosine of its next step is too small.

    Args:
        chain: the run.
        cosines: the decoder cosines of every pair of layers that is a step of a path, see `row_cosines`.
    """
    lived = []
    for least in LEAST_COSINES:
        # By number of layers: features that live for this many layers, those in the first layer, those in the last.
        counts: dict[int, Indices] = {}
        for pairs in _connected(nearest_steps(cosines)):
            ages = np.ones(len(cosines[pairs[0]]), dtype=np.int64)
            from_first = np.ones(len(ages), dtype=bool)
            for pair in pairs:
                matching, persists = chain[pair], np.nan_to_num(cosines[pair], nan=-1.0) >= least
                _count(counts, ages[~persists], from_first[~persists], at_the_last=False)
                # A target feature is one layer older than the feature that persists in it. All others are new.
                next_ages = np.ones(matching.target_features, np.int64)
                next_from_first = np.zeros(matching.target_features, bool)
                targets = matching.perm.numpy()[persists]
                next_ages[targets], next_from_first[targets] = ages[persists] + 1, from_first[persists]
                ages, from_first = next_ages, next_from_first
            _count(counts, ages, from_first, at_the_last=True)
        lived += [Lifetime(least, layers, *map(int, numbers)) for layers, numbers in sorted(counts.items())]
    return lived


def quantities(sae: SAE) -> dict[str, dict[str, float]]:
    """Return mean and quantiles over features of the encoder norm, decoder norm, threshold and encoder bias.

    An SAE without thresholds has no entry for them.
    """
    tensors = {
        "encoder norm": sae.W_enc.double().norm(dim=0),
        "decoder norm": sae.W_dec.double().norm(dim=1),
        "threshold": sae.threshold,
        "bias": sae.b_enc,
    }
    described = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            values = tensor.detach().double().cpu().numpy()
            described[name] = {"mean": float(values.mean()), **quantiles(values)}
    return described


def _count(counts: dict[int, Indices], ages: Indices, from_first: np.ndarray, *, at_the_last: bool) -> None:
    """Add features that end to the counts by age. `from_first` marks those that are present in the first layer."""
    for age in np.unique(ages):
        ended = ages == age
        numbers = np.array([ended.sum(), from_first[ended].sum(), ended.sum() if at_the_last else 0])
        counts[int(age)] = counts.get(int(age), np.zeros(3, np.int64)) + numbers


def _connected(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Split pairs into lists in which every pair begins with the layer that the pair before it ends with."""
    lists: list[list[Pair]] = []
    for pair in pairs:
        if lists and lists[-1][-1][1] == pair[0]:
            lists[-1].append(pair)
        else:
            lists.append([pair])
    return lists
