"""What the weights alone say of a matching: errors, cosines, norms, margins, lifetimes, composed against exact.

Everything is measured on weights that are folded in one way, whatever a method looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from saematch.analysis.findings import SAME, persistence, row_cosines
from saematch.analysis.tables import METHOD, PAIR, Row, Schema, mean, quantile_columns, quantiles
from saematch.cost import squared_distances
from saematch.evaluation.methods import Matched
from saematch.matching.result import Matching
from saematch.numeric.rounding import Floats, Indices
from saematch.options import FoldName
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS, feature_rows

ALL = "all"  # the parts together

BINS = 60

MSE = Schema(
    "mse",
    "Mean squared error of matched folded weights",
    {
        **PAIR,
        **METHOD,
        "part": "encoder, bias, decoder, or all: the three side by side",
        "matched": "source features that have a partner",
        "mse": "mean over the elements of matched features of (source - target)^2, folded weights",
        **quantile_columns("matched features of the mean over a feature's own elements"),
    },
)
HISTOGRAM = Schema(
    "mse_histogram",
    "How the mean squared errors of matched features are spread, all parts side by side",
    {
        **PAIR,
        **METHOD,
        "low": "edge of a bin, folded weights^2",
        "high": "its other edge",
        "features": "matched features of a mean squared error of at least low and below high; the last bin: or more",
    },
)
COSINE = Schema(
    "cosine",
    "Cosine of matched decoder rows",
    {**PAIR, **METHOD, "mean": "over matched features", **quantile_columns("matched features")},
)
PERSISTENCE = Schema(
    "persistence",
    "Features that are there in the next layer, end, or begin",
    {
        **PAIR,
        **METHOD,
        "cosine": "decoder cosine from which on a partner counts as the same feature",
        "persistent": "share of source features whose partner is the same feature",
        "vanished": "share of source features whose partner is not, or that have none",
        "born": "share of target features that are nobody's same feature",
    },
)
LAYERS = Schema(
    "layers",
    "Norms and thresholds of the features of a layer, unfolded",
    {
        "layer": "number",
        "quantity": "of a feature: encoder norm, decoder norm, threshold or bias",
        "mean": "over features",
        **quantile_columns("features"),
    },
)
MARGINS = Schema(
    "margins",
    "How firmly features are matched: what a feature's cost may at least rise by before another matching wins",
    {
        **PAIR,
        "tied": "share of source features that have another partner at the same cost",
        **quantile_columns("source features of the margin, squared distance"),
    },
)
LIFETIMES = Schema(
    "lifetimes",
    "How many layers features live for, along the run's matchings",
    {
        "cosine": "decoder cosine from which on a step leads to the same feature",
        "layers": "in which the feature is there",
        "features": "that live for just so long",
        "from_the_first": "of them, those that are there in the first layer, and may be older",
        "to_the_last": "of them, those that are there in the last, and may live on",
    },
)
DISTANCES = Schema(
    "distances",
    "Matchings composed of the run's pairs against exact ones of far layers",
    {
        **PAIR,
        "distance": "in steps of the run",
        "composed_matched": "source features with a partner, composed",
        "exact_matched": "source features with a partner, exact",
        "agreement": "share of source features with the same partner, of those that have one in both",
        "composed_cost": "sum of squared distances, and half of max_cost for each feature without a partner, composed",
        "exact_cost": "the same, exact",
        "composed_cosine": "mean decoder cosine of the source features that have a partner in both, composed",
        "exact_cosine": "the same, exact",
    },
)
TABLES = (MSE, HISTOGRAM, COSINE, PERSISTENCE, LAYERS, MARGINS, LIFETIMES, DISTANCES)


class Folded(NamedTuple):
    """One layer's folded feature rows `(F, 2 d + 1)`: encoder, bias and decoder, unweighted, in float64."""

    rows: Floats
    d: int

    @classmethod
    def of(cls, sae: SAE, fold: FoldName) -> Folded:
        """Raises `MatchError` where the SAE cannot be folded so."""
        return cls(feature_rows(sae, PARTS, None, fold), sae.d)

    def part(self, name: str) -> Floats:
        """The columns of a part."""
        start, stop = {
            "encoder": (0, self.d),
            "bias": (self.d, self.d + 1),
            "decoder": (self.d + 1, None),
            ALL: (0, None),
        }[name]
        return np.ascontiguousarray(self.rows[:, start:stop])


def feature_errors(a: Folded, b: Folded, perm: Indices, part: str = ALL) -> Floats:
    """Of every source feature: the mean of (source - target)^2 over its elements, `(F_A,)`; NaN without a partner."""
    x = a.part(part)
    errors: Floats = np.where(perm >= 0, squared_distances(x, b.part(part), perm) / x.shape[1], np.nan)
    return errors


def decoder_cosines(a: Folded, b: Folded, perm: Indices) -> Floats:
    """Of every source feature's decoder row and its partner's, `(F_A,)`; NaN without a partner or a direction."""
    return row_cosines(a.part("decoder"), b.part("decoder"), perm)


