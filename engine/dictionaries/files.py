"""The files of a comparison: `consistency.json`, and tables as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saematch.analysis.tables import Row, Schema, Table
from saematch.dictionaries.decisions import DECISIONS, found_columns, others_of
from saematch.dictionaries.definitions import (
    FEATURES_TABLE,
    HISTOGRAM_TABLE,
    PAIRS_TABLE,
    PARTNERS_TABLE,
    RATES_TABLE,
    SAES_TABLE,
)
from saematch.dictionaries.measures import EDGES, STATISTICS
from saematch.storage.csvfile import csv_rows
from saematch.storage.folders import LocalFolder, replacing
from saematch.storage.jsonfile import as_json

if TYPE_CHECKING:
    from saematch.dictionaries.result import Consistency, PairConsistency

RESULT = "consistency.json"
Chunk = Mapping[str, list[Any]]  # columns of some rows
_WHOLE = {"feature", "partner", "encoder_partner", "joint_partner", "nearest", "compared_with", "shared_with"}
_TEXT = {"sae", "other", "decision", "found_in", "partners", "similarities", "margins"}


def write_all(result: Consistency, folder: LocalFolder) -> None:
    """Write all files. Raises `MatchError` if the folder cannot be written."""
    folder.write(RESULT, as_json(result.as_dict()))
    for table in tables_of(result):
        table.write(folder)
    _write_columns(folder, PARTNERS_TABLE, lambda: _partner_chunks(result))
    _write_columns(folder, FEATURES_TABLE, lambda: _feature_chunks(result))


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
    under = {
        f"{name}_{statistic}": None if null is None else null.mean[statistic]
        for name, null in (("null_random", pair.null_random), ("null_rotated", pair.null_rotated))
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
        yield chunk


def _feature_chunks(result: Consistency) -> Iterator[Chunk]:
    for name in result.shared_with_all:
        yield found_columns(result.partners, name, result.rates.get(name))


def listed(values: np.ndarray) -> list[Any]:
    """Return an array as a list, with None for values that are not finite."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    return [value if known else None for value, known in zip(values.tolist(), np.isfinite(values), strict=True)]


def _write_columns(folder: LocalFolder, schema: Schema, chunks: Any) -> None:
    """Write a table with a row for each feature, some rows at a time, as CSV and, if it is installed, by pyarrow."""
    with replacing(folder.path / f"{schema.name}.csv") as aside:
        _write_csv(aside, schema, chunks())
    if find_spec("pyarrow") is not None:
        with replacing(folder.path / f"{schema.name}.parquet") as aside:
            _write_parquet(aside, schema, chunks())


def _write_csv(path: Path, schema: Schema, chunks: Iterable[Chunk]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_rows(file)
        writer.writerow(schema.columns)
        for chunk in chunks:
            writer.writerows(zip(*(chunk[name] for name in schema.columns), strict=True))


def _write_parquet(path: Path, schema: Schema, chunks: Iterable[Chunk]) -> None:
    import pyarrow
    import pyarrow.parquet

    def type_of(name: str) -> Any:
        return pyarrow.int32() if name in _WHOLE else pyarrow.string() if name in _TEXT else pyarrow.float64()

    fields = [pyarrow.field(name, type_of(name), metadata={"about": about}) for name, about in schema.columns.items()]
    columns = pyarrow.schema(fields, metadata={"about": schema.about})
    with pyarrow.parquet.ParquetWriter(path, columns) as writer:
        for chunk in chunks:
            writer.write_table(pyarrow.table([chunk[name] for name in schema.columns], schema=columns))
