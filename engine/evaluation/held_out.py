"""Matching by one half of the documents, judged by the other half.

A matching by activations fits the tokens that it was made from: the similarity of its pairs on these tokens is too
high, most of all for features that are active on few of them. So features are matched by the first half of the
documents, and the correlation of the codes of each pair is measured on the second half: every second document is in
either half. Matchings by weights, which have seen no tokens, are measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saematch.activations import Codes
from saematch.activations.selection import SIZE_COLUMNS, TokenSelection
from saematch.analysis.tables import METHOD, PAIR, Row, Schema
from saematch.evaluation.methods import BY_HALF, MethodPermutation
from saematch.evaluation.uncertainty import INTERVAL_COLUMNS, bootstrap_counts, interval, mean_of_rows
from saematch.matching.api import match
from saematch.matching.result import Matching
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

FEWEST = 10  # tokens of each half on which a feature must be active; about rarer ones nothing can be said
_NOTHING = 1e-9  # of the mean square: a variance below it is rounding
HELD_OUT = Schema(
    "held_out",
    "Correlation of the codes of matched features on the second half of the documents, averaged over pairs",
    {
        **PAIR,
        **METHOD,
        "value": "mean correlation on the second half",
        "first_half": "mean correlation on the first half, which a matching by activations was made from",
        "same_partner": "share of the features that have the same partner if the second half is matched; empty for "
        "matchings that use no tokens",
        "features": f"number of pairs averaged over: both features are active on at least {FEWEST} tokens of each half",
        "rare": "number of matched pairs that are left out because one of their features is not",
        **SIZE_COLUMNS,
        **INTERVAL_COLUMNS,
    },
)
RARE = Schema(
    "rare_features",
    f"Features that are active on fewer than {FEWEST} tokens of one of the halves, about which activations say nothing",
    {
        "layer": "number of the layer",
        "feature": "number of the feature",
        "first_half": "number of tokens of the first half on which the feature is active",
        "second_half": "number of tokens of the second half on which the feature is active",
    },
)


class _Half(NamedTuple):
    """The codes of both SAEs on one half of the documents, and the sampling unit of each token, from 0."""

    a: Codes
    b: Codes
    units: Indices

    def known(self) -> list[NDArray[np.bool_]]:
        """Return which features of either side are active often enough."""
        return [codes.times_active >= FEWEST for codes in (self.a, self.b)]


def measure_held_out(
    selection: TokenSelection,
    layers: Pair,
    a: SAE,
    b: SAE,
    permutations: Sequence[MethodPermutation],
    codes_of: Callable[[int], Codes],
) -> dict[str, list[Row]]:
    """Measure how alike matched features behave on documents that no matching has seen, for one pair of layers.

    `codes_of` returns the codes of the SAE of a layer on the selected tokens.
    """
    codes = [codes_of(layer) for layer in layers]
    units = selection.units[selection.selected]
    halves = []
    for odd in (0, 1):
        tokens = units % 2 == odd
        halves.append(_Half(codes[0].select(tokens), codes[1].select(tokens), units[tokens] // 2))
    known = [first & second for first, second in zip(halves[0].known(), halves[1].known(), strict=True)]
    without_seeds = [permutation for permutation in permutations if permutation.seed == 0]
    rows = [_row(layers, selection, permutation, halves, known, None) for permutation in without_seeds]
    for name in BY_HALF:
        perms = [match_by_half(name, a, b, (half.a, half.b)).perm.numpy() for half in halves]
        same = known[0] & (perms[0] >= 0)
        share = float((perms[0] == perms[1])[same].mean()) if same.any() else None
        rows.append(_row(layers, selection, MethodPermutation(name, 0, perms[0]), halves, known, share))
    return {HELD_OUT.name: rows}


def match_by_half(name: str, a: SAE, b: SAE, codes: tuple[Codes, Codes]) -> Matching:
    """Match by the codes of both SAEs on one half of the documents, by one of the methods `BY_HALF`."""
    metric, weights_share = BY_HALF[name]
    return match(a, b, metric=metric, activations=codes, weights_share=weights_share)


def rare_features(selection: TokenSelection, layer: int, codes_of: Callable[[int], Codes]) -> dict[str, list[Row]]:
    """Return the rows of the features of a layer that are active too rarely; for `codes_of`, see above."""
    codes = codes_of(layer)
    odd = selection.units[selection.selected] % 2 == 1
    times = [codes.select(tokens).times_active for tokens in (~odd, odd)]
    rare = np.nonzero((times[0] < FEWEST) | (times[1] < FEWEST))[0]
    rows = [
        RARE.row(layer=layer, feature=int(i), first_half=int(times[0][i]), second_half=int(times[1][i])) for i in rare
    ]
    return {RARE.name: rows}


def _row(
    layers: Pair,
    selection: TokenSelection,
    permutation: MethodPermutation,
    halves: Sequence[_Half],
    known: Sequence[NDArray[np.bool_]],
    same_partner: float | None,
) -> Row:
    perm = permutation.perm
    matched = np.nonzero(perm >= 0)[0]
    counted = matched[known[0][matched] & known[1][perm[matched]]]
    estimates = []
    for half in halves:
        units = int(half.units.max(initial=-1)) + 1
        sums = pair_sums(half.a, half.b, counted, perm[counted], half.units, units)
        estimates.append(interval(mean_correlation, *sums, counts=bootstrap_counts(units)))
    return HELD_OUT.row(
        source=layers[0],
        target=layers[1],
        method=permutation.method,
        seed=permutation.seed,
        first_half=estimates[0].value,
        same_partner=same_partner,
        features=len(counted),
        rare=len(matched) - len(counted),
        **vars(estimates[1]),
        **selection.size,
    )


def pair_sums(a: Codes, b: Codes, rows: Indices, columns: Indices, units: Indices, count: int) -> list[Floats]:
    """Return, for each sampling unit, its number of tokens `(count, 1)` and sums over them for each pair of features.

    The sums `(count, pairs)` are those of f, g, f^2, g^2 and f g, for the codes f and g of both features. No two pairs
    may share a row.
    """
    tokens = np.bincount(units, minlength=count).astype(np.float64)[:, None]
    sums = np.zeros((5, count, len(rows)))
    place = np.full(a.F, -1)
    place[rows] = np.arange(len(rows))
    order = np.argsort(columns, kind="stable")  # several pairs may share a column
    first = np.searchsorted(columns[order], np.arange(b.F + 1))
    _add_up(a.starts, a.features, a.values, b.starts, b.features, b.values, place, order, first, columns, units, sums)
    return [tokens, *sums]


def mean_correlation(tokens: Floats, f: Floats, g: Floats, f_square: Floats, g_square: Floats, both: Floats) -> Floats:
    """Return the mean correlation over all pairs whose codes vary, in each row of sums."""
    of_f, of_g = tokens * f_square - f**2, tokens * g_square - g**2
    varies = (of_f > _NOTHING * tokens * f_square) & (of_g > _NOTHING * tokens * g_square)
    covariance, missing = tokens * both - f * g, np.full(f.shape, np.nan)
    return mean_of_rows(np.divide(covariance, np.sqrt(np.where(varies, of_f * of_g, 1.0)), out=missing, where=varies))


@compiled
def _add_up(
    a_starts: Any,
    a_features: Any,
    a_values: Any,
    b_starts: Any,
    b_features: Any,
    b_values: Any,
    place: Any,
    order: Any,
    first: Any,
    columns: Any,
    units: Any,
    sums: Any,
) -> None:
    """Add the codes of each token to the sums of `pair_sums`."""
    code = np.zeros(len(first) - 1)  # of each target feature on the present token
    for n in range(len(units)):
        u = units[n]
        for e in range(b_starts[n], b_starts[n + 1]):
            j, g = b_features[e], np.float64(b_values[e])
            code[j] = g
            for at in range(first[j], first[j + 1]):
                sums[1, u, order[at]] += g
                sums[3, u, order[at]] += g * g
        for e in range(a_starts[n], a_starts[n + 1]):
            p, f = place[a_features[e]], np.float64(a_values[e])
            if p >= 0:
                sums[0, u, p] += f
                sums[2, u, p] += f * f
                sums[4, u, p] += f * code[columns[p]]
        for e in range(b_starts[n], b_starts[n + 1]):
            code[b_features[e]] = 0.0
