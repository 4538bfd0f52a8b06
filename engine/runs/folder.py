"""The folder of a run: `run.json`, and for each pair its answer and a record of it, readable without this package.

run.json                    what is matched and how; written once
pairs/{a}-{b}.safetensors   perm, pair_cost, prices
pairs/{a}-{b}.json          inputs, numbers, seconds; written last: a pair with this file is finished, or has failed
"""

from __future__ import annotations

import json
import os
import secrets
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

from saematch.errors import MatchError, refusals
from saematch.matching.files import SCALARS, Scalars, check_matching, matching_bytes, read_pair
from saematch.matching.result import Matching
from saematch.options import Side
from saematch.runs.plan import Pair, pair_name
from saematch.runs.records import SCHEMA, InputRecord, Outcome, PairRecord, RunRecord, read_pair_record, read_run_record
from saematch.runs.results import Results
from saematch.storage.folders import Folder, LocalFolder, folder_at
from saematch.storage.jsonfile import as_json, read_json
from saematch.storage.lock import locked
from saematch.text import shorten


class RunFolder(Results):
    """The results of a run in a folder; a matching is read from its file when it is asked for.

    Attributes:
        folder: where the files are.
        records: pair -> the record of the pair, of pairs that are finished or have failed.
    """

    def __init__(self, folder: Folder, record: RunRecord) -> None:
        self.folder, self.record, self.location = folder, record, str(folder)
        self.planned = [(a, b) for a, b in record["pairs"]]
        self.records: dict[Pair, PairRecord] = {}
        self._read: MutableMapping[Pair, Matching] = self.new_cache()

    @classmethod
    def start(
        cls, where: str | os.PathLike[str], record: RunRecord, overwrite: bool, adopted: frozenset[str]
    ) -> RunFolder:
        """A new run, or the one that is there if it was started with the same `record`: its pairs are kept.

        What may differ is where the SAEs lie, the versions, the machine, and the options that are `adopted` from it. To
        be called while the folder is locked.

        Raises:
            MatchError: naming the difference, if another run is there; or if the folder cannot be written.
        """
        folder = folder_at(where)
        with _starting(folder):
            there = "run.json" in folder.names()
            if there and not overwrite:
                run = cls.open(where)
                run._refuse_difference(record, adopted)
                return run
            run = cls(folder, {"schema": SCHEMA, "id": secrets.token_hex(8), **record})
            for name in sorted(folder.names("pairs")):  # a record before its answer
                folder.remove(f"pairs/{name}")
            folder.write("run.json", as_json(run.record))
            return run

    @classmethod
    def open(cls, where: str | os.PathLike[str]) -> RunFolder:
        """A run that was written before. Raises `MatchError` if it is none."""
        folder = folder_at(where)
        if "run.json" not in folder.names():
            there = not isinstance(folder, LocalFolder) or folder.path.exists()
            missing = "there is no run.json in it" if there else "there is no such folder"
            raise MatchError(f"{where}: not a run of saematch: {missing}")
        run = cls(folder, read_run_record(_json(folder, "run.json"), f"{where}/run.json"))
        run.refresh()
        return run

    def refresh(self) -> None:
        """Read the records of pairs that others have finished meanwhile."""
        present = self.folder.names("pairs")
        for pair in self.planned:
            if pair not in self.records and f"{pair_name(pair)}.json" in present:
                name = f"pairs/{pair_name(pair)}.json"
                self.records[pair] = read_pair_record(_json(self.folder, name), pair, f"{self.folder}/{name}")

    def forget_damaged(self) -> None:
        """Drop the records of pairs whose answer is gone or cut short: they are done again."""
        present = self.folder.names("pairs")
        for pair in self.pairs:
            if f"{pair_name(pair)}.safetensors" not in present or not self._is_whole(pair):
                del self.records[pair]

    def _is_whole(self, pair: Pair) -> bool:
        if not isinstance(self.folder, LocalFolder):
            return True  # of a store it shows only once it is fetched
        try:
            check_matching(self.folder.path / "pairs" / f"{pair_name(pair)}.safetensors")
        except MatchError:
            return False
        return True

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
        matching = self._read.get(pair)
        if matching is None:
            with self.folder.local(f"pairs/{pair_name(pair)}.safetensors") as path:
                matching = self._read[pair] = Matching.load(path)
        return matching

    @override
    def follow(self, pair: Pair, feature: int) -> tuple[int, float]:
        """A few bytes of the file of the matching are read."""
        with self.folder.local(f"pairs/{pair_name(pair)}.safetensors") as path:
            return read_pair(path, feature)

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
        """Write what became of a pair, its answer first; without answer or error, a worker has written it already.

        Raises `MatchError` where the disk refuses.
        """
        if outcome.matching is not None:
            self.folder.write(f"pairs/{pair_name(outcome.pair)}.safetensors", matching_bytes(outcome.matching))
            self._read[outcome.pair] = outcome.matching
        if outcome.matching is not None or "failure" in outcome.record:
            self.folder.write(f"pairs/{pair_name(outcome.pair)}.json", as_json(outcome.record))
        self.records[outcome.pair] = outcome.record

    def _refuse_difference(self, record: RunRecord, adopted: frozenset[str]) -> None:
        differences = []
        if (self.record["against"] is None) != (record["against"] is None):
            differences.append(f"against was {_short(self.record['against'])}, is {_short(record['against'])}")
        if self.record["pairs"] != record["pairs"]:
            differences.append(f"pairs were {_short(self.record['pairs'])}, are {_short(record['pairs'])}")
        was, now = dict[str, Any](self.record["options"]), dict[str, Any](record["options"])
        for name in sorted({*was, *now} - adopted):
            if was.get(name) != now.get(name):
                differences.append(f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}")
        if differences:
            raise MatchError(
                f"{self.folder}: holds another run: {'; '.join(differences)}. Choose another folder, or overwrite it "
                "(overwrite=True)"
            )

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed was about to write. Only while no other process writes here."""
        for inside in (".", "pairs"):
            for name in self.folder.names(inside):
                if name.startswith(".") and (".safetensors." in name or ".json." in name):
                    self.folder.remove(f"{inside}/{name}")


def lock_run(where: str | os.PathLike[str], shard: tuple[int, int] | None = None) -> AbstractContextManager[object]:
    """Keep other processes from writing to a run; the shards of one run keep each other from their own part alone.

    A store that is reached by a URL has no locks. Raises `MatchError` if the run is being written, naming by whom.
    """
    folder = folder_at(where)
    if not isinstance(folder, LocalFolder):
        return nullcontext()
    with refusals("cannot be written", where, OSError):
        folder.path.mkdir(parents=True, exist_ok=True)
    if shard is None:
        return locked(folder.path / ".lock", str(where))
    return _locked_shard(folder.path, shard)


def check_target(where: str | os.PathLike[str]) -> None:
    """Raise `MatchError` unless a run can be written there: in a new or empty folder, or in that of a run."""
    folder = folder_at(where)
    if not isinstance(folder, LocalFolder):
        folder.names()
        return
    with refusals("cannot be written", where, OSError):
        above = next(parent for parent in (folder.path, *folder.path.absolute().parents) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise MatchError(f"{where}: cannot be written; {above} is {'read-only' if above.is_dir() else 'a file'}")
        others = [] if not folder.path.exists() else [name for name in os.listdir(folder.path) if name[0] != "."]
    if others and "run.json" not in others:
        raise MatchError(f"{where}: the folder holds other files; choose an empty or a new one")


def _starting(folder: Folder) -> AbstractContextManager[object]:
    """Shards that start together: one makes the run, the others find it."""
    if not isinstance(folder, LocalFolder):
        return nullcontext()
    return locked(folder.path / ".lock-start", str(folder), wait=True)


@contextmanager
def _locked_shard(path: Path, shard: tuple[int, int]) -> Iterator[None]:
    number, of = shard
    with (
        locked(path / ".lock", str(path), shared=True),
        locked(path / f".lock-{number}-of-{of}", f"{path}, shard {number}/{of}"),
    ):
        yield


def _json(folder: Folder, name: str) -> Any:
    with folder.local(name) as path:
        return read_json(path)


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 60)
