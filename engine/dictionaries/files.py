"""Writing the files of a comparison: `consistency.json`, and tables as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from saematch.analysis.tables import Chunk, Row, Table, write_columns
from saematch.dictionaries.decisions import DECISIONS, PLACES, found_columns, others_of
from saematch.dictionaries.definitions import (
    FEATURES_TABLE,
    HISTOGRAM_TABLE,
    NULLS,
    PAIRS_TABLE,
    PARTNERS_TABLE,
    RATES_TABLE,
    SAES_TABLE,
)
from saematch.dictionaries.measures import EDGES, STATISTICS
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import as_json, finite_or_none

if TYPE_CHECKING:
    from saematch.dictionaries.result import Consistency, NullModel, PairConsistency

RESULT = "consistency.json"
_WHOLE = {*PLACES, "feature", "margin_exact", "compared_with", "shared_with"}
_TEXT = {"sae", "other", "decision", "found_in", "partners", "similarities", "margins", "margins_exact"}


def write_all(result: Consistency, folder: LocalFolder) -> None:
    """Write all files. Raises `MatchError` if the folder cannot be written."""
    for table in tables_of(result):
        table.write(folder)
    write_columns(folder, PARTNERS_TABLE, lambda: _partner_chunks(result), whole=_WHOLE, text=_TEXT)
    write_columns(folder, FEATURES_TABLE, lambda: _feature_chunks(result), whole=_WHOLE, text=_TEXT)
    folder.write(RESULT, as_json(result.as_dict()))  # at last: where it is, the tables are


def tables_of(result: Consistency) -> list[Table]:
    """Return the small tables; `firing_rates` only if firing rates were given."""
    tables = [
        Table(PAIRS_TABLE, [PAIRS_TABLE.row(**_pair_values(pair)) for pair in result.pairs]),
        Table(
            SAES_TABLE, [SAES_TABLE.row(**_sae_values(result, sae)) for sae in result.saes if _is_compared(result, sae)]
        ),
        Table(HISTOGRAM_TABLE, [HISTOGRAM_TABLE.row(**row) for pair in result.pairs for row in _histogram_rows(pair)]),
        Table(RATES_TABLE, [RATES_TABLE.row(**row) for row in result.firing_rates]),
    ]
    return [table for table in tables if table.rows]


def _is_compared(result: Consistency, sae: Mapping[str, Any]) -> bool:
    return sae["name"] in result.shared_with_all


def _pair_values(pair: PairConsistency) -> Row:
    nulls: dict[str, NullModel | None] = {name: getattr(pair, name) for name in NULLS}
    under = {
        f"{name}_{statistic}": None if null is None else null.mean[statistic]
        for name, null in nulls.items()
        for statistic in STATISTICS
    }
    own = {name: getattr(pair, name) for name in ("a", "b", "features_a", "features_b", "certified")}
    return own | pair.numbers() | under


def _sae_values(result: Consistency, sae: Mapping[str, Any]) -> Row:
    name = sae["name"]
    shares = {
        column: getattr(result, column)[name] for column in ("shared_with_all", "shared_with_some", "shared_with_none")
    }
    counts = {"features": sae["F"], "compared_with": len(others_of(result.partners, name))}
    return {"sae": name, **counts, **shares, "unique": result.decisions[name]["unique"]}


def _histogram_rows(pair: PairConsistency) -> Iterator[Row]:
    for of, by_kind in pair.histograms.items():
        for kind, counts in by_kind.items():
            for low, high, count in zip(EDGES[:-1], EDGES[1:], counts, strict=True):
                ends = {"low": round(float(low), 12), "high": round(float(high), 12)}
                yield {"a": pair.a, "b": pair.b, "kind": kind, "of": of, **ends, "features": count}


def _partner_chunks(result: Consistency) -> Iterator[Chunk]:
    for (sae, other), columns in result.partners.items():
        features = len(columns["partner"])
        chunk: dict[str, list[Any]] = {
            "sae": [sae] * features,
            "other": [other] * features,
            "feature": list(range(features)),
        }
        for name, values in columns.items():
            chunk[name] = [DECISIONS[place] for place in values] if name == "decision" else listed(values)
        chunk["margin_exact"] = [None if value is None else int(value) for value in chunk["margin_exact"]]
        yield chunk


def _feature_chunks(result: Consistency) -> Iterator[Chunk]:
    for name in result.shared_with_all:
        yield found_columns(result.partners, name, result.rates.get(name))


def listed(values: np.ndarray) -> list[Any]:
    """Return an array as a list, with None for values that are not finite."""
    return [finite_or_none(value) for value in values.tolist()]
