"""Reading a comparison from its files."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from saematch.analysis.tables import Schema
from saematch.dictionaries.decisions import DECISIONS, PLACES, Columns, as_arrays
from saematch.dictionaries.definitions import (
    FEATURES_TABLE,
    HISTOGRAM_TABLE,
    NULLS,
    PARTNERS_TABLE,
    RATES_TABLE,
    SCHEMA,
)
from saematch.dictionaries.files import RESULT
from saematch.dictionaries.measures import EDGES, MCC, STATISTICS
from saematch.dictionaries.similarity import KINDS, Kind
from saematch.errors import MatchError, refusals
from saematch.numeric.rounding import Floats
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import read_json
from saematch.storage.reading import refuse_pointer_at

T = TypeVar("T")
Cells = Mapping[str, Sequence[str]]  # the columns of some rows, as they are written
_MOST_BYTES = 2**28  # of the numbers of all pairs
NOT_OURS = "not a comparison that saematch wrote"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, csv.Error)


def read_all(folder: LocalFolder) -> dict[str, Any]:
    """Return the fields of the `Consistency` that a folder holds, by name, and those of its pairs with "histograms".

    Raises:
        MatchError: if there is no comparison, another version wrote it, or its files are damaged or do not fit.
    """
    record: dict[str, Any] = read_json(folder.path / RESULT, most=_MOST_BYTES)
    with refusals(NOT_OURS, folder, *_DAMAGED):
        if record["schema"] != SCHEMA:
            raise MatchError(f"{folder}/{RESULT}: schema {record['schema']!r:.40}, this version reads {SCHEMA}")
        counts = _by_key(folder, HISTOGRAM_TABLE, 4, lambda cells: cells["features"])
        for pair in record["pairs"]:
            pair["histograms"] = {of: _histogram(counts, pair, of) for of in _of_what(pair)}
        found = _by_key(folder, PARTNERS_TABLE, 2, _columns)
        partners = {}
        for pair in record["pairs"]:
            sides = [(pair["a"], pair["features_a"]), (pair["b"], pair["features_b"])]
            for (one, features), (other, others) in itertools.permutations(sides):
                partners[one, other] = _checked(found[one, other], features, others)
        rates = _by_key(folder, FEATURES_TABLE, 1, _rates) if record["firing_rates"] else {}
        known = {name: values for (name,), values in rates.items() if values is not None}
        _check(record, known)
        return record | {"partners": partners, "rates": known}


def _check(record: Mapping[str, Any], rates: Mapping[str, Floats]) -> None:
    """Raise one of `_DAMAGED` unless a record has all that tables and the page show, for the SAEs that it names."""
    json.dumps(record, allow_nan=False)  # refuses NaN and infinite numbers
    sizes = {sae["name"]: sae["F"] for sae in record["saes"]}
    compared = {pair[side] for pair in record["pairs"] for side in "ab"}
    if not compared or any(len(values) != sizes[name] for name, values in rates.items()):
        raise ValueError("there is no pair, or the firing rates are not those of the features")
    numbers = [record["threshold"], *(record[f"pw_{name}"] for name in MCC), *(sizes[name] for name in compared)]
    for pair in record["pairs"]:
        numbers += [values[name] for values in (pair, *_means(pair)) for name in STATISTICS]
    for name in compared:
        numbers += [record[f"shared_with_{by}"][name] for by in ("all", "some", "none")]
        numbers += [record["decisions"][name][decision] for decision in DECISIONS]
    math.fsum(numbers)  # refuses anything but numbers
    for row in record["firing_rates"]:
        if row.keys() != RATES_TABLE.columns.keys() or not {row["sae"], row["other"]} <= compared:
            raise ValueError("a firing rate is not of these SAEs")
    for sae in record["saes"]:
        if not isinstance(sae["name"], str) or not isinstance(sae["path"], str | None):
            raise TypeError("an SAE has no name, or its path is not a text")


def _means(pair: Mapping[str, Any]) -> list[Mapping[str, float]]:
    return [pair[name]["mean"] for name in NULLS if pair[name] is not None]


def _by_key(folder: LocalFolder, schema: Schema, keys: int, of: Callable[[Cells], T]) -> dict[tuple[str, ...], T]:
    """Return what `of` makes of the rows that have the same values in the first columns, by these values."""
    path, made = folder.path / f"{schema.name}.csv", dict[tuple[str, ...], T]()
    refuse_pointer_at(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != list(schema.columns):
            raise MatchError(f"{path}: its columns are not those of this version; compare the SAEs again")
        for key, group in itertools.groupby(rows, lambda row: tuple(row[:keys])):
            made[key] = of(dict(zip(schema.columns, zip(*group, strict=True), strict=True)))
    return made


def _of_what(pair: Mapping[str, Any]) -> list[str]:
    return ["matched", *(name for name in NULLS if pair[name] is not None)]


def _histogram(counts: Mapping[tuple[str, ...], Sequence[str]], pair: Mapping[str, Any], of: str) -> dict[Kind, Any]:
    number: Callable[[str], float] = int if of == "matched" else float
    found = {kind: [number(cell) for cell in counts[pair["a"], pair["b"], kind, of]] for kind in KINDS}
    if any(len(bins) != len(EDGES) - 1 or not math.isfinite(math.fsum(bins)) for bins in found.values()):
        raise ValueError("bins of similarities are missing")
    return found


def _columns(cells: Cells) -> Columns:
    """Return the columns of the table `partners` as arrays."""
    if [*map(int, cells["feature"])] != [*range(len(cells["feature"]))]:
        raise ValueError("features are missing")
    columns: dict[str, list[Any]] = {"decision": [DECISIONS.index(cell) for cell in cells["decision"]]}
    for name in [*PARTNERS_TABLE.columns][4:]:
        number: Callable[[str], float] = int if name in PLACES else float
        columns[name] = [number(cell) if cell else None for cell in cells[name]]
    return as_arrays(columns)


def _checked(columns: Columns, features: int, others: int) -> Columns:
    """Return the columns of one side of a pair. Raises `ValueError` if they do not fit the sizes of both SAEs."""
    if any(len(values) != features for values in columns.values()):
        raise ValueError("the number of features is not that of the SAE")
    if any(((columns[name] < -1) | (columns[name] >= others)).any() for name in PLACES):
        raise ValueError("a partner is not a feature of the other SAE")
    return columns


def _rates(cells: Cells) -> Floats | None:
    rates = cells["firing_rate"]
    return np.array([float(rate) for rate in rates]) if all(rates) else None
