"""The features of an SAE: their partners in another SAE, and whether they are shared, unique or uncertain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.dictionaries.measures import PairMeasures
from saematch.numeric.rounding import Floats

DECISIONS = ("shared", "unique", "uncertain")
SHARED, UNIQUE, UNCERTAIN = range(3)
DECILES = 10
PLACES = ("partner", "encoder_partner", "joint_partner", "nearest")  # columns that hold numbers of features
Columns = dict[str, NDArray[Any]]
Partners = Mapping[tuple[str, str], Columns]


def columns_of(measures: PairMeasures, side: int, threshold: float) -> Columns:
    """Return what is known of each feature of one side of a comparison: the columns of the table `partners`.

    The column `decision` holds places in `DECISIONS`.
    """
    decoder, encoder, joint = (measures.matched[kind, False][side] for kind in ("decoder", "encoder", "joint"))
    by_decoder, by_encoder = measures.nearest["decoder"], measures.nearest["encoder"]
    nearest, cosine = (by_decoder.partner, by_decoder.cosine) if not side else (by_decoder.back, by_decoder.back_cosine)
    encoder_cosine = by_encoder.back_cosine if side else by_encoder.cosine
    unlike = (cosine <= threshold) & (encoder_cosine <= threshold)
    shared = measures.shared(side, threshold)
    return {
        "decision": np.where(shared, SHARED, np.where(unlike, UNIQUE, UNCERTAIN)),
        "partner": decoder.partner,
        "similarity": decoder.similarity,
        **_margins(measures, side),
        "encoder_partner": encoder.partner,
        "encoder_similarity": encoder.similarity,
        "joint_partner": joint.partner,
        "joint_similarity": joint.similarity,
        "nearest": nearest,
        "nearest_similarity": cosine,
        "nearest_encoder_similarity": encoder_cosine,
    }


def _margins(measures: PairMeasures, side: int) -> Columns:
    """Return the margins of the matching of decoders by feature of one side, and which of them are exact.

    Both are NaN where margins are not known. A margin that is infinite is NaN, too.
    """
    if measures.margins is None:
        return dict.fromkeys(("margin", "margin_exact"), np.full(measures.features[side], np.nan))
    bound, is_exact = measures.margins.bound.numpy(), measures.margins.is_exact.double().numpy()
    if side:  # a target feature has the margin of its pair
        partner = measures.matched["decoder", False][1].partner
        bound, is_exact = (np.append(values, np.nan)[partner] for values in (bound, is_exact))
    return {"margin": np.where(np.isfinite(bound), bound, np.nan), "margin_exact": is_exact}


def as_arrays(columns: Mapping[str, list[Any]]) -> Columns:
    """Return the columns of `columns_of` from lists, with NaN for None."""
    whole = ("decision", *PLACES)
    return {name: np.array(values, dtype=np.int64 if name in whole else float) for name, values in columns.items()}


def others_of(partners: Partners, name: str) -> list[str]:
    """Return the names of the SAEs that an SAE was compared with."""
    return [other for sae, other in partners if sae == name]


def decisions_of(partners: Partners, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return in how many other SAEs each feature of an SAE is shared, and the decision over all of them.

    A feature is shared if it is shared with at least one SAE, unique if it is unique compared with all, and else
    uncertain.
    """
    each = np.array([partners[name, other]["decision"] for other in others_of(partners, name)])
    shared_with = (each == SHARED).sum(axis=0)
    over_all = np.where(shared_with > 0, SHARED, np.where((each == UNIQUE).all(axis=0), UNIQUE, UNCERTAIN))
    return shared_with, over_all


def found_columns(partners: Partners, name: str, rates: Floats | None) -> dict[str, list[Any]]:
    """Return the columns of the table `features` for one SAE: in which other SAEs each feature is found."""
    others = others_of(partners, name)
    shared_with, decisions = decisions_of(partners, name)
    each = {other: partners[name, other] for other in others}
    numbers = {"similarities": "similarity", "margins": "margin", "margins_exact": "margin_exact"}
    found: dict[str, list[str]] = {column: [] for column in ("found_in", "partners", *numbers)}
    for feature, count in enumerate(shared_with):
        where = [other for other in others if count and each[other]["decision"][feature] == SHARED]
        found["found_in"].append(";".join(where))
        found["partners"].append(";".join(str(each[other]["partner"][feature]) for other in where))
        for column, values in numbers.items():
            shown = [_shown(float(each[other][values][feature])) for other in where]
            found[column].append(";".join(shown) if any(shown) else "")
    features = len(shared_with)
    return {
        "sae": [name] * features,
        "feature": list(range(features)),
        "compared_with": [len(others)] * features,
        "shared_with": shared_with.tolist(),
        "decision": [DECISIONS[decision] for decision in decisions],
        **found,
        "firing_rate": [None] * features if rates is None else rates.tolist(),
    }


def _shown(number: float) -> str:
    return f"{number:.6g}" if np.isfinite(number) else ""


def deciles(rates: Floats) -> list[NDArray[np.int64]]:
    """Return the features in ten groups of equal size in order of their firing rate, the least active first.

    Among equal rates, the lower number comes first. There are fewer groups if there are fewer features.
    """
    order = np.argsort(rates, kind="stable")
    return np.array_split(order, min(DECILES, len(order)))


def by_firing_rate(partners: Partners, rates: Mapping[str, Floats]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table `firing_rates`, for each SAE whose firing rates are known."""
    for (sae, other), columns in partners.items():
        if sae not in rates:
            continue
        for number, features in enumerate(deciles(rates[sae]), 1):
            similarity = columns["similarity"][features]
            similarity = similarity[np.isfinite(similarity)]
            yield {
                "sae": sae,
                "other": other,
                "decile": number,
                "features": len(features),
                "low": float(rates[sae][features].min()),
                "high": float(rates[sae][features].max()),
                "shared": float((columns["decision"][features] == SHARED).mean()),
                "similarity": float(similarity.mean()) if len(similarity) else None,
            }
