"""The findings of a run for other programs: as a table with one row per feature and pair of layers, or as a graph."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from saematch.analysis.findings import DEFINITIONS, Columns, Findings
from saematch.analysis.shareable import Shareable, places_of
from saematch.analysis.tables import write_csv, write_parquet
from saematch.errors import MatchError
from saematch.options import Side, TableFormat, names
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.runs.records import naming
from saematch.storage.folders import local_path, replacing
from saematch.storage.jsonfile import finite_or_none

_VERSION = 1  # of the JSON format
EXPORT_COLUMNS = {
    "source": "layer of the feature, or the name of its SAE",
    "target": "layer of the partner, or the name of its SAE",
    "feature": "number of the feature",
    **DEFINITIONS,
    "label": "label of the feature: what the feature fires on",
    "partner_label": "label of the partner",
}
_INTEGERS = {"source", "target", "feature", "partner", "runner_up", "runner_up_taken_by", "margin_exact", "tied"}
_ENDS = {"source", "target"}
_TEXTS = {"label", "partner_label"}
_EDGE_COLUMNS = [name for name in DEFINITIONS if name != "partner" and not name.startswith("runner_up")]
_NOT_IN_XML = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)), "\ufffd")
PairTable = dict[str, list[Any]]  # the columns of one pair


def export(
    chain: Chain,
    path: str | os.PathLike[str],
    format: TableFormat,
    *,
    margins: bool = False,
    max_cost: float = math.inf,
    min_cosine: float = -math.inf,
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the findings of a run to a file. Pairs of layers without a matching are left out.

    Args:
        chain: the run.
        path: the file to write; a file that exists is replaced.
        format: "csv", "parquet" (needs pyarrow), "json" (columns by pair of layers, with definitions and provenance)
            or "graphml" (features are nodes, matched pairs are edges).
        margins: whether to compute margins and runners-up, with passes over all pairs of features.
        max_cost: leave out features without a partner, and those whose pair costs more.
        min_cosine: leave out features without a partner, and those whose decoder row has a smaller cosine with that of
            their partner.
        progress: called with the name of each pair of layers before it is read.

    Returns:
        The number of rows, or of edges, that were written.

    Raises:
        MatchError: if the format is not known, the run has no finished pair, the SAEs are needed and cannot be read,
            or the file cannot be written.

    Examples:
        >>> import saematch as sm
        >>> from saematch.analysis.export import export
        >>> chain = sm.match_layers(sm.load_layers("sample"), pairs=[(8, 9), (9, 10)])
        >>> export(chain, "features.csv", "csv")
        2048
        >>> export(chain, "alike.graphml", "graphml", min_cosine=0.9)
        19
    """
    # Refuse what can be refused before any pair is read.
    if format not in names(TableFormat):
        raise MatchError(f"format {format!r} is not known; choose one of {', '.join(names(TableFormat))}")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise MatchError("parquet needs pyarrow: pip install 'saematch[evaluate]'")
    if not len(chain):
        raise MatchError("the run has no finished pair to export")
    findings = Findings(chain, margins)

    # Tables are made one at a time, while they are written, so that a large run is never in memory as a whole.
    def tables() -> Iterator[tuple[Pair, PairTable]]:
        for pair in chain:
            progress(f"pair {chain.names.pair_name(pair)}")
            columns = findings.columns(pair)
            if (margins or math.isfinite(min_cosine)) and "cosine" not in columns:
                what = "margins" if margins else "cosines"
                raise MatchError(f"{what} need the SAEs of the run, which cannot be read ({findings.without_saes})")
            yield pair, _table(chain, pair, columns, max_cost, min_cosine)

    write = {"csv": _write_csv, "parquet": _write_parquet, "json": _write_json, "graphml": _write_graphml}[format]
    with replacing(local_path(path)) as aside:
        return write(aside, chain, tables())


def _table(chain: Chain, pair: Pair, columns: Columns, max_cost: float, min_cosine: float) -> PairTable:
    """Return all columns of `EXPORT_COLUMNS` for the features that are exported, with None for unknown values."""
    exported = columns["cost"] <= max_cost
    if math.isfinite(max_cost):
        exported &= columns["partner"] >= 0
    if math.isfinite(min_cosine):
        exported &= np.nan_to_num(columns["cosine"], nan=-math.inf) >= min_cosine
    features = np.nonzero(exported)[0]
    source, target = chain.names.keys(pair)
    table: PairTable = {
        "source": [source] * len(features),
        "target": [target] * len(features),
        "feature": features.tolist(),
    }
    for name in DEFINITIONS:
        values = columns[name][features] if name in columns else np.full(len(features), np.nan)
        table[name] = [finite_or_none(value) for value in values.tolist()]
    for name in ("margin_exact", "tied"):
        table[name] = [None if value is None else int(value) for value in table[name]]
    labels = chain.labels(pair[0])
    partner_labels = chain.labels(pair[1], Side.TARGET)
    table["label"] = [labels.get(feature) for feature in table["feature"]]
    table["partner_label"] = [partner_labels.get(partner) if partner >= 0 else None for partner in table["partner"]]
    return table


