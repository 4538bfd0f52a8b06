"""Measurements on weights alone: errors, cosines, norms, margins, lifetimes, composed against exact matchings.

The features of every method are compared on weights that are folded in the same way, whichever weights the method used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from saematch.analysis.persistence import LEAST_COSINES, lifetimes, persistence, quantities
from saematch.analysis.tables import METHOD, PAIR, Row, Schema, finite_mean, quantile_columns, quantiles
from saematch.cost import squared_distances
from saematch.evaluation.methods import MethodPermutation
from saematch.matching.result import Matching
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.rows import Rows
from saematch.options import FoldName
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS, folded_rows

ALL_PARTS = "all"  # the three parts side by side
BINS = 60  # of a histogram

MSE = Schema(
    "mse",
    "Mean squared error of matched folded weights",
    {
        **PAIR,
        **METHOD,
        "part": "encoder, bias, decoder, or all: the three parts side by side",
        "matched": "number of source features with a partner",
        "mse": "mean of (source - target)^2 over all elements of all matched features, folded weights",
        **quantile_columns("matched features of the mean over the elements of a feature"),
    },
)
HISTOGRAM = Schema(
    "mse_histogram",
    "Distribution of the mean squared errors of matched features, all parts side by side",
    {
        **PAIR,
        **METHOD,
        "low": "lower edge of the bin, folded weights^2",
        "high": "upper edge of the bin, folded weights^2",
        "features": "number of matched features with a mean squared error of at least low and below high; the last bin "
        "also counts all larger errors",
    },
)
COSINE = Schema(
    "cosine",
    "Cosine of matched decoder rows",
    {**PAIR, **METHOD, "mean": "mean over matched features", **quantile_columns("matched features")},
)
PERSISTENCE = Schema(
    "persistence",
    "Features that persist in the next layer, vanish before it, or are born in it",
    {
        **PAIR,
        **METHOD,
        "cosine": "least decoder cosine at which a partner counts as the same feature",
        "persistent": "share of source features whose partner is the same feature",
        "vanished": "share of source features whose partner is another feature, or that have no partner",
        "born": "share of target features that are not the same feature as any source feature",
    },
)
LAYERS = Schema(
    "layers",
    "Norms and thresholds of the features of a layer, unfolded",
    {
        "layer": "number of the layer",
        "quantity": "quantity of a feature: encoder norm, decoder norm, threshold or bias",
        "mean": "mean over features",
        **quantile_columns("features"),
    },
)
MARGINS = Schema(
    "margins",
    "Margins: a lower bound on how much the cost of a feature's pair can rise before another matching costs less",
    {
        **PAIR,
        "tied": "share of source features that could have another partner at the same cost, within rounding",
        **quantile_columns("source features of the margin, squared distance"),
    },
)
LIFETIMES = Schema(
    "lifetimes",
    "Number of layers that features live for, along the matchings of the run",
    {
        "cosine": "least decoder cosine at which a partner counts as the same feature",
        "layers": "number of layers in which the feature is present",
        "features": "number of features that are present in exactly this many layers",
        "from_the_first": "how many of these features are present in the first layer, and may be older",
        "to_the_last": "how many of these features are present in the last layer, and may live on",
    },
)
DISTANCES = Schema(
    "distances",
    "Matchings of far layers: composed of the pairs of the run, compared with exact ones",
    {
        **PAIR,
        "distance": "number of steps of the run between the two layers",
        "composed_matched": "number of source features with a partner in the composed matching",
        "exact_matched": "number of source features with a partner in the exact matching",
        "agreement": "share of source features with the same partner, of those that have one in both",
        "composed_cost": "sum of squared distances in the composed matching, plus max_cost / 2 for each feature "
        "without a partner",
        "exact_cost": "sum of squared distances in the exact matching, plus max_cost / 2 for each feature without a "
        "partner",
        "composed_cosine": "mean decoder cosine in the composed matching, over source features with a partner in both",
        "exact_cosine": "mean decoder cosine in the exact matching, over source features with a partner in both",
    },
)
WEIGHT_SCHEMAS = (MSE, HISTOGRAM, COSINE, PERSISTENCE, LAYERS, MARGINS, LIFETIMES, DISTANCES)


class Folded(NamedTuple):
    """The folded feature rows of one layer, `(F, 2 d + 1)`: encoder, bias and decoder, without weights."""

    rows: Rows
    d: int

    @classmethod
    def of(cls, sae: SAE, fold: FoldName) -> Folded:
        """Fold an SAE. Raises `MatchError` if the SAE cannot be folded in this way."""
        return cls(folded_rows(sae, PARTS, None, fold), sae.d)

    def columns(self, part: str) -> slice:
        """Return the columns of a part: encoder, bias, decoder, or all."""
        d = self.d
        parts = {"encoder": (0, d), "bias": (d, d + 1), "decoder": (d + 1, 2 * d + 1), ALL_PARTS: (0, 2 * d + 1)}
        return slice(*parts[part])


def feature_errors(a: Folded, b: Folded, perm: Indices, part: str = ALL_PARTS) -> Floats:
    """Return the mean squared error of every source feature over its elements, `(F_A,)`; NaN without a partner."""
    columns = a.columns(part)
    squares = squared_distances(a.rows, b.rows, perm, columns=columns)
    errors: Floats = np.where(perm >= 0, squares / (columns.stop - columns.start), np.nan)
    return errors


def decoder_cosines(a: Folded, b: Folded, perm: Indices) -> Floats:
    """Return the cosine of every decoder row with that of its partner, `(F_A,)`; NaN without a partner or direction."""
    return row_cosines(a.rows, b.rows, perm, a.columns("decoder"))


def measure_layer(layer: int, sae: SAE) -> dict[str, list[Row]]:
    """Measure the norms and thresholds of one layer."""
    rows = [LAYERS.row(layer=layer, quantity=name, **numbers) for name, numbers in quantities(sae).items()]
    return {LAYERS.name: rows}


def measure_pair(pair: Pair, a: Folded, b: Folded, permutations: Sequence[MethodPermutation]) -> dict[str, list[Row]]:
    """Measure errors, cosines and persistence of one pair of layers under every method.

    The first permutation must be that of the evaluated run: its errors set the bins of all histograms.
    """
    rows: dict[str, list[Row]] = {schema.name: [] for schema in (MSE, HISTOGRAM, COSINE, PERSISTENCE)}
    largest = float(_finite(feature_errors(a, b, permutations[0].perm)).max(initial=0.0))
    edges = np.linspace(0.0, 2 * largest or 1.0, BINS + 1)
    for permutation in permutations:
        names = {**_layers_of(pair), "method": permutation.method, "seed": permutation.seed}
        for part in (*PARTS, ALL_PARTS):
            errors = _finite(feature_errors(a, b, permutation.perm, part))
            rows[MSE.name].append(
                MSE.row(**names, part=part, matched=len(errors), mse=finite_mean(errors), **quantiles(errors))
            )
        # `errors` are now those of all parts.
        if permutation.seed == 0:
            rows[HISTOGRAM.name] += _histogram(errors, edges, names)
        cosines = decoder_cosines(a, b, permutation.perm)
        known = _finite(cosines)
        rows[COSINE.name].append(COSINE.row(**names, mean=finite_mean(known), **quantiles(known)))
        for least in LEAST_COSINES:
            persistent, born = persistence(cosines, permutation.perm, len(b.rows), least)
            rows[PERSISTENCE.name].append(
                PERSISTENCE.row(**names, cosine=least, persistent=persistent, vanished=1 - persistent, born=born)
            )
    return rows


def measure_margins(pair: Pair, matching: Matching) -> dict[str, list[Row]]:
    """Measure the margins and ties of one certified pair."""
    margins = matching.margins()
    bound, tied = margins.bound.numpy(), float(margins.tied.double().mean())
    return {MARGINS.name: [MARGINS.row(**_layers_of(pair), tied=tied, **quantiles(_finite(bound)))]}


def measure_lifetimes(chain: Chain, cosines: Mapping[Pair, Floats]) -> dict[str, list[Row]]:
    """Count the layers that features live for, see `lifetimes`."""
    return {LIFETIMES.name: [LIFETIMES.row(**lifetime._asdict()) for lifetime in lifetimes(chain, cosines)]}


def measure_distance(
    pair: Pair, distance: int, a: Folded, b: Folded, composed: Matching, exact: Matching
) -> dict[str, list[Row]]:
    """Compare the composed matching of two far layers with the exact one: partners, costs and cosines."""
    composed_perm, exact_perm = composed.perm.numpy(), exact.perm.numpy()
    both = (composed_perm >= 0) & (exact_perm >= 0)
    row = DISTANCES.row(
        **_layers_of(pair),
        distance=distance,
        composed_matched=int((composed_perm >= 0).sum()),
        exact_matched=int((exact_perm >= 0).sum()),
        agreement=finite_mean((composed_perm == exact_perm)[both].astype(float)),
        composed_cost=composed.objective,
        exact_cost=exact.objective,
        composed_cosine=finite_mean(decoder_cosines(a, b, composed_perm)[both]),
        exact_cosine=finite_mean(decoder_cosines(a, b, exact_perm)[both]),
    )
    return {DISTANCES.name: [row]}


def _layers_of(pair: Pair) -> dict[str, int]:
    return {"source": pair[0], "target": pair[1]}


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _histogram(errors: Floats, edges: Floats, names: Row) -> list[Row]:
    """Return one row per bin. Errors beyond the last edge are counted in the last bin."""
    counts, _ = np.histogram(np.minimum(errors, np.nextafter(edges[-1], 0)), edges)
    return [
        HISTOGRAM.row(**names, low=float(low), high=float(high), features=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
