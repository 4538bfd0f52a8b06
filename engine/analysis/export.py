"""The findings of a run for other programs: one row a feature and pair, or a graph of who is matched with whom."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from saematch.analysis.findings import COLUMNS, Columns, Findings
from saematch.errors import MatchError
from saematch.options import TableFormat, names
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.storage.folders import csv_rows, local_path, replacing

SCHEMA = 1
NAMES = {
    "source": "layer of the feature", "target": "layer of its partner", "feature": "number of the feature",
    **COLUMNS, "label": "what the feature fires on", "partner_label": "what its partner fires on",
}  # fmt: skip
_NOT_IN_XML = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)), "\ufffd")


def export(
    chain: Chain,
    path: str | os.PathLike[str],
    format: TableFormat,
    *,
    firm: bool = False,
    most_cost: float = math.inf,
    least_cosine: float = -math.inf,
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the findings of a run; pairs without a matching are left out. Returns the rows, or edges, written.

    Args:
        format: "csv", "parquet" (needs pyarrow), "json" (columns by pair, with definitions and where all of it is from)
            or "graphml" (nodes are features, edges are matched pairs).
        firm: margins and runners-up too.
        most_cost: leave out pairs of features that cost more.
        least_cosine: leave out pairs of features whose decoder rows are less alike.

    Raises:
        MatchError: for an unknown format, no pair, SAEs that are asked for and gone, or a file that cannot be written.
    """
    if format not in names(TableFormat):
        raise MatchError(f"format {format!r} is not known; known are {', '.join(names(TableFormat))}")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise MatchError("parquet needs pyarrow: pip install 'saematch[evaluate]'")
    if not len(chain):
        raise MatchError("the run has no finished pair to export")
    findings = Findings(chain, firm)
    written = 0

    def _tables() -> Iterator[tuple[Pair, dict[str, list[Any]]]]:
        nonlocal written
        for pair in chain:
            progress(f"pair {pair[0]}-{pair[1]}")
            columns = findings.of(pair)
            if (firm or math.isfinite(least_cosine)) and "cosine" not in columns:
                what = "margins" if firm else "cosines"
                raise MatchError(f"{what} need the SAEs of the run, which are not there ({findings.gone})")
            table = _table(chain, pair, columns, most_cost, least_cosine)
            written += len(table["feature"])
            yield pair, table

    with replacing(local_path(path)) as aside:
        {"csv": _write_csv, "parquet": _write_parquet, "json": _write_json, "graphml": _write_graphml}[format](
            aside, chain, _tables()
        )
    return written


def _table(chain: Chain, pair: Pair, columns: Columns, most_cost: float, least_cosine: float) -> dict[str, list[Any]]:
    """All columns of `NAMES`, None where a value is not known."""
    kept = columns["cost"] <= most_cost
    if math.isfinite(least_cosine):
        kept &= np.nan_to_num(columns["cosine"], nan=-math.inf) >= least_cosine
    features = np.nonzero(kept)[0]
    table: dict[str, list[Any]] = {
        "source": [pair[0]] * len(features),
        "target": [pair[1]] * len(features),
        "feature": features.tolist(),
    }
    for name in COLUMNS:
        values = columns[name][features] if name in columns else np.full(len(features), np.nan)
        finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        table[name] = [value if known else None for value, known in zip(values.tolist(), finite, strict=True)]
    table["tied"] = [None if value is None else int(value) for value in table["tied"]]
    labels = chain.labels(pair[0])
    others = {} if chain.of_two_sets else chain.labels(pair[1])  # of another set of targets no labels are known
    table["label"] = [labels.get(feature) for feature in table["feature"]]
    table["partner_label"] = [others.get(partner) if partner >= 0 else None for partner in table["partner"]]
    return table


