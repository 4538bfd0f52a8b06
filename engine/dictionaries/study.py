"""The comparison of all pairs of SAEs, pair by pair, with progress; finished pairs are kept in a folder."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

import saematch
from saematch.analysis.tables import Ledger
from saematch.assignment import Round
from saematch.dictionaries.decisions import Columns, as_arrays, columns_of
from saematch.dictionaries.definitions import NULLS, SCHEMA
from saematch.dictionaries.files import listed
from saematch.dictionaries.measures import Begin, PairMeasures, compare, steps
from saematch.dictionaries.nulls import Nulls
from saematch.dictionaries.result import PairConsistency, null_model_of
from saematch.dictionaries.similarity import Kind
from saematch.evaluation.schedule import Schedule
from saematch.matching.problem import check_widths
from saematch.runs.inputs import read_input
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS
from saematch.sae.spaces import check_spaces
from saematch.sources import SAEHandle

_NEEDS_BOTH = (
    "their consistency is measured by encoders and decoders; saematch.match and the command match compare the {part}s "
    'alone, with parts="{part}" and metric="cosine"; '
)


@dataclass(frozen=True)
class ConsistencyProgress:
    """An event of `saematch.consistency`: a step begins, or a pass over all pairs of features has ended.

    A step is a matching, or a search of the most similar features.

    Attributes:
        a: the name of SAE A.
        b: the name of SAE B.
        doing: what is computed, in words.
        done: the number of steps that are finished, or were found in the folder.
        total: the number of all steps.
        seconds_left: an estimate from the steps of this call; None before the first one is finished.
        last_pass: the state of the search after its last pass; None before the first pass.
    """

    a: str
    b: str
    doing: str
    done: int
    total: int
    seconds_left: float | None = None
    last_pass: Round | None = None


@dataclass(frozen=True)
class Settings:
    """The options of a comparison that all its pairs share.

    Attributes:
        threshold: the cosine above which matched features are shared.
        nulls: the number of seeds of each null model.
        margins: whether to compute margins.
        limits: options of `saematch.match` that say how the search runs.
        device: the device of the pass that finds the most similar features.
    """

    threshold: float
    nulls: int
    margins: bool
    limits: Mapping[str, Any]
    device: torch.device

    @property
    def steps(self) -> int:
        """The number of steps of one pair: matchings, and passes that find the most similar features."""
        return steps(2) + 2 * self.nulls * steps(1)

    def record(self) -> dict[str, Any]:
        """Return the options that the numbers of a pair depend on."""
        limits = {name: self.limits[name] for name in ("max_rounds", "time_limit")}
        return {"threshold": self.threshold, "nulls": self.nulls, "margins": self.margins, **limits}


@dataclass
class Study:
    """A comparison of SAEs.

    Attributes:
        handles: name -> SAE.
        pairs: the pairs of names that are compared.
        settings: the options.
        ledger: keeps the pairs that are finished; None to keep them in memory only.
        notify: is called with each event.
        records: name -> record of each SAE that was read.
    """

    handles: Mapping[str, SAEHandle]
    pairs: list[tuple[str, str]]
    settings: Settings
    ledger: Ledger | None
    notify: Callable[[ConsistencyProgress], None]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self) -> tuple[list[PairConsistency], dict[tuple[str, str], Columns]]:
        """Compare all pairs, and return their numbers, and what is known of each feature.

        Raises:
            MatchError: if an SAE cannot be read, or two have different widths or live in different spaces.
        """
        self._check_headers()
        schedule = Schedule({"step": self.settings.steps * len(self.pairs)}, {"step": 1.0})
        results, partners = [], dict[tuple[str, str], Columns]()
        opened = _Opened(self.handles, self.records)
        for a, b in self.pairs:
            measured = self._measured(a, b, opened, schedule)
            pair, source, target = measured["pair"][0], measured["source"][0], measured["target"][0]
            results.append(_as_pair(a, b, pair))
            partners[a, b], partners[b, a] = as_arrays(source), as_arrays(target)
        return results, partners

    def _check_headers(self) -> None:
        """Refuse SAEs of different widths or spaces before any weights are read, as far as headers tell."""
        known = {name: header for name, handle in self.handles.items() if (header := handle.header()) is not None}
        for first, other in itertools.pairwise(known.values()):
            check_widths(first.d, first.source, other.d, other.source, "d")
        for a, b in self.pairs:
            if a in known and b in known:
                check_spaces(known[a], known[b], PARTS, _NEEDS_BOTH)

    def _measured(self, a: str, b: str, opened: _Opened, schedule: Schedule) -> dict[str, list[dict[str, Any]]]:
        if self.ledger is None:
            return self._measure(a, b, opened, schedule)
        inputs = {
            "version": [saematch.__version__, SCHEMA],
            "saes": [[opened.record(name)["sha256"], opened.record(name)["options"]] for name in (a, b)],
            **self.settings.record(),
        }
        name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        before = schedule.number
        rows = self.ledger.measured(name, inputs, lambda: self._measure(a, b, opened, schedule))
        if schedule.number == before:
            for _ in range(self.settings.steps):
                schedule.begin("step")
                schedule.skip()
        return rows

    def _measure(self, a: str, b: str, opened: _Opened, schedule: Schedule) -> dict[str, list[dict[str, Any]]]:
        """Compare two SAEs, and B's null models with A. Return rows for JSON."""
        settings, first, second = self.settings, opened.read(a), opened.read(b)

        def begin(of: str) -> Begin:
            return lambda doing: self._step(schedule, a, b, f"{doing}{of}")

        # The two SAEs themselves.
        compared = compare(
            first, second, begin(""), settings.limits, settings.device, ("decoder", "encoder"), settings.margins
        )
        pair: dict[str, Any] = {
            "features": list(compared.features),
            "numbers": compared.numbers(settings.threshold),
            "certified": compared.certified,
            "histograms": {"matched": compared.histograms()},
        }
        # The null models of B.
        nulls = Nulls(second)
        for name, null, of in (
            ("null_random", nulls.random, "random directions"),
            ("null_rotated", nulls.rotated, "turned at random"),
        ):
            of_seeds = [
                compare(first, null(seed), begin(f", {of}, seed {seed}"), settings.limits, settings.device)
                for seed in range(settings.nulls)
            ]
            if of_seeds:
                values = [one.numbers(settings.threshold) for one in of_seeds]
                pair[name] = {"certified": all(one.certified for one in of_seeds), "values": values}
                pair["histograms"][name] = _mean_histograms(of_seeds)
        # The features of both.
        source, target = (columns_of(compared, side, settings.threshold) for side in (0, 1))
        return {"pair": [pair], "source": [_as_lists(source)], "target": [_as_lists(target)]}

    @contextmanager
    def _step(self, schedule: Schedule, a: str, b: str, doing: str) -> Iterator[Callable[[Round], None]]:
        """Report one step, and yield a function that reports its passes."""
        schedule.begin("step")
        event = ConsistencyProgress(a, b, doing, schedule.number - 1, schedule.total, schedule.seconds_left())
        self.notify(event)
        yield lambda last: self.notify(replace(event, last_pass=last))


