"""What activations say of a matching: codes of one layer carried to the next and decoded there; who fires with whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.analysis.tables import METHOD, PAIR, Row, Schema
from saematch.evaluation.activations import SURVEY_COLUMNS, Survey
from saematch.evaluation.methods import MATCHED, Matched
from saematch.evaluation.uncertainty import COLUMNS, draws, interval, mean_of_rows, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

GATES = tuple(round(0.1 * step, 1) for step in range(10))  # quantiles of pair costs

STAND_IN = {
    "stand_in": "what takes the place of x_B, the target layer's activations. sae_of_target: decoded from x_B itself; "
    "sae_of_source: A's own reconstruction of x_A; dropped: x_A; carried: encoded at A, carried by the matching, "
    "decoded at B",
    **METHOD,
    "folded": "whether each code is multiplied by threshold_B / threshold_A of its pair",
    "gate": "only pairs that cost up to this quantile are carried, the rest is decoded at A; 1 carries all",
}
MEASURED = {**SURVEY_COLUMNS, **COLUMNS}
VARIANCE = Schema(
    "explained_variance",
    "1 - sum |x_B - x'|^2 / sum |x_B - mean(x_B)|^2 over tokens, for what stands in for x_B",
    {
        **PAIR,
        "source_l0": "mean number of active features",
        "target_l0": "mean number of active features",
        **STAND_IN,
        "value": "share",
        **MEASURED,
    },
)
SCORES = Schema(
    "matching_score",
    "Agreement of the activations of matched features, averaged over features",
    {
        **PAIR,
        **METHOD,
        "score": "conditional: P(j active | i active); jaccard: tokens with both / tokens with either; cosine: of the "
        "two activation series over tokens",
        "features": "averaged over: pairs of which i (conditional), either (jaccard) or both (cosine) are ever active",
        "value": "mean over features",
        **MEASURED,
    },
)


class Codes(NamedTuple):
    """Activations `(n, d)` of both layers and their codes `(n, F)`."""

    x: Tensor
    y: Tensor
    f: Tensor
    g: Tensor


@dataclass(frozen=True)
class StandIn:
    """Something that takes the place of the target layer's activations; `make` returns it, `(n, d)`."""

    kind: str
    make: Callable[[Codes], Tensor]
    matched: Matched | None = None
    folded: bool | None = None
    gate: float | None = None

    def row(self) -> Row:
        """The columns of `STAND_IN`."""
        method, seed = (self.matched.method, self.matched.seed) if self.matched else (None, 0)
        return {"stand_in": self.kind, "method": method, "seed": seed, "folded": self.folded, "gate": self.gate}


class CodedPair:
    """Two SAEs in float32 on a device, and all that can stand in for the activations of the second."""

    def __init__(self, a: SAE, b: SAE, device: torch.device) -> None:
        self.a, self.b = a.to(torch.float32).to(device), b.to(torch.float32).to(device)
        folds = a.threshold is not None and b.threshold is not None and bool((a.threshold > 0).all())
        self.folds = (False, True) if folds else (False,)

    def codes(self, x: Tensor, y: Tensor) -> Codes:
        """Encoded by the layer's own SAE."""
        return Codes(x, y, self.a.encode(x), self.b.encode(y))

    def plain(self) -> list[StandIn]:
        """What needs no matching."""
        return [
            StandIn("sae_of_target", lambda codes: self.b.decode(codes.g)),
            StandIn("sae_of_source", lambda codes: self.a.decode(codes.f)),
            StandIn("dropped", lambda codes: codes.x),
        ]

    def carried(self, matched: Matched, folded: bool) -> StandIn:
        """All codes that have a partner, decoded there."""
        return StandIn("carried", self._carry(matched.perm, matched.perm >= 0, folded), matched, folded, 1.0)

    def gated(self, matched: Matched, costs: Floats, gate: float, folded: bool) -> StandIn:
        """Codes of pairs that cost up to a quantile of `costs (F_A,)`; the rest is decoded at A, with B's `b_dec`."""
        partner = matched.perm >= 0
        kept = partner & (costs <= np.quantile(costs[partner], gate)) if gate > 0 and partner.any() else partner & False
        move, rest = self._carry(matched.perm, kept, folded), self._indices(~kept)

        def make(codes: Codes) -> Tensor:
            return move(codes) + codes.f[:, rest] @ self.a.W_dec[rest]

        return StandIn("carried", make, matched, folded, gate)

    def _carry(self, perm: Indices, kept: NDArray[np.bool_], folded: bool) -> Callable[[Codes], Tensor]:
        sources, targets = self._indices(kept), torch.from_numpy(perm[kept]).to(self.a.W_dec.device)
        ratio: Tensor | float = 1.0
        if folded:
            assert self.a.threshold is not None
            assert self.b.threshold is not None
            ratio = self.b.threshold[targets] / self.a.threshold[sources]

        def move(codes: Codes) -> Tensor:
            moved = codes.f.new_zeros(len(codes.f), self.b.F).index_add_(1, targets, codes.f[:, sources] * ratio)
            return self.b.decode(moved)

        return move

    def _indices(self, mask: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.nonzero(mask)[0]).to(self.a.W_dec.device)


def stand_ins(pair: CodedPair, matchings: Sequence[Matched], costs: Floats, gates: Sequence[float]) -> list[StandIn]:
    """Everything that is compared: what needs no matching, every matching folded and not, the run's under gates.

    `costs (F_A,)` are those of the run's own pairs.
    """
    ways = pair.plain() + [pair.carried(matched, folded) for matched in matchings for folded in pair.folds]
    return ways + [pair.gated(matchings[0], costs, gate, folded) for gate in gates for folded in pair.folds]


