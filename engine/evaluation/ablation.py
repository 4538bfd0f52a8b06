"""Ablation: whether the activation of a feature's partner falls if the feature is taken out of the language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saematch.activations.selection import TokenSelection
from saematch.analysis.tables import METHOD, PAIR, Row, Schema
from saematch.evaluation.codes import CodedPair
from saematch.evaluation.methods import EVALUATED, MethodPermutation
from saematch.evaluation.model import LanguageModel, StatesBatch
from saematch.evaluation.uncertainty import LEVEL, RESAMPLES, bootstrap_counts, interval, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.options import Effect
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

ABLATED = 200  # features, or all matched features that are active if there are fewer
ENOUGH = 100  # tokens: a feature that was ablated on so many is ablated in no further batch
FALL = 0.1  # the least fall that counts, as a share: in a real model, every ablation changes every feature a little
AS_OFTEN, AS_OFTEN_TOGETHER = "as_often", "as_often_together"  # names of targets to compare with
CONTROLS = {
    AS_OFTEN: "a random target that is about as often active as the partner in the evaluated run",
    AS_OFTEN_TOGETHER: "a random target that is about as often active as the partner in the evaluated run on the "
    "tokens on which the ablated feature is active",
}
_SIMILAR = 10  # targets that are about as often active, of which one is drawn

_CHANGE = (
    "the difference of the sums of activations with and without the ablation, divided by the larger sum, over the "
    "tokens on which the ablated feature is active. -1: never active any more; 0: unchanged"
)
ABLATED_FEATURES = Schema(
    "ablated_features",
    "What happens in the target layer if the contribution of one source feature is taken out of the source layer",
    {
        **PAIR,
        "feature": "number of the ablated source feature",
        "tokens": "number of tokens on which it is active, and is ablated",
        "partner": "its target in the evaluated run",
        "partner_cosine": "cosine of the decoder rows of the feature and the partner",
        "partner_change": f"change of the partner: {_CHANGE}",
        "strongest": "the target whose contribution (activation times norm of the decoder row) falls most",
        "strongest_cosine": "cosine of the decoder rows of the feature and this target",
        "strongest_change": "change of this target",
    },
)
ABLATION = Schema(
    "ablation",
    "Agreement of a matching with the effects of ablations: what happens to the targets of ablated source features",
    {
        **PAIR,
        "method": f"{METHOD['method']}; or {'; or '.join(f'{name}: {about}' for name, about in CONTROLS.items())}",
        "seed": METHOD["seed"],
        "effect": f"falls: share of the ablated features whose target falls by {FALL:.0%} or more; change: mean change "
        f"of the target, {_CHANGE}; strongest: share of the ablated features whose target is the one whose "
        "contribution falls most of all targets",
        "features": "number of ablated features averaged over: those with a target (falls, strongest), and with a "
        "target that is ever active on these tokens without the ablation (change)",
        "value": "mean over ablated features",
        "low": f"lower end of the {LEVEL:.0%} bootstrap interval, from {RESAMPLES} resamples of the ablated features",
        "high": "upper end of this interval",
    },
)


@dataclass(frozen=True)
class Effects:
    """The effects of the ablations of some features on all targets, on the tokens on which the feature is active.

    Attributes:
        features: the ablated features, `(n,)`.
        tokens: the number of these tokens, `(n,)`.
        fires: the number of these tokens on which each target is active, `(n, F_B)`.
        before: sums of the activations of each target without the ablation, `(n, F_B)`.
        after: the same with the ablation.
    """

    features: Indices
    tokens: Floats
    fires: Floats
    before: Floats
    after: Floats

    @classmethod
    def of(cls, features: Indices, targets: int) -> Effects:
        """Return effects of features that are not ablated yet."""
        return cls(features, np.zeros(len(features)), *(np.zeros((len(features), targets)) for _ in range(3)))

    def known(self) -> Effects:
        """Return the effects of those features that were active on any token."""
        kept = self.tokens > 0
        return Effects(*(values[kept] for values in vars(self).values()))

    def change(self, targets: Indices) -> Floats:
        """Return the change of a target of each feature, `(n,)`.

        It is NaN for -1, and for a target that is never active without the ablation: rounding alone may activate it.
        """
        places = np.arange(len(targets)), targets
        before, after = self.before[places], self.after[places]
        is_known = (targets >= 0) & (before > 0)
        larger = np.maximum(before, after)
        change: Floats = np.divide(after - before, larger, out=np.full(len(targets), np.nan), where=is_known)
        return change

    def strongest(self, norms: Floats) -> Indices:
        """Return the target of each feature whose contribution falls most; -1 if none falls."""
        falls = (self.before - self.after) * norms
        return np.where(falls.max(axis=1) > 0, falls.argmax(axis=1), -1)


def measure_ablation(
    fitted: TokenSelection,
    measured: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    permutations: Sequence[MethodPermutation],
    most: int = ABLATED,
) -> dict[str, list[Row]]:
    """Ablate some matched features of the first layer, one at a time, and compare what falls in the second layer.

    The features are drawn from those that are matched in the evaluated run and active on the tokens of one part of a
    language model, and ablated on those of another. Every method is compared on the same ablations.
    """
    assert permutations[0].method == EVALUATED
    model = measured.source
    assert isinstance(model, LanguageModel)
    pair, perm = CodedPair(a, b, model.device), permutations[0].perm
    active = pair.times_active(fitted, layers)
    eligible = np.nonzero((perm >= 0) & (active[0] > 0))[0]
    r = np.random.default_rng([0, *layers])
    features = np.sort(r.choice(eligible, min(most, len(eligible)), replace=False))
    effects = _ablate(pair, model.states(layers, measured.selected), features).known()
    if not len(effects.features):
        return {ABLATED_FEATURES.name: [], ABLATION.name: []}
    targets = [(one.method, one.seed, one.perm[effects.features]) for one in permutations]
    targets += [(name, 0, drawn) for name, drawn in _controls(r, effects, targets[0][2], active[1])]
    names = {"source": layers[0], "target": layers[1]}
    strongest = effects.strongest(b.W_dec.double().norm(dim=1).cpu().numpy())
    counts = bootstrap_counts(len(effects.features))
    summary = [
        ABLATION.row(**names, method=method, seed=seed, **row)
        for method, seed, of_method in targets
        for row in _agreement(effects, of_method, strongest, counts)
    ]
    features_rows = [ABLATED_FEATURES.row(**names, **row) for row in _each(effects, a, b, targets[0][2], strongest)]
    return {ABLATED_FEATURES.name: features_rows, ABLATION.name: summary}


def _ablate(pair: CodedPair, batches: Iterator[StatesBatch], features: Indices) -> Effects:
    """Ablate every feature on the tokens on which it is active, batch by batch until these are `ENOUGH` tokens."""
    effects = Effects.of(features, pair.b.F)
    for batch in batches:
        codes = pair.codes(batch.x, batch.y)
        for number, feature in enumerate(features):
            if effects.tokens[number] < ENOUGH:
                _add_effect(effects, number, pair, batch, codes.f[:, feature], codes.g)
        if (effects.tokens >= ENOUGH).all():
            break
    return effects


def _add_effect(effects: Effects, number: int, pair: CodedPair, batch: StatesBatch, f: Tensor, g: Tensor) -> None:
    """Add the effect of an ablation in a batch: of a feature with activations `f (n,)` on targets with `g (n, F_B)`."""
    tokens = (f > 0).nonzero()[:, 0]
    if not len(tokens):
        return
    without = batch.x[tokens] - f[tokens, None] * pair.a.W_dec[int(effects.features[number])]
    before, after = g[tokens], pair.b.encode(batch.after(tokens, without))
    effects.tokens[number] += len(tokens)
    effects.fires[number] += (before > 0).sum(dim=0).cpu().numpy()
    effects.before[number] += before.sum(dim=0, dtype=torch.float64).cpu().numpy()
    effects.after[number] += after.sum(dim=0, dtype=torch.float64).cpu().numpy()


def _controls(
    r: np.random.Generator, effects: Effects, partners: Indices, active: Floats
) -> Iterator[tuple[str, Indices]]:
    """Yield the name of each control, and for each feature a target that is about as often active as its partner."""
    often = np.tile(active, (len(partners), 1))
    for name, times in ((AS_OFTEN, often), (AS_OFTEN_TOGETHER, effects.fires)):
        drawn = []
        for counts, partner in zip(times, partners, strict=True):
            # In random order, so that one of many equal counts is not always the same.
            others = r.permutation(np.delete(np.arange(len(counts)), partner))
            similar = others[np.argsort(np.abs(counts[others] - counts[partner]), kind="stable")[:_SIMILAR]]
            drawn.append(r.choice(similar) if len(similar) else -1)
        yield name, np.array(drawn, dtype=np.int64)


def _agreement(effects: Effects, targets: Indices, strongest: Indices, counts: Floats) -> Iterator[Row]:
    """Yield a row for each effect on one target of each feature."""
    change, has_target = effects.change(targets), targets >= 0
    is_known = np.isfinite(change)
    measures: list[tuple[Effect, NDArray[Any], NDArray[np.bool_]]] = [
        ("falls", np.nan_to_num(change) <= -FALL, has_target),
        ("change", np.nan_to_num(change), is_known),
        ("strongest", targets == strongest, has_target),
    ]
    for effect, values, is_counted in measures:
        mean = interval(mean_ratio, (values * is_counted).astype(float), is_counted.astype(float), counts=counts)
        yield {"effect": effect, "features": int(is_counted.sum()), **vars(mean)}


def _each(effects: Effects, a: SAE, b: SAE, partners: Indices, strongest: Indices) -> Iterator[Row]:
    """Yield a row for each ablated feature."""
    columns = {"feature": effects.features, "tokens": effects.tokens.astype(int)}
    for name, targets in (("partner", partners), ("strongest", strongest)):
        columns |= {name: targets, f"{name}_cosine": _cosines(a, b, effects.features, targets)}
        columns[f"{name}_change"] = effects.change(targets)
    for values in zip(*columns.values(), strict=True):
        row = {name: value.item() for name, value in zip(columns, values, strict=True)}
        yield {**row, "strongest": row["strongest"] if row["strongest"] >= 0 else None}


def _cosines(a: SAE, b: SAE, sources: Indices, targets: Indices) -> Floats:
    """Return the cosines of decoder rows; NaN where the target is -1."""
    x, y = (sae.W_dec[torch.from_numpy(side)].double().cpu() for sae, side in ((a, sources), (b, targets)))
    cosines: Floats = nn.functional.cosine_similarity(x, y, dim=1).numpy()
    return np.where(targets >= 0, cosines, np.nan)
