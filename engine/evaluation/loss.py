"""The next-token loss that a language model adds if a stand-in replaces its hidden states after a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from saematch.activations.selection import SIZE_COLUMNS, TokenSelection
from saematch.analysis.tables import PAIR, Row, Schema
from saematch.evaluation.codes import STAND_IN_COLUMNS, CodedPair, StandIn, stand_ins
from saematch.evaluation.methods import EVALUATED, MethodPermutation
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.uncertainty import INTERVAL_COLUMNS, bootstrap_counts, interval, mean_ratio
from saematch.numeric.rounding import Floats
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

LOSS_GATES = (0.0, 0.25, 0.5, 0.75)  # fewer than for explained variance: every gate takes a forward pass

LOSS = Schema(
    "delta_loss",
    "Next-token cross-entropy with the hidden states after layer B replaced by a stand-in, minus the clean one",
    {
        **PAIR,
        **STAND_IN_COLUMNS,
        "loss": "mean loss with the stand-in, nats per token",
        "clean_loss": "mean loss of the unchanged model, nats per token",
        "value": "the difference, nats per token",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)


def measure_loss(
    model: LanguageModel,
    selection: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    permutations: Sequence[MethodPermutation],
    costs: Floats,
) -> dict[str, list[Row]]:
    """Measure the loss of the model with every stand-in for the hidden states after the second layer.

    Carried codes are folded if the SAEs allow it. The codes of the evaluated run and of the unfolded matching are also
    carried unfolded.
    """
    pair = CodedPair(a, b, model.device)
    compared = [
        stand_in
        for stand_in in stand_ins(pair, permutations, costs, LOSS_GATES)
        if _is_measured(stand_in, folded=pair.folds[-1])
    ]
    # Sums over the counted tokens of each document.
    documents = int(model.documents.max()) + 1
    losses, clean, tokens = np.zeros((len(compared), documents)), np.zeros(documents), np.zeros(documents)

    def replacements(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        codes = pair.codes(x, y)
        return (stand_in.make(codes) for stand_in in compared)

    for batch in model.losses(layers, selection.selected, replacements):
        np.add.at(tokens, batch.documents, batch.counted.sum(axis=1))
        np.add.at(clean, batch.documents, (batch.clean * batch.counted).sum(axis=1))
        for loss, replaced in zip(losses, batch.replaced, strict=True):
            np.add.at(loss, batch.documents, (replaced * batch.counted).sum(axis=1))
    units = np.arange(documents) % selection.units_count

    def by_unit(values: Floats) -> Floats:
        sums: Floats = np.bincount(units, values, selection.units_count).astype(np.float64)
        return sums

    # One row for each stand-in.
    counts, total = bootstrap_counts(selection.units_count), float(tokens.sum())
    size = {**selection.size, "tokens": int(total)}
    rows = []
    for stand_in, loss in zip(compared, losses, strict=True):
        added = interval(mean_ratio, by_unit(loss - clean), by_unit(tokens), counts=counts)
        means = {"loss": float(loss.sum()) / total, "clean_loss": float(clean.sum()) / total}
        rows.append(LOSS.row(source=layers[0], target=layers[1], **stand_in.row(), **means, **vars(added), **size))
    return {LOSS.name: rows}


def _is_measured(stand_in: StandIn, *, folded: bool) -> bool:
    """Return whether the loss with a stand-in is measured. Since each takes a forward pass, few are.

    Of the random permutations, one is measured. Codes are carried folded if `folded`, and unfolded otherwise; both are
    measured for the evaluated run and the unfolded matching, whose figure compares the four combinations.
    """
    if stand_in.permutation is None:
        return True
    if stand_in.permutation.seed > 0:
        return False
    method = stand_in.permutation.method
    return stand_in.folded == folded or (method in (EVALUATED, "unfolded") and stand_in.gate == 1.0)