def _write_csv(path: Path, _: Chain, tables: Iterator[tuple[Pair, PairTable]]) -> int:
    return write_csv(path, EXPORT_COLUMNS, (table for _pair, table in tables))


def _write_parquet(path: Path, chain: Chain, tables: Iterator[tuple[Pair, PairTable]]) -> int:
    chunks, provenance = (table for _pair, table in tables), {"saematch": json.dumps(_provenance(chain))}
    whole, text = (_INTEGERS - _ENDS, _TEXTS | _ENDS) if chain.names.names else (_INTEGERS, _TEXTS)
    return write_parquet(path, EXPORT_COLUMNS, chunks, whole=whole, text=text, metadata=provenance)


def _write_json(path: Path, chain: Chain, tables: Iterator[tuple[Pair, PairTable]]) -> int:
    written = 0
    with path.open("w", encoding="ascii") as file:
        head = {"schema": _VERSION, "columns": EXPORT_COLUMNS, **_provenance(chain)}
        file.write(json.dumps(head, allow_nan=False)[:-1] + ', "pairs": [')
        for number, (pair, table) in enumerate(tables):
            source, target = chain.names.keys(pair)
            file.write(",\n" if number else "\n")
            file.write(json.dumps({**table, "source": source, "target": target}, allow_nan=False))
            written += len(table["feature"])
        file.write("\n]}\n")
    return written


def _write_graphml(path: Path, chain: Chain, tables: Iterator[tuple[Pair, PairTable]]) -> int:
    """Write all nodes before all edges, as some readers expect; the edges are held as text until then."""
    # Collect the edges as text, and the label of every node that an edge leads to.
    edges = io.StringIO()
    written = 0
    labels: dict[str, str | None] = {}  # by node, which is called set:layer:feature
    target_set = 1 if chain.of_two_sets else 0
    for (source, target), table in tables:
        rows = zip(table["feature"], table["partner"], table["label"], table["partner_label"], strict=True)
        for number, (feature, partner, label, partner_label) in enumerate(rows):
            if partner < 0:
                continue
            ends = {"source": f"0:{source}:{feature}", "target": f"{target_set}:{target}:{partner}"}
            labels[ends["source"]], labels[ends["target"]] = label, partner_label
            edges.write(_element("edge", _data({name: table[name][number] for name in _EDGE_COLUMNS}), **ends) + "\n")
            written += 1
    # Write the head, which declares the keys of all data, then the nodes, then the edges.
    with path.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        file.write(_element("desc", _escaped(json.dumps(_provenance(chain)))) + "\n")
        layer_kind = "string" if chain.names.names else "int"
        keys = [("layer", "node", layer_kind), ("feature", "node", "int"), ("label", "node", "string")]
        keys += [(name, "edge", "double") for name in _EDGE_COLUMNS]
        for name, domain, kind in keys:
            attributes = {"id": name, "for": domain, "attr.name": name, "attr.type": kind}
            file.write(_element("key", **attributes) + "\n")
        file.write('<graph edgedefault="directed">\n')
        for node, label in labels.items():
            _, layer, feature = node.split(":")
            known = {"layer": chain.names.key(int(layer)), "feature": feature, "label": label}
            file.write(_element("node", _data(known), id=node) + "\n")
        file.write(edges.getvalue() + "</graph>\n</graphml>\n")
    return written


def _data(values: dict[str, Any]) -> str:
    """Return a `data` element for each value that is known."""
    return "".join(
        _element("data", _escaped(str(value)), key=name) for name, value in values.items() if value is not None
    )


def _element(name: str, content: str = "", **attributes: str) -> str:
    """Return an XML element. Its content is XML already; its attributes are escaped here."""
    quoted = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{quoted}>{content}</{name}>" if content else f"<{name}{quoted}/>"


def _escaped(text: str) -> str:
    """Escape a text for XML; characters that XML lacks become U+FFFD.

    A carriage return is written as a character reference, since XML readers take a plain one for a line feed.
    """
    return escape(text.translate(_NOT_IN_XML), {"\r": "&#13;"})


def _provenance(chain: Chain) -> dict[str, Any]:
    """Return what was matched, how, and with which versions; paths are without the folders of this machine."""
    inputs: dict[str, Any] = {}
    for pair in chain:
        records = chain.pair_record(pair).get("inputs", ())
        for side, layer, record in zip(Side, pair, records, strict=False):
            inputs[f"{side.name.lower()} {chain.names.key(layer)}"] = record
    known = ("id", "source", "against", "options", "versions", "machine")
    content: dict[str, Any] = {"run": {name: chain.record.get(name) for name in known}, "inputs": inputs}
    shareable: dict[str, Any] = Shareable(places_of(chain)).content(content)
    return shareable | {"run": shareable["run"] | naming(chain.names)}
