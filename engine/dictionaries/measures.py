"""The numbers that say how similar two SAEs are, from their matchings and their most similar features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saematch.assignment import Round
from saematch.dictionaries.similarity import KINDS, Kind, Nearest, match_by_cosine, nearest
from saematch.matching.margins import Margins
from saematch.matching.result import Matching
from saematch.numeric.rounding import Floats, Indices
from saematch.options import Part
from saematch.sae.autoencoder import SAE

MCC = tuple(f"mcc_{kind}{suffix}" for suffix in ("", "_absolute") for kind in KINDS)
STATISTICS = (*MCC, "mmcs_ab", "mmcs_ba", "shared", "same_partner", "uniqueness_ab", "uniqueness_ba")
EDGES = np.linspace(-1, 1, 81)  # of the bins of similarities
Begin = Callable[[str], AbstractContextManager[Callable[[Round], None]]]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Matched:
    """One side of a matching by similarity.

    Attributes:
        partner: the partner of each feature, -1 without one.
        similarity: the similarity with it; NaN without a partner.
    """

    partner: Indices
    similarity: Floats

    @classmethod
    def sides(cls, matching: Matching) -> tuple[Matched, Matched]:
        """Return both sides of a matching, that of the source first."""
        back = matching.inverse()
        return cls._of(matching), cls._of(back)

    @classmethod
    def _of(cls, matching: Matching) -> Matched:
        partner = matching.perm.numpy()
        return cls(partner, np.where(partner >= 0, 1 - matching.pair_cost.numpy(), np.nan))

    def above(self, threshold: float) -> Bools:
        """Return which features have a partner whose similarity is above the threshold."""
        above: Bools = np.nan_to_num(self.similarity, nan=-np.inf) > threshold
        return above


@dataclass(frozen=True)
class PairMeasures:
    """The matchings of two SAEs in all ways, and their most similar features.

    Attributes:
        features: (F_A, F_B).
        matched: (kind, whether absolute) -> both sides of the matching.
        nearest: the most similar features by decoder, and by encoder if they were asked for.
        certified: whether every matching is proved to be optimal.
        margins: of the matching of decoders by signed cosine, if they were asked for.
    """

    features: tuple[int, int]
    matched: dict[tuple[Kind, bool], tuple[Matched, Matched]]
    nearest: dict[Part, Nearest]
    certified: bool
    margins: Margins | None = None

    def shared(self, side: int, threshold: float) -> Bools:
        """Return which features of one side are shared: matched above the threshold by decoders and by encoders."""
        decoder, encoder = (self.matched[kind, False][side] for kind in ("decoder", "encoder"))
        both: Bools = decoder.above(threshold) & encoder.above(threshold)
        return both

    def numbers(self, threshold: float) -> dict[str, float]:
        """Return the numbers of `STATISTICS`, in that order."""
        smaller = int(self.features[0] > self.features[1])
        decoder, encoder = (self.matched[kind, False][smaller] for kind in ("decoder", "encoder"))
        by_decoder = self.nearest["decoder"]
        means = {
            f"mcc_{kind}{'_absolute' if absolute else ''}": _mean(sides[smaller].similarity)
            for (kind, absolute), sides in self.matched.items()
        }
        others = {
            "mmcs_ab": _mean(by_decoder.cosine),
            "mmcs_ba": _mean(by_decoder.back_cosine),
            "shared": float(self.shared(smaller, threshold).mean()),
            "same_partner": float((decoder.partner == encoder.partner).mean()),  # the smaller side has no unmatched
            "uniqueness_ab": by_decoder.distinct[0] / self.features[0],
            "uniqueness_ba": by_decoder.distinct[1] / self.features[1],
        }
        numbers = means | others
        return {name: numbers[name] for name in STATISTICS}

    def histograms(self) -> dict[Kind, list[int]]:
        """Return how many pairs of each matching by signed similarity lie between two of `EDGES`."""
        smaller = int(self.features[0] > self.features[1])
        similarities = {kind: self.matched[kind, False][smaller].similarity for kind in KINDS}
        return {kind: np.histogram(np.clip(s, -1, 1), EDGES)[0].tolist() for kind, s in similarities.items()}


def compare(
    a: SAE,
    b: SAE,
    begin: Begin,
    limits: Mapping[str, Any],
    device: torch.device,
    parts: Sequence[Part] = ("decoder",),
    margins: bool = False,
) -> PairMeasures:
    """Compare two SAEs: match them in all ways, and find the most similar features.

    Args:
        a: one SAE.
        b: another SAE on activations of the same width.
        begin: returns the context of one of `steps`, by its name, with a function that is called after each pass.
        limits: options of `saematch.match` that say how the search runs.
        device: the device of the pass that finds the most similar features.
        parts: the parts by which the most similar features are found.
        margins: whether to compute margins of the matching of decoders.
    """
    matched, certified, found = {}, True, None
    for absolute in (False, True):
        for kind in KINDS:
            with begin(f"{'absolute ' if absolute else ''}{kind}") as progress:
                matching = match_by_cosine(a, b, kind, absolute, **limits, progress=progress)
                certified &= matching.certified
                matched[kind, absolute] = Matched.sides(matching)
                if margins and kind == "decoder" and not absolute and matching.certified:
                    found = matching.margins()
    by_part = {}
    for part in parts:
        with begin(f"nearest by {part}"):
            by_part[part] = nearest(a, b, part, device)
    return PairMeasures((a.F, b.F), matched, by_part, certified, found)


def steps(parts: int) -> int:
    """Return the number of steps of `compare`, if the most similar features are found by so many parts."""
    return len(MCC) + parts


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)
