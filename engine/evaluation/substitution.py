"""Substitution: what the loss of a language model says about features whose contributions come from their partners.

The idea of the test and of the area under its curve is from "Benchmarking Cross-Seed Feature Correspondence in Sparse
Autoencoders" (https://openreview.net/forum?id=5cy6WtSC8f), which swaps features of two SAEs of the same activations.
Here, the partner is a feature of an earlier layer, so its activation is scaled by a regression before it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saematch.activations.selection import SIZE_COLUMNS, TokenSelection
from saematch.analysis.tables import PAIR, Part, Row, Schema
from saematch.evaluation.codes import CodedPair, Codes
from saematch.evaluation.curves import SHARES, Curve, Pairing, curve_of, first_known
from saematch.evaluation.loss import LossSums, sum_losses
from saematch.evaluation.methods import EVALUATED
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.rankings import NEAREST_SOURCE, RankedPairs, nearest_sources
from saematch.evaluation.uncertainty import INTERVAL_COLUMNS
from saematch.numeric.rounding import Floats
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

CAUSAL_PAIRS = 2000  # pairs of features at the end of the curve, by default

_Key = tuple[bytes, bytes | None]  # the targets of a replacement, and their sources; None if the targets are left out

_WHAT = {
    "method": "method whose cheapest pairs are replaced, see tables.json. nearest_source: for each target, the source "
    "with the largest decoder cosine, the largest cosine first",
    "replaced_by": "what each target's activation is computed from. partner: the activation of its source in the pair; "
    "nearest: that of the source with the largest decoder cosine; random: that of a random source. Each is multiplied "
    "by the slope of the regression through the origin, from the first half of the documents, which is not measured",
}
SUBSTITUTION = Schema(
    "substitution",
    "Loss of the language model if the activations of the targets of the cheapest pairs are computed from the source "
    "layer: the share of the loss without these targets that is recovered",
    {
        **PAIR,
        **_WHAT,
        "pairs": "number of pairs replaced at once, those of the lowest cost",
        "active": "number of their targets that are active on any measured token",
        "loss": "mean loss, nats per token",
        "loss_without": "mean loss if the contributions of the same targets are left out, nats per token",
        "clean_loss": "mean loss of the unchanged model, nats per token",
        "value": "(loss_without - loss) / (loss_without - clean_loss). 1: nothing is lost; 0: as bad as without them. "
        "Empty unless the whole interval of loss_without - clean_loss is above 0: otherwise, the share is noise",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)
AREA = Schema(
    "substitution_area",
    "Area under the curve of the recovered share (AUSQC): its mean over the logarithm of the number of pairs",
    {
        **PAIR,
        **_WHAT,
        "fewest": "number of pairs at the first point; from there on, table substitution has a value for every method",
        "most": "number of pairs at the last point",
        "value": "area by the trapezoidal rule, divided by log(most / fewest); of a single point, its value",
        "difference": f"value minus that of the evaluated run ({EVALUATED}, partner)",
        "difference_low": "lower end of its interval, from the same resamples",
        "difference_high": "upper end of its interval",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)


class Replaced(NamedTuple):
    """Activations of targets `(n,)` that are computed from those of sources `(n,)`, times a scale `(n,)`."""

    sources: Tensor
    targets: Tensor
    scale: Tensor

    def states(self, codes: Codes, decoder: Tensor) -> Tensor:
        """Return the hidden states of the second layer, whose SAE has the given decoder rows."""
        change = codes.f[:, self.sources] * self.scale - codes.g[:, self.targets]
        return codes.y + change @ decoder[self.targets]


def passes_of(methods: int) -> int:
    """Return the most forward passes over the measured tokens, for a number of methods besides `nearest_source`."""
    # With and without the targets of each method, and two more sources for the targets of the evaluated run.
    return len(SHARES) * (2 * (methods + 1) + 2)


def measure_substitution(
    fitted: TokenSelection,
    measured: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    rankings: Sequence[RankedPairs],
    most: int,
    unfinished: Part | None = None,
) -> dict[str, list[Row]]:
    """Measure the loss of the model with the activations of target features computed from their partners.

    The slopes are fitted on the tokens of one part of a language model, and the loss is measured on those of another.
    The curve of every method has the same numbers of pairs: at most `most`, and no more than any method has. See
    `sum_losses` for `unfinished`.
    """
    model = measured.source
    assert isinstance(model, LanguageModel)
    pair = CodedPair(a, b, model.device)
    pairings = _pairings([*rankings, nearest_sources(pair.a, pair.b)], layers, a.F, most)
    scales = _slopes(pair, fitted, layers, pairings)
    sizes = curve_of(len(pairings[0].targets))
    # Methods agree on many of their cheapest pairs: equal replacements share a pass.
    passes: dict[_Key, Replaced] = {}
    keys = [
        [_add_pass(passes, pairing, scale, size) for size in sizes]
        for pairing, scale in zip(pairings, scales, strict=True)
    ]

    def replacements(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        codes = pair.codes(x, y)
        return (replaced.states(codes, pair.b.W_dec) for replaced in passes.values())

    sums = sum_losses(model, measured, layers, replacements, len(passes), unfinished)
    places = {key: place for place, key in enumerate(passes)}
    losses = [sums.replaced[[places[key] for key in of_pairing]] for of_pairing in keys]  # (sizes, units) each
    names = {"source": layers[0], "target": layers[1]}
    size = {**measured.size, "tokens": int(sums.tokens.sum())}
    curves, active = _curves(pairings, losses, sums), pair.times_active(measured, layers)[1] > 0
    first = first_known(curves)
    return {
        SUBSTITUTION.name: [
            SUBSTITUTION.row(**names, **row, **size) for curve in curves for row in curve.points(sizes, active)
        ],
        AREA.name: [AREA.row(**names, **curve.area(sizes, first, curves[0]), **size) for curve in curves],
    }


def _pairings(rankings: Sequence[RankedPairs], layers: Pair, sources: int, most: int) -> list[Pairing]:
    """Return the pairings that are measured: that of the evaluated run is the first."""
    count = min(most, *(len(ranking.targets) for ranking in rankings))
    assert [rankings[0].method, rankings[-1].method] == [EVALUATED, NEAREST_SOURCE]
    nearest = np.empty(len(rankings[-1].targets), dtype=np.int64)
    nearest[rankings[-1].targets] = rankings[-1].sources
    pairings = []
    for ranking in rankings:
        own, targets = ranking.sources[:count], ranking.targets[:count]
        pairings.append(Pairing(ranking.method, "partner", own, targets))
        if ranking is rankings[0]:
            # Any source but the partner itself.
            steps = np.random.default_rng([0, *layers]).integers(0, max(1, sources - 1), count)
            pairings.append(Pairing(ranking.method, "nearest", nearest[targets], targets))
            pairings.append(Pairing(ranking.method, "random", (own + 1 + steps) % sources, targets))
        pairings.append(Pairing(ranking.method, None, own, targets))
    return pairings


def _slopes(pair: CodedPair, fitted: TokenSelection, layers: Pair, pairings: Sequence[Pairing]) -> list[Tensor]:
    """Return the slope of the regression through the origin of each target on its source; 0 for no source.

    A source that is never active on the fitted tokens has slope 0.
    """
    device = pair.a.W_dec.device
    chosen = [[torch.from_numpy(side).to(device) for side in (one.sources, one.targets)] for one in pairings]
    squares = torch.zeros(pair.a.F, dtype=torch.float64, device=device)
    products = [torch.zeros(len(one.targets), dtype=torch.float64, device=device) for one in pairings]
    for _, (x, y) in fitted.batches(layers, device):
        codes = pair.codes(x, y)
        squares += codes.f.square().sum(dim=0, dtype=torch.float64)
        for number, (sources, targets) in enumerate(chosen):
            if pairings[number].replaced_by is not None:
                products[number] += (codes.f[:, sources] * codes.g[:, targets]).sum(dim=0, dtype=torch.float64)
    slopes = [product / squares[sources] for product, (sources, _) in zip(products, chosen, strict=True)]
    return [slope.nan_to_num(0.0).float() for slope in slopes]


def _add_pass(passes: dict[_Key, Replaced], pairing: Pairing, scale: Tensor, size: int) -> _Key:
    """Add the replacement of the first `size` pairs unless an equal one is there, and return its key."""
    # The order of the targets is that of their numbers, so that equal sets of pairs have equal sums.
    order = np.argsort(pairing.targets[:size], kind="stable")
    sources, targets = pairing.sources[:size][order], pairing.targets[:size][order]
    key = targets.tobytes(), None if pairing.replaced_by is None else sources.tobytes()
    of_order = torch.from_numpy(order).to(scale.device)
    of_sources, of_targets = (torch.from_numpy(side).to(scale.device) for side in (sources, targets))
    passes.setdefault(key, Replaced(of_sources, of_targets, scale[of_order]))
    return key


def _curves(pairings: Sequence[Pairing], losses: Sequence[Floats], sums: LossSums) -> list[Curve]:
    without = {one.method: loss.T for one, loss in zip(pairings, losses, strict=True) if one.replaced_by is None}
    return [
        Curve(one, loss.T, without[one.method], sums)
        for one, loss in zip(pairings, losses, strict=True)
        if one.replaced_by is not None
    ]