class _Opened:
    """The SAEs that are in memory: those of the pair that is compared."""

    def __init__(self, handles: Mapping[str, SAEHandle], records: dict[str, dict[str, Any]]) -> None:
        self._handles, self._records = handles, records
        self._saes: dict[str, SAE] = {}

    def read(self, name: str) -> SAE:
        """Return an SAE; the one that was asked for before the last two is forgotten."""
        sae = self._saes.pop(name, None)
        if sae is None:
            while len(self._saes) > 1:
                del self._saes[next(iter(self._saes))]
            if name in self._records:
                sae = self._handles[name].read()
            else:
                sae, record = read_input(self._handles[name])
                self._records[name] = dict(record)
        self._saes[name] = sae
        return sae

    def record(self, name: str) -> dict[str, Any]:
        """Return the record of an SAE, which is read for it if need be."""
        if name not in self._records:
            self.read(name)
        return self._records[name]


def _mean_histograms(of_seeds: list[PairMeasures]) -> dict[Kind, list[float]]:
    histograms = [one.histograms() for one in of_seeds]
    return {kind: np.mean([one[kind] for one in histograms], axis=0).tolist() for kind in histograms[0]}


def _as_pair(a: str, b: str, row: dict[str, Any]) -> PairConsistency:
    nulls: dict[str, Any] = {
        name: null_model_of(row["numbers"], row[name]["values"], row[name]["certified"])
        for name in NULLS
        if name in row
    }
    certified = row["certified"] and all(null.certified for null in nulls.values())
    shape = dict(zip(("features_a", "features_b"), row["features"], strict=True))
    return PairConsistency(a, b, **shape, **row["numbers"], certified=certified, **nulls, histograms=row["histograms"])


def _as_lists(columns: Columns) -> dict[str, list[Any]]:
    return {name: listed(values) for name, values in columns.items()}
