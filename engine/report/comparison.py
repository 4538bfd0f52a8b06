"""Write the page of a comparison of SAEs: what `saematch consistency` found, to be read and searched in a browser."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from saematch.analysis.shareable import Shareable, common_folder
from saematch.dictionaries import Consistency
from saematch.dictionaries.decisions import DECISIONS, others_of
from saematch.dictionaries.definitions import DEFINITIONS, NULLS, PAIRS_TABLE, PARTNERS_TABLE, SAES_TABLE
from saematch.dictionaries.files import tables_of
from saematch.dictionaries.measures import EDGES, STATISTICS
from saematch.report.contents import pack_columns
from saematch.report.page import Page, data_element
from saematch.storage.folders import local_path, replacing

_VERSION = 1  # of the summary
COMPARISON = Page(
    "comparison.html",
    ("Overview", "Pictures", "Features"),
    ("comparison.js", "agreement.js", "features.js", "comparison_app.js"),
)


def write_comparison(result: Consistency, path: str | os.PathLike[str]) -> None:
    """Write the page of a comparison of SAEs as one HTML file, which needs no network.

    Args:
        result: the result of `saematch.consistency`.
        path: the HTML file to write; a file that exists is replaced.

    Raises:
        MatchError: if the file cannot be written.

    Examples:
        >>> import saematch as sm
        >>> from saematch.report import write_comparison
        >>> write_comparison(sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0), "seeds.html")
    """
    places = {sae["name"]: place for place, sae in enumerate(result.saes)}
    with replacing(local_path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(COMPARISON.head())
        for (sae, other), columns in result.partners.items():
            file.write(data_element(f"partners-{places[sae]}-{places[other]}", pack_columns(columns)))
        for sae, rates in result.rates.items():
            file.write(data_element(f"rates-{places[sae]}", pack_columns({"rate": rates})))
        file.write(COMPARISON.tail(summary_of(result)))


def summary_of(result: Consistency) -> dict[str, Any]:
    """Return the numbers of a comparison and the definition of each of them, as JSON content.

    SAEs are named by their place in the list `saes`, and paths have no folders above those of the SAEs.
    """
    places = {sae["name"]: place for place, sae in enumerate(result.saes)}
    tables = {table.schema.name: table.rows for table in tables_of(result)}
    shares = {row["sae"]: row for row in tables[SAES_TABLE.name]}
    left_out = ("files", "sha256", "options")
    saes = [
        {name: value for name, value in sae.items() if name not in left_out}
        | shares.get(sae["name"], {})
        | {"compared": [places[other] for other in others_of(result.partners, sae["name"])]}
        for sae in result.saes
    ]
    pairs = [
        pair.as_dict() | {"a": places[pair.a], "b": places[pair.b], "histograms": pair.histograms}
        for pair in result.pairs
    ]
    rates = [row | {"sae": places[row["sae"]], "other": places[row["other"]]} for row in result.firing_rates]
    content = {
        **{name: getattr(result, name) for name in ("axis", "threshold", "certified", "provenance")},
        "schema": _VERSION,
        "reference": None if result.reference is None else places[result.reference],
        "pw": {name: getattr(result, f"pw_{name}") for name in STATISTICS if name.startswith("mcc")},
        "saes": saes,
        "pairs": pairs,
        "firing_rates": rates,
        "edges": EDGES.tolist(),
        "statistics": STATISTICS,
        "nulls": NULLS,
        "decisions": DECISIONS,
        "margins": any(np.isfinite(columns["margin"]).any() for columns in result.partners.values()),
        "definitions": {
            **{name: text for name, (_, text) in DEFINITIONS.items()},
            **PAIRS_TABLE.columns,
            **SAES_TABLE.columns,
            **PARTNERS_TABLE.columns,
        },
    }
    shareable: dict[str, Any] = Shareable([common_folder(sae["path"] for sae in result.saes)]).content(content)
    return shareable
