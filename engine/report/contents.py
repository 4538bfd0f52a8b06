"""The contents of the page of a run: a summary, and the columns of every pair of layers as packed arrays."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.analysis.findings import DEFINITIONS, Columns, Findings
from saematch.analysis.persistence import LEAST_COSINES, lifetimes, persistence, quantities
from saematch.analysis.shareable import Shareable, places_of
from saematch.analysis.tables import Table, finite_mean
from saematch.errors import MatchError
from saematch.evaluation.weights import DISTANCES, MSE
from saematch.matching.basis import describe_basis
from saematch.numeric.rounding import Floats
from saematch.options import Side
from saematch.report.flow import describe_flow
from saematch.runs.chain import Chain
from saematch.runs.labels import features_of
from saematch.runs.plan import Pair
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import finite_or_none

_VERSION = 2  # of the summary
_ADDRESS = re.compile(r"[\w.-]+/([0-9]+)-[\w.-]+")  # of an SAE on Neuronpedia
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
        labels: text by layer and feature; by default the labels of the chain.
        evaluation: a folder of tables that `saematch evaluate` wrote.
        neuronpedia: address of the SAEs on Neuronpedia, with `{layer}` for the number of the layer, like
            `gemma-2-2b/{layer}-gemmascope-res-16k`.
        against_neuronpedia: the same for a second set of SAEs.
        margins: whether to compute margins and runners-up, with passes over all pairs of features.
        weights: whether to use the weights of the SAEs. Without them, the page has only partners and costs.

    Raises:
        MatchError: if the run has no finished pair, or the labels or the addresses do not belong to it.

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
        labels: Mapping[int, Mapping[int, str]] | Mapping[str, Mapping[int, str]] | None = None,
        evaluation: str | os.PathLike[str] | None = None,
        neuronpedia: str | None = None,
        against_neuronpedia: str | None = None,
        margins: bool = False,
        weights: bool = True,
    ) -> None:
        if not len(chain):
            raise MatchError("the run has no finished pair to show")
        self.chain = chain if labels is None else chain.labelled(labels)
        self.findings = Findings(self.chain, margins, weights)
        self.sets = [Side.SOURCE, Side.TARGET] if chain.of_two_sets else [Side.SOURCE]
        self._evaluation = evaluation
        self._neuronpedia = {
            Side.SOURCE: self._addresses(neuronpedia, "neuronpedia", Side.SOURCE),
            Side.TARGET: self._addresses(against_neuronpedia, "against_neuronpedia", Side.TARGET),
        }
        self._pairs: list[dict[str, Any]] = []
        self._quantities: dict[tuple[Side, int], list[dict[str, Any]]] = {}
        self._cosines: dict[Pair, Floats] = {}

    def __repr__(self) -> str:
        return f"Contents({self.chain!r})"

    def columns(self, pair: Pair) -> Columns:
        """Return the columns of a pair, for a page that asks for them. The summary does not change."""
        return self.findings.columns(pair)

    def pair(self, pair: Pair) -> bytes:
        """Return the columns of a pair, see `pack_columns`, and add what they say to the summary."""
        columns = self.findings.columns(pair)
        self._pairs.append(self._describe(pair, columns))
        if "cosine" in columns:
            self._cosines[pair] = columns["cosine"]
        sides = self.sets if self.chain.of_two_sets else [Side.SOURCE, Side.SOURCE]
        for side, layer in zip(sides, pair, strict=True):
            sae = self.findings.sae(layer, side)
            if sae is not None and (side, layer) not in self._quantities:
                self._quantities[side, layer] = [
                    {"quantity": name, **{key: finite_or_none(number) for key, number in numbers.items()}}
                    for name, numbers in quantities(sae).items()
                ]
        return pack_columns(columns)

    def layers(self) -> list[tuple[Side, int]]:
        """Return the layers of every set of SAEs, in ascending order. A run of one set has the side of the sources."""
        return [(side, layer) for side in self.sets for layer in sorted(features_of(self.chain, side))]

    def labels(self, layer: int, side: Side = Side.SOURCE) -> dict[int, str]:
        """Return the labels of the features of a layer."""
        return self.chain.labels(layer, side)

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
        content = {
            "schema": _VERSION,
            "run": {name: record.get(name) for name in ("id", "source", "against", "options", "versions", "machine")},
            "folder": self.chain.folder,
            "complete": self.chain.complete,
            "two_sets": self.chain.of_two_sets,
            "same": LEAST_COSINES,
            "layers": [self._layer(layer, side) for side, layer in self.layers()],
            "pairs": self._pairs or [self._outline(pair) for pair in self.chain],
            "failures": failures,
            "lifetimes": [lifetime._asdict() for lifetime in lived],
            "evaluation": self._evaluated(),
            "basis": describe_basis([self.chain.pair_record(pair).get("stats", {}) for pair in self.chain]),
            "without_saes": self.findings.without_saes,
            "flow": self._flow(),
            "definitions": PAGE_DEFINITIONS,
        }
        shareable: dict[str, Any] = Shareable(places_of(self.chain)).content(content)
        names = self.chain.names
        sites = [names.sites[number].site for number in sorted(names.sites)]
        return shareable | {"names": list(names.names), "axis": names.axis, "several": names.several, "sites": sites}

    def _flow(self) -> dict[str, Any] | None:
        """Return the predecessors of features by site, if the run is a flow: the nearest ones only with margins."""
        if not self.chain.names.sites:
            return None
        nearest = self.findings.margins and bool(self._pairs) and self.findings.without_saes is None
        return describe_flow(self.chain, nearest)

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
        problem = self.findings.problem(pair)
        if problem is None or problem.shape[0] != problem.shape[1]:
            return None
        return math.fsum(problem.pair_cost(np.arange(problem.shape[0])))

    def _layer(self, layer: int, side: Side) -> dict[str, Any]:
        """Describe a layer, as far as the run recorded it and its SAE can be found."""
        description: dict[str, Any] = {
            "layer": layer,
            "set": int(side),
            "quantities": self._quantities.get((side, layer), []),
            "l0": None,
            "notes": [],
            "neuronpedia": None,
        }
        record = self.chain.input_record(layer, side)
        if record is not None:
            shown = ("path", "format", "F", "d", "activation", "notes")
            description |= {name: value for name, value in record.items() if name in shown}
        try:
            handle = self.chain.inputs(side).handles.get(layer)
            if handle is not None:
                description["l0"] = handle.l0
                description["neuronpedia"] = next(iter(handle.neuronpedia_names()), None)
        except (MatchError, OSError):
            pass  # an SAE that cannot be found has no L0 and no address
        addresses = self._neuronpedia[side]
        if addresses is not None:
            description["neuronpedia"] = addresses.get(layer)
        return description

    def _addresses(self, given: str | None, name: str, side: Side) -> dict[int, str] | None:
        """Return layer -> address on Neuronpedia, for the layers that `given` is an address of."""
        if given is None:
            return None
        if self.chain.names.names:
            raise MatchError(f"{name} is for layers, and the SAEs of this run have names")
        named = {layer: given.replace("{layer}", str(layer)) for layer in features_of(self.chain, side)}
        found = {layer: _ADDRESS.fullmatch(address) for layer, address in named.items()}
        addresses = {layer: match[0] for layer, match in found.items() if match and int(match[1]) == layer}
        if not addresses:
            raise MatchError(
                f"{name}={given!r}: not the address of SAEs of this run on Neuronpedia; give the model and the source, "
                "like gemma-2-2b/{layer}-gemmascope-res-16k"
            )
        return addresses

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

    The first line is JSON, the kind of each column by its name, padded with spaces so that its length is a multiple of
    4 bytes. The columns follow, one after another: little-endian int32, or float32 with 5 decimal digits.
    """
    kinds = {name: "int32" if values.dtype.kind in "bi" else "float32" for name, values in columns.items()}
    about = json.dumps(kinds)
    line = about + " " * (-(len(about) + 1) % 4) + "\n"
    packed = [_packed(kinds[name], values) for name, values in columns.items()]
    return gzip.compress(b"".join([line.encode(), *packed]), level, mtime=0)


def _packed(kind: str, values: NDArray[Any]) -> bytes:
    if kind == "int32":
        return values.astype("<i4").tobytes()
    return (values.astype("<f4").view("<u4") & _KEPT_BITS).tobytes()


def pack_labels(labels: Mapping[int, str]) -> bytes:
    """Return labels as gzipped JSON: a list of features, and a list of their texts."""
    return gzip.compress(json.dumps([list(labels), list(labels.values())]).encode(), 6, mtime=0)
