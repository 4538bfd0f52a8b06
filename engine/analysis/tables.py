"""Tidy tables, with one row per observation and a definition for every column; and a ledger of measurements."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from saematch.errors import MatchError
from saematch.numeric.rounding import Floats
from saematch.storage.csvfile import csv_rows
from saematch.storage.folders import LocalFolder, replacing
from saematch.storage.jsonfile import finite_or_none
from saematch.storage.reading import refuse_pointer
from saematch.text import html_table

Row = dict[str, Any]
Chunk = Mapping[str, list[Any]]  # the columns of some rows
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PAIR = {"source": "number of the source layer", "target": "number of the target layer"}
METHOD = {
    "method": "method that matched the layers, see tables.json",
    "seed": "seed of a random permutation; 0 for all other methods",
}


@dataclass(frozen=True)
class Schema:
    """The definition of a table.

    Attributes:
        name: name of the table and of its files.
        about: what the table measures, in one phrase.
        columns: definition of each column, with its unit.
    """

    name: str
    about: str
    columns: Mapping[str, str]

    def row(self, **values: Any) -> Row:
        """Return a row with all columns in order. Numbers that are not finite become None, which means no value."""
        assert values.keys() == self.columns.keys(), set(values) ^ set(self.columns)
        return {column: finite_or_none(values[column]) for column in self.columns}


@dataclass(repr=False)
class Table:
    """The rows of one measurement, one dictionary per row."""

    schema: Schema
    rows: list[Row] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Table({self.schema.name!r}, {len(self.rows)} rows)"

    def _repr_html_(self) -> str:
        rows = [[row[column] for column in self.schema.columns] for row in self.rows]
        return html_table(f"{self!r}: {self.schema.about}", list(self.schema.columns), rows)

    def where(self, **values: Any) -> list[Row]:
        """Return the rows that have these values. Raises `MatchError` for a column that the table does not have."""
        for column in values:
            if column not in self.schema.columns:
                known = ", ".join(self.schema.columns)
                raise MatchError(f"table {self.schema.name} has no column {column!r}; it has {known}")
        return [row for row in self.rows if all(row[column] == value for column, value in values.items())]

    @classmethod
    def read(cls, folder: LocalFolder, schema: Schema) -> Table:
        """Read a table that `write` wrote. Raises `MatchError` if the file is missing or is not such a table."""
        content = folder.read(f"{schema.name}.csv")
        refuse_pointer(content, f"{folder}/{schema.name}.csv")
        rows = list(csv.DictReader(io.StringIO(content.decode(errors="replace"))))
        if rows and list(rows[0]) != list(schema.columns):
            raise MatchError(
                f"{folder}/{schema.name}.csv: its columns are not those of this version; evaluate the run again"
            )
        if any(None in row or None in row.values() for row in rows):  # too many cells, or too few
            raise MatchError(f"{folder}/{schema.name}.csv: damaged: a line is cut off; evaluate the run again")
        return cls(schema, [{column: _parsed(value) for column, value in row.items()} for row in rows])

    def write(self, folder: LocalFolder) -> None:
        """Write `{name}.csv`, and, if pyarrow is installed, `{name}.parquet` with the definitions in its metadata.

        Raises:
            MatchError: if the folder cannot be written.
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


def write_columns(
    folder: LocalFolder,
    schema: Schema,
    chunks: Callable[[], Iterable[Chunk]],
    *,
    whole: Collection[str],
    text: Collection[str],
) -> None:
    """Write a table with a row for each feature, some rows at a time, as CSV and, if it is installed, by pyarrow.

    Args:
        folder: the folder of the files.
        schema: the table, whose name is that of the files.
        chunks: a function that makes the rows again, once for each file.
        whole: see `write_parquet`.
        text: see `write_parquet`.
    """
    with replacing(folder.path / f"{schema.name}.csv") as aside:
        write_csv(aside, schema.columns, chunks())
    if find_spec("pyarrow") is not None:
        about = {"about": schema.about}
        with replacing(folder.path / f"{schema.name}.parquet") as aside:
            write_parquet(aside, schema.columns, chunks(), whole=whole, text=text, metadata=about)


def write_csv(path: Path, columns: Iterable[str], chunks: Iterable[Chunk]) -> int:
    """Write a table as CSV, some rows at a time, and return the number of rows."""
    names, written = list(columns), 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_rows(file)
        writer.writerow(names)
        for chunk in chunks:
            writer.writerows(zip(*(chunk[name] for name in names), strict=True))
            written += len(chunk[names[0]])
    return written


