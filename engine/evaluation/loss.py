"""The next-token loss that a language model adds if a stand-in replaces its hidden states after a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from saematch.activations.selection import SIZE_COLUMNS, TokenSelection
from saematch.analysis.tables import PAIR, Part, Row, Schema
from saematch.evaluation.codes import STAND_IN_COLUMNS, CodedPair, StandIn, stand_ins
from saematch.evaluation.methods import EVALUATED, MethodPermutation
from saematch.evaluation.model import LanguageModel, Replacements
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


class LossSums(NamedTuple):
    """Sums over the counted tokens of each sampling unit.

    Attributes:
        tokens: the number of counted tokens, `(units,)`.
        clean: the loss of the unchanged model, `(units,)`, in nats.
        replaced: the loss with each replacement, `(replacements, units)`.
    """

    tokens: Floats
    clean: Floats
    replaced: Floats


def sum_losses(
    model: LanguageModel,
    selection: TokenSelection,
    layers: Pair,
    replacements: Replacements,
    count: int,
    unfinished: Part | None,
) -> LossSums:
    """Sum the losses of the model, clean and with each of `count` replacements, see `LanguageModel.losses`.

    The sums are kept in `unfinished` after each batch, and an earlier call that was stopped is resumed.
    """
    units = selection.units_count
    sums, done = LossSums(np.zeros(units), np.zeros(units), np.zeros((count, units))), 0
    kept = None if unfinished is None else unfinished.read()
    if kept is not None:
        sums, done = LossSums(*map(np.array, kept["sums"])), kept["batches"]
    for number, batch in enumerate(model.losses(layers, selection.selected, replacements, done), done + 1):
        unit = batch.documents % units
        np.add.at(sums.tokens, unit, batch.counted.sum(axis=1))
        np.add.at(sums.clean, unit, (batch.clean * batch.counted).sum(axis=1))
        for loss, replaced in zip(sums.replaced, batch.replaced, strict=True):
            np.add.at(loss, unit, (replaced * batch.counted).sum(axis=1))
        if unfinished is not None:
            unfinished.write({"batches": number, "sums": [values.tolist() for values in sums]})
    return sums


def measure_loss(
    model: LanguageModel,
    selection: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    permutations: Sequence[MethodPermutation],
    costs: Floats,
    unfinished: Part | None = None,
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

    def replacements(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        codes = pair.codes(x, y)
        return (stand_in.make(codes) for stand_in in compared)

    sums = sum_losses(model, selection, layers, replacements, len(compared), unfinished)
    # One row for each stand-in.
    counts, total = bootstrap_counts(selection.units_count), float(sums.tokens.sum())
    size = {**selection.size, "tokens": int(total)}
    rows = []
    for stand_in, loss in zip(compared, sums.replaced, strict=True):
        added = interval(mean_ratio, loss - sums.clean, sums.tokens, counts=counts)
        means = {"loss": float(loss.sum()) / total, "clean_loss": float(sums.clean.sum()) / total}
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
