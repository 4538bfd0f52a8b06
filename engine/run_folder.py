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
        """An empty run. Raises `MatchError` if the folder holds anything, unless it is a run and to be overwritten."""
        run = cls(Path(path), {"schema": SCHEMA, "complete": False, **record, "pairs": []})
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if any(run.path.iterdir()):
                run._clear(overwrite)
            (run.path / "pairs").mkdir(exist_ok=True)
        except OSError as error:
            raise MatchError(f"{path}: cannot be written ({error.strerror or error})") from error
        run._write_record()
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
            assert all(isinstance(layer, int) for pair in run for layer in pair)
            return run
        except (KeyError, TypeError, AssertionError) as error:
            raise MatchError(f"{where}: not the record of a run") from error

    def add(self, pair: Pair, matching: Matching, seconds: float) -> None:
        """Write a finished pair, then name it in `run.json`. Raises `MatchError` where the disk refuses."""
        matching.save(self._file(pair))
        row = {"source": pair[0], "target": pair[1], **matching.scalars(), "random_cost": matching.random_cost}
        self.record["pairs"].append({**row, "rounds": matching.stats["rounds"], "seconds": round(seconds, 3)})
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

    def _clear(self, overwrite: bool) -> None:
        """Remove an earlier run, and nothing else."""
        if not (self.path / "run.json").is_file():
            raise MatchError(f"{self.path}: the folder holds other files; choose an empty or a new one")
        if not overwrite:
            raise MatchError(f"{self.path}: holds a run already; choose another folder, or overwrite it (--overwrite)")
        (self.path / "run.json").unlink()
        for file in (self.path / "pairs").glob("*.safetensors"):
            file.unlink()
