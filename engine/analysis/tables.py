"""Tidy tables: one row an observation, every column defined; and the ledger of what was measured already."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from saematch.errors import MatchError
from saematch.numeric.rounding import Floats
from saematch.storage.folders import LocalFolder, csv_rows
from saematch.storage.jsonfile import finite_or_none
from saematch.storage.reading import refuse_pointer

Row = dict[str, Any]
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PAIR = {"source": "layer", "target": "layer"}
METHOD = {"method": "how it was matched, see tables.json", "seed": "of a random permutation, 0 for others"}


@dataclass(frozen=True)
class Schema:
    """What a table holds.

    Attributes:
        name: what its files are called.
        about: what is measured, in a sentence.
        columns: column -> its definition, with its unit.
    """

    name: str
    about: str
    columns: Mapping[str, str]

    def row(self, **values: Any) -> Row:
        """A row with all columns, in order; a number that is not finite is no value, None."""
        assert values.keys() == self.columns.keys(), set(values) ^ set(self.columns)
        return {column: finite_or_none(values[column]) for column in self.columns}


@dataclass
class Table:
    """Rows of one measurement, a dictionary each."""

    schema: Schema
    rows: list[Row] = field(default_factory=list)

    def where(self, **values: Any) -> list[Row]:
        """The rows that have these values. Raises `MatchError` for a column that is not there."""
        for column in values:
            if column not in self.schema.columns:
                known = ", ".join(self.schema.columns)
                raise MatchError(f"table {self.schema.name} has no column {column!r}; it has {known}")
        return [row for row in self.rows if all(row[column] == value for column, value in values.items())]

    @classmethod
    def read(cls, folder: LocalFolder, schema: Schema) -> Table:
        """What `write` wrote. Raises `MatchError` if it is not there, or something else."""
        content = folder.read(f"{schema.name}.csv")
        refuse_pointer(content, f"{folder}/{schema.name}.csv")
        rows = list(csv.DictReader(io.StringIO(content.decode(errors="replace"))))
        if rows and list(rows[0]) != list(schema.columns):
            raise MatchError(f"{folder}/{schema.name}.csv: its columns are not those of this version; measure again")
        return cls(schema, [{column: _parsed(value) for column, value in row.items()} for row in rows])

    def write(self, folder: LocalFolder) -> None:
        """`{name}.csv`, and `{name}.parquet` with the definitions in its metadata where pyarrow is installed.

        Raises `MatchError` where the folder cannot be written.
        """
        text = io.StringIO()
        writer = csv_rows(text)
        writer.writerow(self.schema.columns)
        writer.writerows([row[column] for column in self.schema.columns] for row in self.rows)
        folder.write(f"{self.schema.name}.csv", text.getvalue().encode())
        if find_spec("pyarrow") is None:
            return
        import pyarrow
        import pyarrow.parquet

        columns = {column: [row[column] for row in self.rows] for column in self.schema.columns}
        about = {"about": self.schema.about, **self.schema.columns}
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), buffer)
        folder.write(f"{self.schema.name}.parquet", buffer.getvalue())


class Ledger:
    """Measurements by name, each kept in a file with a fingerprint of what it was made from.

    An evaluation that was stopped goes on after them; one of other inputs measures again.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder

    def measured(self, name: str, of: Any, measure: Callable[[], Mapping[str, list[Row]]]) -> dict[str, list[Row]]:
        """Table name -> rows: from the file if it was made from the same `of`, else what `measure` returns."""
        mark = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
        file = f"parts/{name}.json"
        if f"{name}.json" in self._folder.names("parts"):
            try:
                kept = json.loads(self._folder.read(file))
                if kept["of"] == mark:
                    return {table: list(rows) for table, rows in kept["rows"].items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise MatchError(f"{self._folder}/{file}: not a measurement; remove it") from error
        rows = dict(measure())
        self._folder.write(file, json.dumps({"of": mark, "rows": rows}, allow_nan=False).encode())
        return rows


def quantiles(values: Floats) -> dict[str, float]:
    """The columns of `quantile_columns`."""
    found = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"q{100 * q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def quantile_columns(over: str) -> dict[str, str]:
    """Columns for a distribution."""
    return {f"q{100 * q:g}": f"{q:g}-quantile over {over}" for q in QUANTILES}


def mean(values: Floats) -> float:
    """Of the finite values; NaN where there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def same(values: Iterable[Any]) -> str:
    """A short mark of some arrays, equal for equal content."""
    mark = hashlib.sha256()
    for value in values:
        mark.update(np.ascontiguousarray(value).tobytes())
    return mark.hexdigest()


def _parsed(cell: str | None) -> Any:
    named = {"": None, None: None, "True": True, "False": False}
    if cell in named:
        return named[cell]
    for kind in (int, float):
        try:
            return kind(str(cell))
        except ValueError:
            continue
    return cell
