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
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from saematch.errors import MatchError, refusals
from saematch.matching.files import check_matching, matching_bytes, read_pair
from saematch.matching.result import Matching
from saematch.runs.pipeline import Outcome
from saematch.runs.plan import Pair
from saematch.storage.folders import Folder, LocalFolder, folder_at
from saematch.storage.jsonfile import as_json, read_json
from saematch.storage.lock import locked
from saematch.text import shorten

SCHEMA = 2


class RunFolder(Mapping[Pair, Matching]):
    """The finished pairs of a run, each read from its file when it is asked for.

    Attributes:
        record: the content of `run.json`: schema, id, source, against, options, pairs to be matched, versions, machine.
        records: pair -> the content of its record.
    """

    def __init__(self, folder: Folder, record: dict[str, Any]) -> None:
        self.folder, self.record = folder, record
        self.records: dict[Pair, dict[str, Any]] = {}
        self._read: weakref.WeakValueDictionary[Pair, Matching] = weakref.WeakValueDictionary()

    @classmethod
    def start(
        cls, where: str | os.PathLike[str], record: Mapping[str, Any], overwrite: bool, adopted: frozenset[str]
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
        with refusals("not the record of a run", f"{where}/run.json", KeyError, TypeError, AttributeError, ValueError):
            record = _json(folder, "run.json")
            if record["schema"] != SCHEMA:
                raise MatchError(f"{where}/run.json: schema {record['schema']}, this version reads {SCHEMA}")
            run = cls(folder, record)
            for a, b in record["pairs"]:
                if type(a) is not int or type(b) is not int or (a >= b and record["against"] is None):
                    raise MatchError(f"{where}/run.json: its pairs do not lead from each layer to a later one")
            run.refresh()
            return run

    def refresh(self) -> None:
        """Read the records of pairs that others have finished meanwhile."""
        there = self.folder.names("pairs")
        for pair in self.planned:
            if pair not in self.records and f"{_name(pair)}.json" in there:
                record = _json(self.folder, f"pairs/{_name(pair)}.json")
                if (record.get("source"), record.get("target")) != pair:
                    raise MatchError(f"{self.folder}/pairs/{_name(pair)}.json: not the record of that pair")
                self.records[pair] = record

    def forget_damaged(self) -> None:
        """Drop the records of pairs whose answer is gone or cut short: they are done again."""
        there = self.folder.names("pairs")
        for pair in list(self):
            if f"{_name(pair)}.safetensors" not in there or not self._is_whole(pair):
                del self.records[pair]

    def _is_whole(self, pair: Pair) -> bool:
        if not isinstance(self.folder, LocalFolder):
            return True  # of a store it shows only once it is fetched
        try:
            check_matching(self.folder.path / "pairs" / f"{_name(pair)}.safetensors")
        except MatchError:
            return False
        return True

    @property
    def planned(self) -> list[Pair]:
        """All pairs that the run is to match."""
        return [(a, b) for a, b in self.record["pairs"]]

    @property
    def complete(self) -> bool:
        """Whether every pair is finished; False where there is none."""
        return 0 < len(self) == len(self.planned)

    @property
    def certified(self) -> bool:
        """Whether every finished pair is certified; False where there is none."""
        return len(self) > 0 and all(self.records[pair]["certified"] is True for pair in self)

    @property
    def failures(self) -> dict[Pair, str]:
        """Why pairs have no matching."""
        return {pair: str(record["failure"]) for pair, record in self.records.items() if "failure" in record}

    def input(self, layer: int, side: int = 0) -> dict[str, Any] | None:
        """The record of the SAE of a layer, of the sources (side 0) or another set of targets (1); None if unknown."""
        for pair in self:
            for at, one in enumerate(pair):
                if one == layer and (self.record["against"] is None or at == side):
                    return dict(self.records[pair]["inputs"][at])
        return None

    def add(self, outcome: Outcome) -> None:
        """Write what became of a pair, its answer first; without answer or error, a worker has written it already.

        Raises `MatchError` where the disk refuses.
        """
        if outcome.matching is not None:
            self.folder.write(f"pairs/{_name(outcome.pair)}.safetensors", matching_bytes(outcome.matching))
            self._read[outcome.pair] = outcome.matching
        if outcome.matching is not None or "failure" in outcome.record:
            self.folder.write(f"pairs/{_name(outcome.pair)}.json", as_json(outcome.record))
        self.records[outcome.pair] = outcome.record

    def follow(self, pair: Pair, feature: int) -> tuple[int, float]:
        """The target of one source feature, -1 for none, and what the pair costs: a few bytes of a file are read."""
        with self.folder.local(f"pairs/{_name(pair)}.safetensors") as path:
            return read_pair(path, feature)

    def __getitem__(self, pair: Pair) -> Matching:
        if pair not in self:
            raise KeyError(pair)
        matching = self._read.get(pair)
        if matching is None:
            with self.folder.local(f"pairs/{_name(pair)}.safetensors") as path:
                matching = self._read[pair] = Matching.load(path)
        return matching

    def __contains__(self, pair: object) -> bool:
        return pair in self.records and "failure" not in self.records[pair]

    def __iter__(self) -> Iterator[Pair]:
        return iter([pair for pair in self.planned if pair in self])

    def __len__(self) -> int:
        return sum("failure" not in record for record in self.records.values())

    def _refuse_difference(self, record: Mapping[str, Any], adopted: frozenset[str]) -> None:
        found = []
        if (self.record["against"] is None) != (record["against"] is None):
            found.append(f"against was {_short(self.record['against'])}, is {_short(record['against'])}")
        if self.record["pairs"] != record["pairs"]:
            found.append(f"pairs were {_short(self.record['pairs'])}, are {_short(record['pairs'])}")
        was, now = self.record["options"], record["options"]
        for name in sorted({*was, *now} - adopted):
            if was.get(name) != now.get(name):
                found.append(f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}")
        if found:
            raise MatchError(
                f"{self.folder}: holds another run: {'; '.join(found)}. Choose another folder, or overwrite it "
                "(--overwrite)"
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


def _name(pair: Pair) -> str:
    return f"{pair[0]}-{pair[1]}"


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 60)
