"""What the page of a run shows: a summary, and the columns of every pair of layers as packed arrays."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from saematch.analysis.findings import COLUMNS, FIRM, SAME, Columns, Findings, persistence
from saematch.analysis.tables import Table, mean
from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.evaluation.explanations import checked_explanations
from saematch.evaluation.weights import DISTANCES, MSE, measure_layer, measure_lifetimes
from saematch.numeric.rounding import Floats
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.features import PARTS
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import finite_or_none

SCHEMA = 1
_WHOLE = ("partner", "runner_up", "tied")
_KEPT_BITS = np.uint32(0xFFFFFF00)  # of a float32: 16 of its mantissa, 5 digits; the rest would only fill the file
DEFINITIONS = {
    **COLUMNS,
    "random_cost": "what as many pairs would cost if they were random, on average",
    "identity_cost": "what pairing each feature with the one of the same number would cost",
    "share": "cost as a share of a random pairing's",
    "gap": "how far above the optimum the matching may be, rounding included; the proof",
    "persistent": "share of source features whose partner has a decoder cosine of at least {}",
    "vanished": "share of source features without such a partner",
    "born": "share of target features that are nobody's such partner",
    "seconds": "wall time from reading the SAEs of the pair to its proof",
    "l0": "mean number of features that are active on a token, as the SAE's files or path say",
}


class Contents:
    """The contents of a page. A pair is looked at once, in the order of the run; the summary is whole after the last.

    Args:
        labels: layer -> feature -> text; what lies beside the SAEs unless given.
        evaluation: folder of tables that `saematch evaluate` wrote.
        neuronpedia: address of a layer's features there, with `{layer}`, like `gemma-2-2b/{layer}-gemmascope-res-16k`.
        firm: margins and runners-up too.
        weights: whether to look into the SAEs at all; without them a page has partners and costs.

    Raises:
        MatchError: if the run has no finished pair.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        labels: Mapping[int, Mapping[int, str]] | None = None,
        evaluation: str | os.PathLike[str] | None = None,
        neuronpedia: str | None = None,
        firm: bool = False,
        weights: bool = True,
    ) -> None:
        if not len(chain):
            raise MatchError("the run has no finished pair to show")
        self.chain, self.findings = chain, Findings(chain, firm and weights)
        if not weights:
            self.findings.gone = "the page was made without looking into the SAEs"
        self._labels = None if labels is None else checked_explanations(labels, chain)
        self._evaluation, self._neuronpedia = evaluation, neuronpedia
        self._pairs: list[dict[str, Any]] = []
        self._quantities: dict[int, list[dict[str, Any]]] = {}
        self._cosines: dict[Pair, Floats] = {}

    def columns(self, pair: Pair) -> Columns:
        """The columns of a pair, for a page that asks for them; what it shows of a pair is then known from the run."""
        return self.findings.of(pair)

    def pair(self, pair: Pair) -> bytes:
        """The columns of a pair, see `packed_columns`."""
        columns = self.findings.of(pair)
        self._pairs.append(self._about(pair, columns))
        if "cosine" in columns:
            self._cosines[pair] = columns["cosine"]
        for side, layer in enumerate(pair):
            sae = self.findings.sae(side if self.chain.of_two_sets else 0, layer)
            if sae is not None and layer not in self._quantities and not (side and self.chain.of_two_sets):
                self._quantities[layer] = measure_layer(layer, sae)["layers"]
        return packed_columns(columns)

    def labels(self, layer: int) -> dict[int, str]:
        """What the features of a layer fire on."""
        if self._labels is not None:
            return dict(self._labels.get(layer, {}))
        return self.chain.labels(layer)

    def summary(self) -> dict[str, Any]:
        """For JSON: what was matched, how well, with what; definitions of every number."""
        record = self.chain.record
        steps = [pair for pair in self.chain if self.chain.way_from(pair[0])[1:2] == [pair[1]]]
        lifetimes = {}
        if steps and set(steps) <= set(self._cosines):
            lifetimes = measure_lifetimes(self.chain, {pair: self._cosines[pair] for pair in steps})
        return {
            "schema": SCHEMA,
            "run": {name: record.get(name) for name in ("id", "source", "against", "options", "versions", "machine")},
            "folder": self.chain.folder,
            "complete": self.chain.complete,
            "two_sets": self.chain.of_two_sets,
            "same": SAME,
            "layers": [self._layer(layer) for layer in self.chain.layers],
            "pairs": self._pairs or [self._outline(pair) for pair in self.chain],
            "failures": [{"source": a, "target": b, "reason": why} for (a, b), why in self.chain.failures.items()],
            "lifetimes": lifetimes.get("lifetimes", []),
            "evaluation": self._evaluated(),
            "without_saes": self.findings.gone,
            "definitions": DEFINITIONS,
        }

    def _outline(self, pair: Pair) -> dict[str, Any]:
        """A pair as its record has it: no array is read."""
        record, numbers = self.chain.pair_record(pair), self.chain.scalars()[pair]
        features = [each["F"] for each in record["inputs"]]
        return {
            "source": pair[0],
            "target": pair[1],
            "features": features[0],
            "targets": features[1],
            "matched": None,
            "cost": numbers["cost"],
            "random_cost": numbers["random_cost"],
            "gap": numbers["proof_gap"],
            "certified": numbers["certified"],
            "status": numbers["status"],
            "seconds": record.get("seconds"),
            "columns": self._expected(),
            "identity_cost": None,
            "mean_cosine": None,
        }

    def _expected(self) -> list[str]:
        """The columns that pairs have, should their SAEs be there."""
        assert self.chain.comparison is not None
        without = {str(part) for part in PARTS if part not in self.chain.comparison.parts}
        if not self.findings.firm:
            without |= set(FIRM)
        return ["partner", "cost"] if self.findings.gone else [name for name in COLUMNS if name not in without]

    def _about(self, pair: Pair, columns: Columns) -> dict[str, Any]:
        matching, record = self.chain[pair], self.chain.pair_record(pair)
        cosine, perm = columns.get("cosine"), columns["partner"]
        about: dict[str, Any] = {
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
            "identity_cost": self._identity(pair),
            "mean_cosine": None if cosine is None else finite_or_none(mean(cosine)),
        }
        if cosine is not None:
            shares = [persistence(cosine, perm, matching.target_features, least) for least in SAME]
            about["persistent"], about["born"] = [lasting for lasting, _ in shares], [born for _, born in shares]
        return about

    def _identity(self, pair: Pair) -> float | None:
        """What it would cost to pair features by number."""
        sides = self.findings.sides(pair)
        if sides is None or len(sides[0].rows) != len(sides[1].rows):
            return None
        return math.fsum(squared_distances(sides[0].rows, sides[1].rows, np.arange(len(sides[0].rows))))

    def _layer(self, layer: int) -> dict[str, Any]:
        about: dict[str, Any] = {
            "layer": layer,
            "quantities": self._quantities.get(layer, []),
            "l0": None,
            "notes": [],
            "neuronpedia": None,
        }
        for pair in self.chain:
            inputs = self.chain.pair_record(pair).get("inputs")
            if inputs and layer in pair[: 1 if self.chain.of_two_sets else 2]:
                about |= {
                    name: inputs[pair.index(layer)].get(name)
                    for name in ("path", "format", "F", "d", "activation", "notes")
                }
                break
        try:
            handle = self.chain.inputs.handles.get(layer)
            if handle is not None:
                about["l0"] = handle.l0
                about["neuronpedia"] = next(iter(handle.neuronpedia_names()), None)
        except (MatchError, OSError):
            pass  # what is not there is not shown
        if self._neuronpedia is not None:
            about["neuronpedia"] = self._neuronpedia.replace("{layer}", str(layer))
        return about

    def _evaluated(self) -> dict[str, Any]:
        """Mean squared errors by method, and composed against exact matchings, as far as they were measured."""
        if self._evaluation is None:
            return {}
        folder, found = LocalFolder(self._evaluation), {}
        for schema in (MSE, DISTANCES):
            if f"{schema.name}.csv" in folder.names():
                found[schema.name] = Table.read(folder, schema).rows
        if not found:
            missing = "no tables of saematch evaluate in it" if folder.path.exists() else "no such folder"
            raise MatchError(f"{self._evaluation}: {missing}")
        if "mse" in found:
            found["mse"] = [row for row in found["mse"] if row["part"] == "all"]
        return found


def packed_columns(columns: Columns, level: int = 6) -> bytes:
    """Columns for a page, gzipped: a line of JSON with their names, a multiple of 4 bytes long, then all of them.

    Each is little-endian int32, or float32 with the digits that a reader can see.
    """
    names = json.dumps(list(columns))
    line = names + " " * (-(len(names) + 1) % 4) + "\n"
    return gzip.compress(b"".join([line.encode(), *(_packed(*each) for each in columns.items())]), level, mtime=0)


def _packed(name: str, values: Any) -> bytes:
    if name in _WHOLE:
        return np.asarray(values, "<i4").tobytes()
    return (np.asarray(values, "<f4").view("<u4") & _KEPT_BITS).tobytes()


def packed_labels(labels: Mapping[int, str]) -> bytes:
    """Features and their texts, gzipped JSON."""
    return gzip.compress(json.dumps([list(labels), list(labels.values())]).encode(), 6, mtime=0)
