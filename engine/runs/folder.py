"""The folder of a run: `run.json`, and for each pair its matching and its record, readable without this package.

run.json                    the record of the run (`RunRecord`): what is matched and how; written once, at the start
pairs/{a}-{b}.safetensors   the matching of a pair: perm, pair_cost, prices, cosine
pairs/{a}-{b}.json          the record of a pair (`PairRecord`): inputs, numbers, seconds, the hash of the file of the
                            matching, or why the pair has failed

The record of a pair is written after its matching, so that a pair with a record is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override

from saematch.errors import MatchError
from saematch.matching.files import FeaturePair, check_matching, matching_bytes, read_matching, read_pair
from saematch.matching.scalars import SCALARS, Scalars
from saematch.options import PrecisionName, Side, names
from saematch.runs.locks import lock_start
from saematch.runs.plan import Pair, pair_name
from saematch.runs.records import (
    SCHEMA,
    InputRecord,
    Outcome,
    PairRecord,
    RunRecord,
    names_in,
    read_pair_record,
    read_run_record,
)
from saematch.runs.results import PairArrays, Results
from saematch.storage.folders import Folder, LocalFolder, folder_at
from saematch.storage.jsonfile import as_json, read_json
from saematch.storage.reading import sha256
from saematch.text import shorten

if TYPE_CHECKING:
    from saematch.matching.result import Matching


class RunFolder(Results):
    """The results of a run in a folder. A matching is read from its file when it is asked for.

    Attributes:
        folder: the folder, or a store that a URL leads to.
        records: pair -> record, for the pairs that are finished or have failed.
    """

    def __init__(self, folder: Folder, record: RunRecord) -> None:
        self.folder, self.record, self.location = folder, record, str(folder)
        self.names = names_in(record)
        self.planned = [(a, b) for a, b in record["pairs"]]
        self.records: dict[Pair, PairRecord] = {}
        self._cache: MutableMapping[Pair, Matching] = self.new_cache()

    @classmethod
    def start(cls, where: str | os.PathLike[str], record: RunRecord, overwrite: bool) -> RunFolder:
        """Start a run in a folder, or resume the run that the folder has. The caller holds the lock of the folder.

        Args:
            where: a path or a URL.
            record: the record of the run, without `schema` and `id`. A run resumes if its pairs, its names and its
                options are those of the record, and both are runs of one set of SAEs, or both of two. Addresses,
                versions, the machine, and options that only earlier versions had may differ.
            overwrite: whether to remove the pairs of a run that the folder has, and start a new one.

        Raises:
            MatchError: if the folder has another run, naming the difference; or if the folder cannot be written.
        """
        folder = folder_at(where)
        with lock_start(folder):
            if "run.json" in folder.names() and not overwrite:
                run = cls.open(where)
                run._refuse_difference(record)
                return run
            run = cls(folder, {"schema": SCHEMA, "id": secrets.token_hex(8), **record})
            for name in sorted(folder.names("pairs")):  # the record of a pair before its matching
                folder.remove(f"pairs/{name}")
            folder.write("run.json", as_json(run.record))
            return run

    @classmethod
    def open(cls, where: str | os.PathLike[str]) -> RunFolder:
        """Open a run that was written before.

        Raises:
            MatchError: if the folder has no run, or one of its records is damaged.
        """
        folder = folder_at(where)
        if "run.json" not in folder.names():
            exists = not isinstance(folder, LocalFolder) or folder.path.exists()
            missing = "there is no run.json in it" if exists else "there is no such folder"
            raise MatchError(f"{where}: not a run of saematch: {missing}")
        run = cls(folder, read_run_record(_json(folder, "run.json"), f"{where}/run.json"))
        run.refresh()
        return run

    def refresh(self) -> None:
        """Read the records of pairs that other processes have written meanwhile."""
        present = {f"pairs/{name}" for name in self.folder.names("pairs")}
        for pair in self.planned:
            name = _record_name(pair)
            if pair not in self.records and name in present:
                self.records[pair] = read_pair_record(_json(self.folder, name), pair, f"{self.folder}/{name}")

    def forget_damaged(self) -> None:
        """Drop the records of pairs whose matching is missing or damaged, so that these pairs are matched again."""
        present = {f"pairs/{name}" for name in self.folder.names("pairs")}
        for pair in self.pairs:
            if _matching_name(pair) not in present or not self._is_whole(pair):
                del self.records[pair]

    def _is_whole(self, pair: Pair) -> bool:
        if not isinstance(self.folder, LocalFolder):
            return True  # a file in a store would have to be downloaded to check it
        try:
            self._check(pair, self.folder.path / _matching_name(pair))
        except MatchError:
            return False
        return True

    def _check(self, pair: Pair, path: Path) -> None:
        """Raise `MatchError` unless the file of a matching is the one that its record describes."""
        check_matching(path)
        written = self.records[pair].get("matching_sha256")  # which records of earlier versions lack
        if written is not None and sha256(path) != written:
            raise MatchError(f"{path}: damaged: it is not what was written for {self.names.titles(pair)}")

    @contextmanager
    def _matching_file(self, pair: Pair, whole: bool = True) -> Iterator[Path]:
        """Yield the path of the file of a matching on this machine. If it is missing or damaged, say what helps.

        Unless the whole file is needed, it is not compared with its hash.
        """
        try:
            with self.folder.local(_matching_name(pair)) as path:
                if whole:
                    self._check(pair, path)
                yield path
        except MatchError as error:
            if self._is_whole(pair):
                raise
            what = error if path.exists() else f"{path}: the matching of {self.names.titles(pair)} is missing"
            again = "the same `saematch layers` command, or the same call of match_layers, computes it again"
            raise MatchError(f"{what}; {again}") from error

    @property
    @override
    def pairs(self) -> list[Pair]:
        return [pair for pair in self.planned if self.has_matching(pair)]

    @property
    @override
    def failures(self) -> dict[Pair, str]:
        return {pair: record["failure"] for pair, record in self.records.items() if "failure" in record}

    @override
    def has_matching(self, pair: Pair) -> bool:
        return pair in self.records and "failure" not in self.records[pair]

    @override
    def matching(self, pair: Pair) -> Matching:
        if not self.has_matching(pair):
            raise KeyError(pair)
        from saematch.matching.result import Matching

        matching = self._cache.get(pair)
        if matching is None:
            with self._matching_file(pair) as path:
                matching = self._cache[pair] = Matching.load(path)
        return matching

    @override
    def arrays(self, pair: Pair) -> PairArrays:
        with self._matching_file(pair) as path:
            held = read_matching(path)
        return PairArrays(held["perm"], held["pair_cost"], held["cosine"])

    @override
    def follow(self, pair: Pair, feature: int) -> FeaturePair:
        # Of a file on this machine, only the few bytes of this feature are read.
        with self._matching_file(pair, whole=False) as path:
            found = read_pair(path, feature)
            if not -1 <= found.target < self.shape(pair)[1]:
                raise MatchError(f"{path}: damaged: feature {feature} has the partner {found.target}")
            return found

    @override
    def shape(self, pair: Pair) -> tuple[int, int]:
        source, target = self.records[pair]["inputs"]
        return source["F"], target["F"]

    @override
    def scalars(self, pair: Pair) -> Scalars:
        return cast(Scalars, {name: value for name, value in self.records[pair].items() if name in SCALARS})

    @override
    def is_certified(self, pair: Pair) -> bool:
        return self.records[pair]["certified"]

    @override
    def pair_record(self, pair: Pair) -> PairRecord:
        return self.records[pair]

    @override
    def input(self, layer: int, side: Side) -> InputRecord | None:
        for pair in self.pairs:
            for other, number in zip(Side, pair, strict=True):
                if number == layer and (other == side or not self.two_sets):
                    return self.records[pair]["inputs"][other]
        return None

    @override
    def new_cache(self) -> MutableMapping[Pair, Matching]:
        return weakref.WeakValueDictionary()

    @override
    def add(self, outcome: Outcome) -> None:
        """Write the outcome of a pair: first its matching, then its record.

        An outcome with neither a matching nor a failure was written by a worker already.
        """
        record = outcome.record
        if outcome.matching is not None:
            content = matching_bytes(outcome.matching)
            record = cast(PairRecord, {**record, "matching_sha256": hashlib.sha256(content).hexdigest()})
            self.folder.write(_matching_name(outcome.pair), content)
            self._cache[outcome.pair] = outcome.matching
        if outcome.matching is not None or "failure" in record:
            self.folder.write(_record_name(outcome.pair), as_json(record))
        self.records[outcome.pair] = record

    def _refuse_difference(self, record: RunRecord) -> None:
        """Raise `MatchError`, with every difference, unless this run is the run of the record."""
        differences = []
        if (self.record["against"] is None) != (record["against"] is None):
            differences.append(f"against was {_short(self.record['against'])}, is {_short(record['against'])}")
        ours, theirs = self.names, names_in(record)
        if ours.names != theirs.names:
            differences.append(f"names were {_short(ours.names)}, are {_short(theirs.names)}")
        if ours.axis != theirs.axis:
            differences.append(f"axis was {_short(ours.axis)}, is {_short(theirs.axis)}")
        if self.record["pairs"] != record["pairs"]:
            differences.append(f"pairs were {_short(self.record['pairs'])}, are {_short(record['pairs'])}")
        was, now = dict[str, Any](self.record["options"]), dict[str, Any](record["options"])
        for name in sorted({*was, *now} - _of_earlier_versions(was)):
            if was.get(name) != now.get(name):
                differences.append(f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}")
        if differences:
            raise MatchError(
                f"{self.folder}: holds another run: {'; '.join(differences)}. Choose another folder, or overwrite it "
                "(overwrite=True)"
            )

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of a process that was killed, while no other process writes to the folder."""
        for inside in (".", "pairs"):
            for name in self.folder.names(inside):
                if name.startswith(".") and (".safetensors." in name or ".json." in name):
                    self.folder.remove(f"{inside}/{name}")


def _of_earlier_versions(options: dict[str, Any]) -> set[str]:
    """Return the options that only an earlier version had. They say how passes ran, and do not change the optimum."""
    return {"memory"} if options["precision"] in names(PrecisionName) else {"memory", "precision"}


def _record_name(pair: Pair) -> str:
    return f"pairs/{pair_name(pair)}.json"


def _matching_name(pair: Pair) -> str:
    return f"pairs/{pair_name(pair)}.safetensors"


def _json(folder: Folder, name: str) -> Any:
    with folder.local(name) as path:
        return read_json(path)


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 60)
