"""What a language model loses where something stands in for its hidden states after a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from saematch.analysis.tables import PAIR, Row, Schema
from saematch.evaluation.activations import Survey
from saematch.evaluation.codes import MEASURED, STAND_IN, CodedPair, StandIn, stand_ins
from saematch.evaluation.methods import MATCHED, Matched
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.uncertainty import draws, interval, mean_ratio
from saematch.numeric.rounding import Floats
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

GATES = (0.0, 0.25, 0.5, 0.75)  # fewer than of explained variance: each takes a forward pass

LOSS = Schema(
    "delta_loss",
    "Next-token cross-entropy with the hidden state after layer B replaced by what stands in for it, minus without",
    {
        **PAIR,
        **STAND_IN,
        "loss": "nats a token, with it",
        "clean_loss": "nats a token, without",
        "value": "nats a token, the difference",
        **MEASURED,
    },
)


def measure_loss(
    model: LanguageModel, survey: Survey, layers: Pair, a: SAE, b: SAE, matchings: Sequence[Matched], costs: Floats
) -> dict[str, list[Row]]:
    """Loss of the model with everything that can stand in for the hidden states after the second layer.

    Codes are folded at inference, and of the run's and the unfolded matching as they are too.
    """
    pair = CodedPair(a, b, model.device)
    ways = [way for way in stand_ins(pair, matchings, costs, GATES) if _is_asked(way, pair.folds[-1])]
    documents = int(model.documents.max()) + 1
    loss, clean, tokens = np.zeros((len(ways), documents)), np.zeros(documents), np.zeros(documents)

    def replacements(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        codes = pair.codes(x, y)
        return (way.make(codes) for way in ways)

    for of, counted, without, replaced in model.losses(layers, survey.kept, replacements):
        np.add.at(tokens, of, counted.sum(axis=1))
        np.add.at(clean, of, (without * counted).sum(axis=1))
        for found, values in zip(loss, replaced, strict=True):
            np.add.at(found, of, (values * counted).sum(axis=1))
    units = np.arange(documents) % survey.units_count

    def by_unit(values: Floats) -> Floats:
        sums: Floats = np.bincount(units, values, survey.units_count).astype(np.float64)
        return sums

    drawn, total = draws(survey.units_count), float(tokens.sum())
    size = {**survey.size, "tokens": int(total)}
    rows = []
    for way, found in zip(ways, loss, strict=True):
        change = interval(mean_ratio, by_unit(found - clean), by_unit(tokens), draws=drawn)
        means = {"loss": float(found.sum()) / total, "clean_loss": float(clean.sum()) / total}
        rows.append(LOSS.row(source=layers[0], target=layers[1], **way.row(), **means, **vars(change), **size))
    return {LOSS.name: rows}


def _is_asked(way: StandIn, folded: bool) -> bool:
    """Each takes a forward pass: one random permutation, and folded codes but for the 2 x 2 of folds."""
    if way.matched is None:
        return True
    if way.matched.seed > 0:
        return False
    return way.folded == folded or (way.matched.method in (MATCHED, "unfolded") and way.gate == 1.0)