def measure_layer(layer: int, sae: SAE) -> dict[str, list[Row]]:
    """Norms and thresholds of one layer."""
    of = {
        "encoder norm": sae.W_enc.double().norm(dim=0),
        "decoder norm": sae.W_dec.double().norm(dim=1),
        "threshold": sae.threshold,
        "bias": sae.b_enc,
    }
    rows = []
    for quantity, tensor in of.items():
        if tensor is not None:
            values = tensor.detach().double().cpu().numpy()
            rows.append(LAYERS.row(layer=layer, quantity=quantity, mean=float(values.mean()), **quantiles(values)))
    return {LAYERS.name: rows}


def measure_pair(pair: Pair, a: Folded, b: Folded, matchings: Sequence[Matched]) -> dict[str, list[Row]]:
    """Errors, cosines and what persists, of one pair under every method, the run's own first."""
    rows: dict[str, list[Row]] = {schema.name: [] for schema in (MSE, HISTOGRAM, COSINE, PERSISTENCE)}
    edges: Floats | None = None
    for matched in matchings:
        names = {**_of(pair), "method": matched.method, "seed": matched.seed}
        for part in (*PARTS, ALL):
            errors = feature_errors(a, b, matched.perm, part)
            errors = errors[np.isfinite(errors)]
            found = {"part": part, "matched": len(errors), "mse": mean(errors), **quantiles(errors)}
            rows[MSE.name].append(MSE.row(**names, **found))
        if matched.seed == 0:
            edges = np.linspace(0.0, 2 * float(errors.max(initial=0.0)) or 1.0, BINS + 1) if edges is None else edges
            counts, _ = np.histogram(np.minimum(errors, np.nextafter(edges[-1], 0)), edges)
            rows[HISTOGRAM.name] += [
                HISTOGRAM.row(**names, low=float(low), high=float(high), features=int(count))
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
        alike = decoder_cosines(a, b, matched.perm)
        known = alike[np.isfinite(alike)]
        rows[COSINE.name].append(COSINE.row(**names, mean=mean(known), **quantiles(known)))
        for least in SAME:
            share, born = persistence(alike, matched.perm, len(b.rows), least)
            rows[PERSISTENCE.name].append(
                PERSISTENCE.row(**names, cosine=least, persistent=share, vanished=1 - share, born=born)
            )
    return rows


def measure_margins(pair: Pair, matching: Matching) -> dict[str, list[Row]]:
    """Margins and ties of one certified pair."""
    margins = matching.margin.numpy()
    tied = float(matching.tied.double().mean())
    return {MARGINS.name: [MARGINS.row(**_of(pair), tied=tied, **quantiles(margins[np.isfinite(margins)]))]}


def measure_lifetimes(chain: Chain, cosines: Mapping[Pair, Floats]) -> dict[str, list[Row]]:
    """Follow features along the run: a feature ends where no step is as similar as asked for."""
    rows = []
    for least in SAME:
        counts: dict[int, Indices] = {}
        for way in _unbroken(sorted(cosines)):
            ages = np.ones(len(cosines[way[0]]), dtype=np.int64)
            old = np.ones(len(ages), dtype=bool)  # there in the first layer
            for pair in way:
                matching, lasts = chain[pair], np.nan_to_num(cosines[pair], nan=-1.0) >= least
                _count(counts, ages[~lasts], old[~lasts], to_the_last=False)
                older, there = np.ones(matching.target_features, np.int64), np.zeros(matching.target_features, bool)
                targets = matching.perm.numpy()[lasts]
                older[targets], there[targets] = ages[lasts] + 1, old[lasts]
                ages, old = older, there
            _count(counts, ages, old, to_the_last=True)
        for age, (features, from_first, to_last) in sorted(counts.items()):
            rows.append(
                LIFETIMES.row(
                    cosine=least,
                    layers=age,
                    features=int(features),
                    from_the_first=int(from_first),
                    to_the_last=int(to_last),
                )
            )
    return {LIFETIMES.name: rows}


def measure_distance(
    pair: Pair, distance: int, a: Folded, b: Folded, composed: Matching, exact: Matching
) -> dict[str, list[Row]]:
    """One far pair: how much of the exact matching the composed one finds, and at which cost."""
    perms = composed.perm.numpy(), exact.perm.numpy()
    both = (perms[0] >= 0) & (perms[1] >= 0)
    alike = [mean(decoder_cosines(a, b, perm)[both]) for perm in perms]
    row = DISTANCES.row(
        **_of(pair),
        distance=distance,
        composed_matched=int((perms[0] >= 0).sum()),
        exact_matched=int((perms[1] >= 0).sum()),
        agreement=mean((perms[0] == perms[1])[both].astype(float)),
        composed_cost=composed.objective,
        exact_cost=exact.objective,
        composed_cosine=alike[0],
        exact_cosine=alike[1],
    )
    return {DISTANCES.name: [row]}


def _of(pair: Pair) -> dict[str, int]:
    return {"source": pair[0], "target": pair[1]}


def _count(counts: dict[int, Indices], ages: Indices, old: np.ndarray, to_the_last: bool) -> None:
    for age in np.unique(ages):
        these = ages == age
        found = np.array([these.sum(), old[these].sum(), these.sum() if to_the_last else 0])
        counts[int(age)] = counts.get(int(age), np.zeros(3, np.int64)) + found


def _unbroken(steps: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs in the runs in which each begins where the one before ends."""
    found: list[list[Pair]] = []
    for pair in steps:
        if found and found[-1][-1][1] == pair[0]:
            found[-1].append(pair)
        else:
            found.append([pair])
    return found
