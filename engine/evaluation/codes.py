"""Measurements on activations: codes of one layer that are carried to the next and decoded there, and matching scores.

Explained variance compares the activations of the target layer with a *stand-in* for them, for example with the codes
of the source layer, carried to their partners and decoded by the target's SAE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.activations.selection import SIZE_COLUMNS, TokenSelection
from saematch.analysis.tables import METHOD, PAIR, Row, Schema
from saematch.errors import MatchError
from saematch.evaluation.coactivity import SCORES, CoactivityCounts
from saematch.evaluation.methods import EVALUATED, MethodPermutation
from saematch.evaluation.uncertainty import INTERVAL_COLUMNS, bootstrap_counts, interval, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.options import StandInKind
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

VARIANCE_GATES = tuple(round(0.1 * step, 1) for step in range(10))  # quantiles of pair costs

STAND_IN_COLUMNS = {
    "stand_in": "what replaces x_B, the activations of the target layer. sae_of_target: the reconstruction of x_B by "
    "B's SAE; sae_of_source: the reconstruction of x_A by A's SAE; dropped: x_A; carried: encoded by A's SAE, carried "
    "to the partners, decoded by B's SAE",
    **METHOD,
    "folded": "whether each code is multiplied by threshold_B / threshold_A of its pair",
    "gate": "quantile of pair costs up to which pairs are carried; A's SAE decodes all other codes. 1: all pairs",
}
VARIANCE = Schema(
    "explained_variance",
    "1 - sum |x_B - x'|^2 / sum |x_B - mean(x_B)|^2 over tokens, for every stand-in x' for x_B",
    {
        **PAIR,
        "source_l0": "mean number of active features per token",
        "target_l0": "mean number of active features per token",
        **STAND_IN_COLUMNS,
        "value": "explained variance, a share",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)


class Codes(NamedTuple):
    """Activations of both layers `(n, d)`, and the codes `(n, F)` of both."""

    x: Tensor
    y: Tensor
    f: Tensor
    g: Tensor


@dataclass(frozen=True)
class StandIn:
    """A stand-in for the activations of the target layer.

    Attributes:
        kind: the kind, see the column `stand_in`.
        make: a function that returns the stand-in, `(n, d)`.
        permutation: the permutation that codes are carried by; None for kinds without one.
        folded: whether each code is multiplied by the ratio of the thresholds; None for kinds without a permutation.
        gate: the quantile of pair costs up to which pairs are carried; None for kinds without a permutation.
    """

    kind: StandInKind
    make: Callable[[Codes], Tensor]
    permutation: MethodPermutation | None = None
    folded: bool | None = None
    gate: float | None = None

    def row(self) -> Row:
        """Return the values of `STAND_IN_COLUMNS`."""
        method, seed = (self.permutation.method, self.permutation.seed) if self.permutation else (None, 0)
        return {"stand_in": self.kind, "method": method, "seed": seed, "folded": self.folded, "gate": self.gate}


class CodedPair:
    """Two SAEs in float32 on a device, and every stand-in for the activations of the second layer.

    Attributes:
        folds: whether codes can be carried unfolded and folded, `(False, True)`, or only unfolded, `(False,)`.
    """

    def __init__(self, a: SAE, b: SAE, device: torch.device) -> None:
        for sae in (a, b):
            if sae.is_transcoder:
                raise MatchError(
                    f"{sae.source}: a transcoder, which does not reconstruct what it reads; only SAEs are evaluated on "
                    "activations"
                )
        self.a, self.b = a.to(torch.float32).to(device), b.to(torch.float32).to(device)
        can_fold = a.threshold is not None and b.threshold is not None and bool((a.threshold > 0).all())
        self.folds = (False, True) if can_fold else (False,)

    def codes(self, x: Tensor, y: Tensor) -> Codes:
        """Encode the activations of each layer by its own SAE."""
        return Codes(x, y, self.a.encode(x), self.b.encode(y))

    def times_active(self, selection: TokenSelection, layers: Pair) -> list[Floats]:
        """Return the number of tokens on which each feature is active, `(F,)`, in both layers."""
        device = self.a.W_dec.device
        times = [torch.zeros(sae.F, dtype=torch.float64, device=device) for sae in (self.a, self.b)]
        for _, (x, y) in selection.batches(layers, device):
            codes = self.codes(x, y)
            times[0] += (codes.f > 0).sum(dim=0)
            times[1] += (codes.g > 0).sum(dim=0)
        return [counts.cpu().numpy() for counts in times]

    def without_permutation(self) -> list[StandIn]:
        """Return the stand-ins that need no matching."""
        return [
            StandIn("sae_of_target", lambda codes: self.b.decode(codes.g)),
            StandIn("sae_of_source", lambda codes: self.a.decode(codes.f)),
            StandIn("dropped", lambda codes: codes.x),
        ]

    def carried(self, permutation: MethodPermutation, folded: bool) -> StandIn:
        """Carry the codes of all matched features, and decode them by the SAE of the target."""
        carry = self._carry(permutation.perm, permutation.perm >= 0, folded)
        return StandIn("carried", carry, permutation, folded, 1.0)

    def gated(self, permutation: MethodPermutation, costs: Floats, gate: float, folded: bool) -> StandIn:
        """Carry the codes of the cheapest pairs: those that cost at most the quantile `gate` of `costs (F_A,)`.

        They are decoded by the SAE of the target, and all other codes by the SAE of the source. The result is the sum
        of both, with the decoder bias of the target only.
        """
        matched = permutation.perm >= 0
        carried = np.zeros_like(matched)
        if gate > 0 and matched.any():
            carried = matched & (costs <= np.quantile(costs[matched], gate))
        carry, rest = self._carry(permutation.perm, carried, folded), self._indices(~carried)

        def make(codes: Codes) -> Tensor:
            return carry(codes) + codes.f[:, rest] @ self.a.W_dec[rest]

        return StandIn("carried", make, permutation, folded, gate)

    def _carry(self, perm: Indices, carried: NDArray[np.bool_], folded: bool) -> Callable[[Codes], Tensor]:
        sources, targets = self._indices(carried), torch.from_numpy(perm[carried]).to(self.a.W_dec.device)
        ratio: Tensor | float = 1.0
        if folded:
            assert self.a.threshold is not None
            assert self.b.threshold is not None
            ratio = self.b.threshold[targets] / self.a.threshold[sources]

        def carry(codes: Codes) -> Tensor:
            moved = codes.f.new_zeros(len(codes.f), self.b.F).index_add_(1, targets, codes.f[:, sources] * ratio)
            return self.b.decode(moved)

        return carry

    def _indices(self, mask: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.nonzero(mask)[0]).to(self.a.W_dec.device)


def stand_ins(
    pair: CodedPair, permutations: Sequence[MethodPermutation], costs: Floats, gates: Sequence[float]
) -> list[StandIn]:
    """Return all stand-ins: those without a matching, every permutation folded and unfolded, the first one gated.

    The first permutation must be that of the evaluated run, and `costs (F_A,)` are the costs of its pairs.
    """
    plain = pair.without_permutation()
    carried = [pair.carried(permutation, folded) for permutation in permutations for folded in pair.folds]
    gated = [pair.gated(permutations[0], costs, gate, folded) for gate in gates for folded in pair.folds]
    return plain + carried + gated


def measure_codes(
    selection: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    permutations: Sequence[MethodPermutation],
    costs: Floats,
    device: torch.device,
) -> dict[str, list[Row]]:
    """Measure explained variance and matching scores of one pair of layers, in one pass over the tokens."""
    assert permutations[0].method == EVALUATED
    pair = CodedPair(a, b, device)
    compared = stand_ins(pair, permutations, costs, VARIANCE_GATES)
    # Sums over the tokens of each sampling unit.
    units = selection.units_count
    tokens, active = np.zeros(units), np.zeros(2)
    sums, squares = np.zeros((units, b.d)), np.zeros(units)
    residuals = np.zeros((len(compared), units))
    without_seeds = [permutation for permutation in permutations if permutation.seed == 0]
    coactivity = CoactivityCounts(units, without_seeds, a.F, b.F)
    for unit, (x, y) in selection.batches(layers, device):
        codes = pair.codes(x, y)
        np.add.at(tokens, unit, 1)
        np.add.at(sums, unit, y.double().cpu().numpy())
        _add_squares(squares, unit, y)
        for stand_in, residual in zip(compared, residuals, strict=True):
            _add_squares(residual, unit, y - stand_in.make(codes))
        active += [int((codes.f > 0).sum()), int((codes.g > 0).sum())]
        coactivity.add(unit, codes.f, codes.g)
    # The variance of each unit: sum |y - m|^2 = sum |y|^2 - 2 m sum y + n |m|^2, with the mean m over all tokens.
    middle = sums.sum(axis=0) / tokens.sum()
    total = squares - 2 * sums @ middle + tokens * (middle @ middle)
    # One row for each stand-in, and for each score of each permutation.
    counts = bootstrap_counts(units)
    names, size = {"source": layers[0], "target": layers[1]}, selection.size
    l0 = {"source_l0": active[0] / tokens.sum(), "target_l0": active[1] / tokens.sum()}
    variance = []
    for stand_in, residual in zip(compared, residuals, strict=True):
        explained = interval(mean_ratio, total - residual, total, counts=counts)
        variance.append(VARIANCE.row(**names, **l0, **stand_in.row(), **vars(explained), **size))
    scores = [SCORES.row(**names, **row, **size) for row in coactivity.scores(counts)]
    return {VARIANCE.name: variance, SCORES.name: scores}


def _add_squares(sums: Floats, unit: Indices, values: Tensor) -> None:
    np.add.at(sums, unit, values.double().square().sum(dim=1).cpu().numpy())