def _write_csv(path: Path, _: Chain, tables: Iterator[tuple[Pair, dict[str, list[Any]]]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_rows(file)
        writer.writerow(NAMES)
        for _pair, table in tables:
            writer.writerows(zip(*(table[name] for name in NAMES), strict=True))


def _write_parquet(path: Path, chain: Chain, tables: Iterator[tuple[Pair, dict[str, list[Any]]]]) -> None:
    import pyarrow
    import pyarrow.parquet

    whole = {"source", "target", "feature", "partner", "runner_up", "tied"}
    kinds = {name: pyarrow.int32() if name in whole else pyarrow.float64() for name in NAMES}
    kinds |= {"label": pyarrow.string(), "partner_label": pyarrow.string()}
    fields = [pyarrow.field(name, kinds[name], metadata={"about": NAMES[name]}) for name in NAMES]
    schema = pyarrow.schema(fields, metadata={"saematch": json.dumps(_provenance(chain))})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for _pair, table in tables:
            writer.write_table(pyarrow.table([table[name] for name in NAMES], schema=schema))


def _write_json(path: Path, chain: Chain, tables: Iterator[tuple[Pair, dict[str, list[Any]]]]) -> None:
    """A pair at a time, so that a large run is never there as a whole."""
    with path.open("w", encoding="ascii") as file:
        head = {"schema": SCHEMA, "columns": NAMES, **_provenance(chain)}
        file.write(json.dumps(head, allow_nan=False)[:-1] + ', "pairs": [')
        for number, ((source, target), table) in enumerate(tables):
            found: dict[str, Any] = {"source": source, "target": target}
            found |= {name: values for name, values in table.items() if name not in found}
            file.write((",\n" if number else "\n") + json.dumps(found, allow_nan=False))
        file.write("\n]}\n")


def _write_graphml(path: Path, chain: Chain, tables: Iterator[tuple[Pair, dict[str, list[Any]]]]) -> None:
    """Nodes before edges, as some readers want it: edges are held as text until then."""
    edges = io.StringIO()
    nodes: dict[tuple[int, int, int], str | None] = {}
    side = 1 if chain.of_two_sets else 0
    numbers = [name for name in COLUMNS if name not in ("partner", "runner_up", "runner_up_cost")]
    for (source, target), table in tables:
        for at, (feature, partner) in enumerate(zip(table["feature"], table["partner"], strict=True)):
            if partner < 0:
                continue
            nodes[0, source, feature] = table["label"][at]
            nodes[side, target, partner] = table["partner_label"][at]
            edges.write(f'<edge source="0:{source}:{feature}" target="{side}:{target}:{partner}">')
            edges.writelines(
                f'<data key="{name}">{table[name][at]}</data>' for name in numbers if table[name][at] is not None
            )
            edges.write("</edge>\n")
    with path.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        file.write(f"<desc>{_text(json.dumps(_provenance(chain)))}</desc>\n")
        for name in ("layer", "feature", "label"):
            kind = "string" if name == "label" else "int"
            file.write(f'<key id="{name}" for="node" attr.name="{name}" attr.type="{kind}"/>\n')
        for name in numbers:
            file.write(f'<key id="{name}" for="edge" attr.name="{name}" attr.type="double"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for (of, layer, feature), label in nodes.items():
            file.write(
                f'<node id="{of}:{layer}:{feature}"><data key="layer">{layer}</data>'
                f'<data key="feature">{feature}</data>'
            )
            file.write(f'<data key="label">{_text(label)}</data></node>\n' if label is not None else "</node>\n")
        file.write(edges.getvalue() + "</graph>\n</graphml>\n")


def _provenance(chain: Chain) -> dict[str, Any]:
    """What was matched, how, and with what."""
    inputs: dict[str, Any] = {}
    for pair in chain:
        recorded = chain.pair_record(pair).get("inputs", ())
        inputs |= {
            f"{side} {layer}": each for side, layer, each in zip(("source", "target"), pair, recorded, strict=False)
        }
    known = ("id", "source", "against", "options", "versions", "machine")
    return {"run": {name: chain.record.get(name) for name in known}, "inputs": inputs}


def _text(text: str) -> str:
    return escape(text.translate(_NOT_IN_XML), {"\r": "&#13;"})  # else a reader takes it for a line feed