def write_parquet(
    path: Path,
    columns: Mapping[str, str],
    chunks: Iterable[Chunk],
    *,
    whole: Collection[str],
    text: Collection[str],
    metadata: Mapping[str, str],
) -> int:
    """Write a table by pyarrow, some rows at a time, and return the number of rows.

    Args:
        path: the file.
        columns: name -> definition, which is written into the metadata of the column.
        chunks: the rows.
        whole: the columns of whole numbers.
        text: the columns of text; all others hold real numbers.
        metadata: the metadata of the table.
    """
    import pyarrow
    import pyarrow.parquet

    def type_of(name: str) -> Any:
        return pyarrow.int32() if name in whole else pyarrow.string() if name in text else pyarrow.float64()

    fields = [pyarrow.field(name, type_of(name), metadata={"about": about}) for name, about in columns.items()]
    schema, written = pyarrow.schema(fields, metadata=dict(metadata)), 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in chunks:
            table = pyarrow.table([chunk[name] for name in columns], schema=schema)
            writer.write_table(table)
            written += table.num_rows
    return written


class Ledger:
    """Measurements by name, each in a file of its own with a fingerprint of everything that it depends on.

    An evaluation that was stopped resumes after the measurements in its ledger. If the inputs change, their
    fingerprints change, and the measurements are made again.
    """

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder

    def measured(self, name: str, inputs: Any, measure: Callable[[], Mapping[str, list[Row]]]) -> dict[str, list[Row]]:
        """Return the rows of a measurement by table, and make the measurement only if that is necessary.

        Args:
            name: name of the measurement, and of its file.
            inputs: everything that the measurement depends on, in types that JSON has.
            measure: makes the measurement.

        Raises:
            MatchError: if the file of the measurement holds something else, or cannot be written.
        """
        part, unfinished = self._part(name, inputs), self.unfinished(name, inputs)
        stored = part.read()
        if stored is None:
            stored = dict(measure())
            part.write(stored)
            unfinished.remove()
        return {table: list(rows) for table, rows in stored.items()}

    def unfinished(self, name: str, inputs: Any) -> Part:
        """Return the file for what a measurement has done so far, for measurements that resume in their midst."""
        return self._part(f"{name}.unfinished", inputs)

    def _part(self, name: str, inputs: Any) -> Part:
        fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return Part(self._folder, f"{name}.json", fingerprint)


@dataclass(frozen=True)
class Part:
    """A file of a ledger.

    Attributes:
        folder: the folder of the ledger.
        name: the name of the file.
        inputs: the fingerprint of everything that the content depends on.
    """

    folder: LocalFolder
    name: str
    inputs: str

    def read(self) -> dict[str, Any] | None:
        """Return the content; None if there is none for these inputs, or the file is damaged, to be measured again."""
        if self.name not in self.folder.names("parts"):
            return None
        try:
            stored = json.loads(self.folder.read(f"parts/{self.name}"))
            return dict(stored["rows"]) if stored["of"] == self.inputs else None
        except (ValueError, KeyError, TypeError):
            return None

    def write(self, rows: Mapping[str, Any]) -> None:
        """Write the content. Raises `MatchError` if the file cannot be written."""
        content = json.dumps({"of": self.inputs, "rows": rows}, allow_nan=False)
        self.folder.write(f"parts/{self.name}", content.encode())

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.folder.remove(f"parts/{self.name}")


def quantiles(values: Floats) -> dict[str, float]:
    """Return the values of `quantile_columns` for a distribution; NaN for one without values."""
    levels = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"q{100 * q:g}": float(level) for q, level in zip(QUANTILES, levels, strict=True)}


def quantile_columns(over: str) -> dict[str, str]:
    """Return columns for the quantiles of a distribution, with their definitions.

    >>> quantile_columns("features")["q5"]
    '0.05-quantile over features'
    """
    return {f"q{100 * q:g}": f"{q:g}-quantile over {over}" for q in QUANTILES}


def finite_mean(values: Floats) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def fingerprint(values: Iterable[Any]) -> str:
    """Return a fingerprint of arrays, which is equal for equal content."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _parsed(cell: str | None) -> Any:
    constants = {"": None, None: None, "True": True, "False": False}
    if cell in constants:
        return constants[cell]
    for kind in (int, float):
        try:
            return kind(str(cell))
        except ValueError:
            continue
    return cell
