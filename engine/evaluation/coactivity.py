"""Matching scores: how often, and how strongly, matched features are active on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saematch.activations.selection import SIZE_COLUMNS
from saematch.analysis.tables import METHOD, PAIR, Row, Schema
from saematch.evaluation.methods import MethodPermutation
from saematch.evaluation.uncertainty import INTERVAL_COLUMNS, Interval, interval, mean_of_rows, mean_ratio
from saematch.numeric.rounding import Floats, Indices
from saematch.options import Score

SCORES = Schema(
    "matching_score",
    "Agreement of the activations of matched features, averaged over features",
    {
        **PAIR,
        **METHOD,
        "score": "conditional: P(j active | i active); jaccard: tokens with both / tokens with either; cosine: of the "
        "activations of i and j over tokens",
        "features": "number of pairs averaged over: those in which i (conditional), i or j (jaccard), or both (cosine) "
        "are ever active",
        "value": "mean over features",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)


class CoactivityCounts:
    """Sums over tokens of how often, and how strongly, features are active, alone and together with their partners.

    Every sum is kept by sampling unit and feature. For source feature i with activation f and target feature j with
    activation g, the sums are `i` and `j` (number of tokens with the feature active), `ii` and `jj` (sums of f^2 and of
    g^2), `both` (number of tokens with both active) and `ij` (sum of f g).
    """

    def __init__(self, units: int, permutations: Sequence[MethodPermutation], sources: int, targets: int) -> None:
        self._permutations = permutations
        sizes = (("i", sources), ("ii", sources), ("j", targets), ("jj", targets))
        self._alone = {name: np.zeros((units, size)) for name, size in sizes}
        self._together = [
            {name: np.zeros((units, int((permutation.perm >= 0).sum()))) for name in ("both", "ij")}
            for permutation in permutations
        ]

    def add(self, units: Indices, f: Tensor, g: Tensor) -> None:
        """Add some tokens: the sampling unit of each, and the codes of both layers, `(n, F)`."""
        present, place = np.unique(units, return_inverse=True)
        belongs = torch.from_numpy((np.arange(len(present))[:, None] == place).astype(np.float32)).to(f.device)

        def add(sums: Floats, values: Tensor) -> None:
            sums[present] += (belongs @ values).double().cpu().numpy()

        i, j = (f > 0).float(), (g > 0).float()
        add(self._alone["i"], i)
        add(self._alone["ii"], f.square())
        add(self._alone["j"], j)
        add(self._alone["jj"], g.square())
        for permutation, sums in zip(self._permutations, self._together, strict=True):
            sources = torch.from_numpy(np.nonzero(permutation.perm >= 0)[0]).to(f.device)
            targets = torch.from_numpy(permutation.perm[permutation.perm >= 0]).to(f.device)
            add(sums["both"], i[:, sources] * j[:, targets])
            add(sums["ij"], f[:, sources] * g[:, targets])

    def scores(self, counts: Floats) -> list[Row]:
        """Return one row for each permutation and score, with intervals from the counts of `bootstrap_counts`."""
        rows = []
        for permutation, sums in zip(self._permutations, self._together, strict=True):
            sources, targets = np.nonzero(permutation.perm >= 0)[0], permutation.perm[permutation.perm >= 0]
            i, ii = (self._alone[name][:, sources] for name in ("i", "ii"))
            j, jj = (self._alone[name][:, targets] for name in ("j", "jj"))
            both, ij = sums["both"], sums["ij"]
            method = {"method": permutation.method, "seed": permutation.seed}
            active, other_active = i.sum(axis=0) > 0, j.sum(axis=0) > 0
            has_length = (ii.sum(axis=0) > 0) & (jj.sum(axis=0) > 0)
            scores: list[tuple[Score, int, Interval]] = [
                ("conditional", active.sum(), interval(mean_ratio, both, i, counts=counts)),
                ("jaccard", (active | other_active).sum(), interval(_jaccard, both, i, j, counts=counts)),
                ("cosine", has_length.sum(), interval(_cosine, ij, ii, jj, counts=counts)),
            ]
            rows += [
                {**method, "score": score, "features": int(features), **vars(estimate)}
                for score, features, estimate in scores
            ]
        return rows


def _jaccard(both: Floats, i: Floats, j: Floats) -> Floats:
    return mean_ratio(both, i + j - both)


def _cosine(ij: Floats, ii: Floats, jj: Floats) -> Floats:
    lengths = np.sqrt(ii * jj)
    return mean_of_rows(np.divide(ij, lengths, out=np.full(ij.shape, np.nan), where=lengths > 0))
