"""The contents of the page of a run: a summary, and the columns of every pair of layers as packed arrays."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from saematch.analysis.findings import DEFINITIONS, Columns, Findings
from saematch.analysis.persistence import LEAST_COSINES, lifetimes, persistence, quantities
from saematch.analysis.tables import Table, finite_mean
from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.evaluation.explanations import checked_explanations
from saematch.evaluation.weights import DISTANCES, MSE
from saematch.matching.basis import describe_basis
from saematch.numeric.rounding import Floats
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import finite_or_none

_VERSION = 1  # of the summary
_INTEGERS = ("partner", "runner_up", "margin_exact", "tied")
# Of the 23 bits of a float32's mantissa, 16 are kept, which is 5 decimal digits. More would only fill the file.
_KEPT_BITS = np.uint32(0xFFFFFF00)
PAGE_DEFINITIONS = {
    **DEFINITIONS,
    "random_cost": "expected cost of as many pairs that are made at random",
    "identity_cost": "cost of pairing each feature with the feature of the same number",
    "share": "cost as a share of the cost of a random pairing",
    "gap": "proved bound on how far the cost is above the optimum, rounding included",
    "persistent": "share of source features whose partner has a decoder cosine of at least {}",
    "vanished": "share of source features without such a partner",
    "born": "share of target features that are not such a partner of any source feature",
    "seconds": "wall time from reading the SAEs of the pair to its proof",
    "l0": "mean number of features that are active on a token, as the files or the path of the SAE say",
}


class Contents:
    """The contents of the page of a run.

    `write_report` calls `pair` once for every pair of layers, in the order of the run, and then `summary`, which
    includes what was computed for the pairs. `Server` calls `summary` first; what is not computed yet is then taken
    from the records of the run, or is missing.

    Args:
        chain: the run.
        labels: text by layer and feature; by default the labels that are stored next to the SAEs.
        evaluation: a folder of tables that `saematch evaluate` wrote.
        neuronpedia: address of the SAEs on Neuronpedia, with `{layer}` for the number of the layer, like
            `gemma-2-2b/{layer}-gemmascope-res-16k`.
        margins: whether to compute margins and runners-up, with passes over all pairs of features.
        weights: whether to use the weights of the SAEs. Without them, the page has only partners and costs.

    Raises:
        MatchError: if the run has no finished pair, or the labels do not belong to it.

    Examples:
        >>> import saematch as sm
        >>> from saematch.report import Contents
        >>> chain = sm.match_layers(sm.load_layers("sample"), pairs=[(8, 9)])
        >>> contents = Contents(chain, labels={8: {17: "names of rivers"}})
        >>> contents.labels(8)
        {17: 'names of rivers'}
        >>> [(pair["source"], pair["target"], pair["certified"]) for pair in contents.summary()["pairs"]]
        [(8, 9, True)]
    """

    def __init__(
        self,
        chain: Chain,
        *,
        labels: Mapping[int, Mapping[int, str]] | None = None,
        evaluation: str | os.PathLike[str] | None = None,
        neuronpedia: str | None = None,
        margins: bool = False,
        weights: bool = True,
    ) -> None:
        if not len(chain):
            raise MatchError("the run has no finished pair to show")
        self.chain, self.findings = chain, Findings(chain, margins, weights)
        self._labels = None if labels is None else checked_explanations(labels, chain)
        self._evaluation, self._neuronpedia = evaluation, neuronpedia
        self._pairs: list[dict[str, Any]] = []
        self._quantities: dict[int, list[dict[str, Any]]] = {}
        self._cosines: dict[Pair, Floats] = {}

    def columns(self, pair: Pair) -> Columns:
        """Return the columns of a pair, for a page that asks for them. The summary does not change."""
        return self.findings.columns(pair)

    def pair(self, pair: Pair) -> bytes:
        """Return the columns of a pair, see `pack_columns`, and add what they say to the summary."""
        columns = self.findings.columns(pair)
        self._pairs.append(self._describe(pair, columns))
        if "cosine" in columns:
            self._cosines[pair] = columns["cosine"]
        for layer in pair[:1] if self.chain.of_two_sets else pair:
            sae = self.findings.source(layer)
            if sae is not None and layer not in self._quantities:
                self._quantities[layer] = [
                    {"quantity": name, **{key: finite_or_none(number) for key, number in numbers.items()}}
                    for name, numbers in quantities(sae).items()
                ]
        return pack_columns(columns)

    def labels(self, layer: int) -> dict[int, str]:
        """Return the labels of the features of a layer."""
        if self._labels is not None:
            return dict(self._labels.get(layer, {}))
        return self.chain.labels(layer)

    def summary(self) -> dict[str, Any]:
        """Return what was matched, how well and with what, and the definition of every number, as JSON content.

        Raises:
            MatchError: if the folder of the evaluation does not exist, or has no table of an evaluation.
        """
        record = self.chain.record
        steps = self.chain.steps()
        lived = []
        if steps and set(steps) <= set(self._cosines):
            lived = lifetimes(self.chain, {pair: self._cosines[pair] for pair in steps})
        failures = [{"source": a, "target": b, "reason": reason} for (a, b), reason in self.chain.failures.items()]
        return {
            "schema": _VERSION,
            "run": {name: record.get(name) for name in ("id", "source", "against", "options", "versions", "machine")},
            "folder": self.chain.folder,
            "complete": self.chain.complete,
            "two_sets": self.chain.of_two_sets,
            "same": LEAST_COSINES,
            "layers": [self._layer(layer) for layer in self.chain.layers],
            "pairs": self._pairs or [self._outline(pair) for pair in self.chain],
            "failures": failures,
            "lifetimes": [lifetime._asdict() for lifetime in lived],
            "evaluation": self._evaluated(),
            "basis": describe_basis([self.chain.pair_record(pair).get("stats", {}) for pair in self.chain]),
            "without_saes": self.findings.without_saes,
            "definitions": PAGE_DEFINITIONS,
        }

    def _outline(self, pair: Pair) -> dict[str, Any]:
        """Describe a pair by its record, without reading its matching."""
        record, numbers = self.chain.pair_record(pair), self.chain.scalars()[pair]
        features, targets = self.chain.shape(pair)
        return {
            "source": pair[0],
            "target": pair[1],
            "features": features,
            "targets": targets,
            "matched": None,
            "cost": numbers["cost"],
            "random_cost": numbers["random_cost"],
            "gap": numbers["proof_gap"],
            "certified": numbers["certified"],
            "status": numbers["status"],
            "seconds": record.get("seconds"),
            "columns": self.findings.expected(),
            "identity_cost": None,
            "mean_cosine": None,
        }

    def _describe(self, pair: Pair, columns: Columns) -> dict[str, Any]:
        """Describe a pair by its matching and its columns."""
        matching, record = self.chain[pair], self.chain.pair_record(pair)
        cosine, perm = columns.get("cosine"), columns["partner"]
        description: dict[str, Any] = {
            "source": pair[0],
            "target": pair[1],
            "features": len(perm),
            "targets": matching.target_features,
            "matched": int((perm >= 0).sum()),
            "cost": matching.cost,
            "random_cost": finite_or_none(matching.random_cost),
            "gap": finite_or_none(matching.proof_gap),
            "certified": matching.certified,
            "status": matching.status,
            "seconds": record.get("seconds"),
            "columns": list(columns),
            "identity_cost": self._identity_cost(pair),
            "mean_cosine": None if cosine is None else finite_or_none(finite_mean(cosine)),
        }
        if cosine is not None:
            shares = [persistence(cosine, perm, matching.target_features, least) for least in LEAST_COSINES]
            description["persistent"] = [persistent for persistent, _ in shares]
            description["born"] = [born for _, born in shares]
        return description

    def _identity_cost(self, pair: Pair) -> float | None:
        """Return the cost of pairing features by number; None if the two layers differ in size or cannot be read."""
        layers = self.findings.layers(pair)
        if layers is None or len(layers[0].rows) != len(layers[1].rows):
            return None
        return math.fsum(squared_distances(layers[0].rows, layers[1].rows, np.arange(len(layers[0].rows))))

    def _layer(self, layer: int) -> dict[str, Any]:
        """Describe a layer, as far as the run recorded it and its SAE can be found."""
        description: dict[str, Any] = {
            "layer": layer,
            "quantities": self._quantities.get(layer, []),
            "l0": None,
            "notes": [],
            "neuronpedia": None,
        }
        record = self.chain.input_record(layer)  # of a source; a second set of SAEs is not shown
        if record is not None:
            shown = ("path", "format", "F", "d", "activation", "notes")
            description |= {name: value for name, value in record.items() if name in shown}
        try:
            handle = self.chain.inputs().handles.get(layer)
            if handle is not None:
                description["l0"] = handle.l0
                description["neuronpedia"] = next(iter(handle.neuronpedia_names()), None)
        except (MatchError, OSError):
            pass  # an SAE that cannot be found has no L0 and no address
        if self._neuronpedia is not None:
            description["neuronpedia"] = self._neuronpedia.replace("{layer}", str(layer))
        return description

    def _evaluated(self) -> dict[str, Any]:
        """Return the rows of the evaluation that the page shows: errors by method, and composed matchings."""
        if self._evaluation is None:
            return {}
        folder, tables = LocalFolder(self._evaluation), {}
        for schema in (MSE, DISTANCES):
            if f"{schema.name}.csv" in folder.names():
                tables[schema.name] = Table.read(folder, schema).rows
        if not tables:
            missing = "no tables of saematch evaluate in it" if folder.path.exists() else "no such folder"
            raise MatchError(f"{self._evaluation}: {missing}")
        if "mse" in tables:
            tables["mse"] = [row for row in tables["mse"] if row["part"] == "all"]
        return tables


def pack_columns(columns: Columns, level: int = 6) -> bytes:
    """Return columns as gzipped bytes.

    The first line is a JSON list of the names, padded with spaces so that its length is a multiple of 4 bytes. The
    columns follow, one after another: little-endian int32, or float32 with 5 decimal digits.
    """
    names = json.dumps(list(columns))
    line = names + " " * (-(len(names) + 1) % 4) + "\n"
    packed = [_packed(name, values) for name, values in columns.items()]
    return gzip.compress(b"".join([line.encode(), *packed]), level, mtime=0)


def _packed(name: str, values: Any) -> bytes:
    if name in _INTEGERS:
        return np.asarray(values, "<i4").tobytes()
    return (np.asarray(values, "<f4").view("<u4") & _KEPT_BITS).tobytes()


def pack_labels(labels: Mapping[int, str]) -> bytes:
    """Return labels as gzipped JSON: a list of features, and a list of their texts."""
    return gzip.compress(json.dumps([list(labels), list(labels.values())]).encode(), 6, mtime=0)