def measure_codes(
    survey: Survey, layers: Pair, a: SAE, b: SAE, matchings: Sequence[Matched], costs: Floats, device: torch.device
) -> dict[str, list[Row]]:
    """Explained variance and matching scores of one pair, in one pass over the tokens."""
    assert matchings[0].method == MATCHED
    pair = CodedPair(a, b, device)
    ways = stand_ins(pair, matchings, costs, GATES)
    units = survey.units_count
    tokens, active = np.zeros(units), np.zeros(2)
    sums, squares = np.zeros((units, b.d)), np.zeros(units)
    residuals = np.zeros((len(ways), units))
    together = _Together(units, [matched for matched in matchings if matched.seed == 0], a.F, b.F)
    for of, (x, y) in survey.batches(layers, device):
        codes = pair.codes(x, y)
        np.add.at(tokens, of, 1)
        np.add.at(sums, of, y.double().cpu().numpy())
        _add(squares, of, y)
        for way, residual in zip(ways, residuals, strict=True):
            _add(residual, of, y - way.make(codes))
        active += [int((codes.f > 0).sum()), int((codes.g > 0).sum())]
        together.count(of, codes)
    # |y - m|^2 of each unit, m the mean over all tokens.
    middle = sums.sum(axis=0) / tokens.sum()
    total = squares - 2 * sums @ middle + tokens * (middle @ middle)
    drawn = draws(units)
    names, size = {"source": layers[0], "target": layers[1]}, survey.size
    l0 = {"source_l0": active[0] / tokens.sum(), "target_l0": active[1] / tokens.sum()}
    variance = []
    for way, residual in zip(ways, residuals, strict=True):
        found = interval(mean_ratio, total - residual, total, draws=drawn)
        variance.append(VARIANCE.row(**names, **l0, **way.row(), **vars(found), **size))
    scores = [SCORES.row(**names, **row, **size) for row in together.scores(drawn)]
    return {VARIANCE.name: variance, SCORES.name: scores}


class _Together:
    """Counts of how often, and how strongly, features fire, alone and with their partners: by unit and feature."""

    def __init__(self, units: int, matchings: Sequence[Matched], sources: int, targets: int) -> None:
        self._matchings = matchings
        self._alone = {
            name: np.zeros((units, size))
            for name, size in (("i", sources), ("ii", sources), ("j", targets), ("jj", targets))
        }
        self._pairs = [
            {name: np.zeros((units, int((matched.perm >= 0).sum()))) for name in ("both", "ij")}
            for matched in matchings
        ]

    def count(self, of: Indices, codes: Codes) -> None:
        """Take some tokens."""
        present, place = np.unique(of, return_inverse=True)
        belongs = torch.from_numpy((np.arange(len(present))[:, None] == place).astype(np.float32)).to(codes.f.device)

        def add(sums: Floats, values: Tensor) -> None:
            sums[present] += (belongs @ values).double().cpu().numpy()

        fires = (codes.f > 0).float(), (codes.g > 0).float()
        for (count, square), values, fire in zip((("i", "ii"), ("j", "jj")), (codes.f, codes.g), fires, strict=True):
            add(self._alone[count], fire)
            add(self._alone[square], values.square())
        for matched, sums in zip(self._matchings, self._pairs, strict=True):
            sources = torch.from_numpy(np.nonzero(matched.perm >= 0)[0]).to(codes.f.device)
            targets = torch.from_numpy(matched.perm[matched.perm >= 0]).to(codes.f.device)
            add(sums["both"], fires[0][:, sources] * fires[1][:, targets])
            add(sums["ij"], codes.f[:, sources] * codes.g[:, targets])

    def scores(self, drawn: Floats) -> list[Row]:
        """A row for each matching and score."""
        rows = []
        for matched, pairs in zip(self._matchings, self._pairs, strict=True):
            sources, targets = np.nonzero(matched.perm >= 0)[0], matched.perm[matched.perm >= 0]
            i, ii = (self._alone[name][:, sources] for name in ("i", "ii"))
            j, jj = (self._alone[name][:, targets] for name in ("j", "jj"))
            for score, features, found in (
                ("conditional", i.sum(axis=0) > 0, interval(mean_ratio, pairs["both"], i, draws=drawn)),
                ("jaccard", (i + j).sum(axis=0) > 0, interval(_jaccard, pairs["both"], i, j, draws=drawn)),
                (
                    "cosine",
                    (ii.sum(axis=0) > 0) & (jj.sum(axis=0) > 0),
                    interval(_cosine, pairs["ij"], ii, jj, draws=drawn),
                ),
            ):
                rows.append(
                    {
                        "method": matched.method,
                        "seed": matched.seed,
                        "score": score,
                        "features": int(features.sum()),
                        **vars(found),
                    }
                )
        return rows


def _jaccard(both: Floats, i: Floats, j: Floats) -> Floats:
    return mean_ratio(both, i + j - both)


def _cosine(ij: Floats, ii: Floats, jj: Floats) -> Floats:
    lengths = np.sqrt(ii * jj)
    return mean_of_rows(np.divide(ij, lengths, out=np.full(ij.shape, np.nan), where=lengths > 0))


def _add(sums: Floats, of: Indices, values: Tensor) -> None:
    np.add.at(sums, of, values.double().square().sum(dim=1).cpu().numpy())
