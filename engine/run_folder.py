"""The folder of a run: `run.json` and `pairs/{a}-{b}.safetensors`, readable without this package."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saematch.errors import MatchError
from saematch.matching import Matching
from saematch.sources.files import read_json
from saematch.storage import as_json, write_whole

SCHEMA = 1

Pair = tuple[int, int]


class RunFolder(Mapping[Pair, Matching]):
    """The finished pairs of a run, each read from its file when it is first asked for.

    `record` is the content of `run.json`: schema, complete, inputs with their sha256, options, versions, machine, and a
    row of numbers a pair with its seconds.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self._read: dict[Pair, Matching] = {}

    @classmethod
    def create(cls, path: str | os.PathLike[str], record: dict[str, Any], overwrite: bool) -> RunFolder:
        """An empty run, in place of an earlier one under `overwrite`. Raises `MatchError` as `check_target` does."""
        check_target(path, overwrite)
        run = cls(Path(path), {"schema": SCHEMA, "complete": False, **record, "pairs": []})
        try:
            (run.path / "pairs").mkdir(parents=True, exist_ok=True)
            run._write_record()  # first, so that it never names a file that is gone
            for file in (run.path / "pairs").glob("*.safetensors"):
                file.unlink()
        except OSError as error:
            raise MatchError(f"{path}: cannot be written ({error.strerror or error})") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """A run that was written before. Raises `MatchError` if it is none."""
        where = Path(path) / "run.json"
        if not where.is_file():
            raise MatchError(f"{path}: not a run of saematch: there is no run.json in it")
        record = read_json(where)
        try:
            if record["schema"] != SCHEMA:
                raise MatchError(f"{where}: schema {record['schema']}, this version reads {SCHEMA}")
            run = cls(Path(path), record)
            pairs = list(run)
            ascending = all(type(a) is int and type(b) is int and a < b for a, b in pairs)
            if not ascending or len(dict(pairs)) < len(pairs):
                raise MatchError(f"{where}: its pairs do not lead from each layer to one later layer")
            return run
        except (KeyError, TypeError, AttributeError) as error:
            raise MatchError(f"{where}: not the record of a run") from error

    @property
    def complete(self) -> bool:
        """Whether every pair of the run is finished."""
        return self.record.get("complete") is True

    def add(self, pair: Pair, matching: Matching, seconds: float) -> None:
        """Write a finished pair, then name it in `run.json`. Raises `MatchError` where the disk refuses."""
        matching.save(self._file(pair))
        row = {"source": pair[0], "target": pair[1], **matching.scalars(), "random_cost": matching.random_cost}
        self.record["pairs"].append({**row, "seconds": round(seconds, 3), "stats": matching.stats})
        self._read[pair] = matching
        self._write_record()

    def finish(self, seconds: float) -> None:
        """Mark the run as complete."""
        self.record.update(complete=True, seconds=round(seconds, 3))
        self._write_record()

    def __getitem__(self, pair: Pair) -> Matching:
        if pair not in self._read:
            if pair not in list(self):
                raise KeyError(pair)
            self._read[pair] = Matching.load(self._file(pair))
        return self._read[pair]

    def __iter__(self) -> Iterator[Pair]:
        return iter([(row["source"], row["target"]) for row in self.record["pairs"]])

    def __len__(self) -> int:
        return len(self.record["pairs"])

    def _file(self, pair: Pair) -> Path:
        return self.path / "pairs" / f"{pair[0]}-{pair[1]}.safetensors"

    def _write_record(self) -> None:
        write_whole(self.path / "run.json", as_json(self.record))


def check_target(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise `MatchError` unless a run can be written to `path`: a new or empty folder, or a run to be overwritten."""
    folder = Path(path)
    try:
        above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise MatchError(f"{path}: cannot be written; {above} is {'read-only' if above.is_dir() else 'a file'}")
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise MatchError(f"{path}: cannot be written ({error.strerror or error})") from error
    if not (folder / "run.json").is_file():
        raise MatchError(f"{path}: the folder holds other files; choose an empty or a new one")
    if not overwrite:
        raise MatchError(f"{path}: holds a run already; choose another folder, or overwrite it (--overwrite)")
