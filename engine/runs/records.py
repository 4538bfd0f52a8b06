"""Records and events of a run: what is written about its inputs and pairs, and what is reported while it works."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any, TypedDict, cast

from saematch.assignment import Round
from saematch.errors import MatchError
from saematch.matching.files import SCALARS, Scalars
from saematch.matching.result import Matching
from saematch.options import BackendName, FoldName, Method, Part, PrecisionName, Stage
from saematch.runs.plan import Pair

SCHEMA = 2


class InputRecord(TypedDict):
    """What is recorded of one SAE, so that it is known again.

    Attributes:
        path: the absolute path or the URL of its file; None for an SAE in memory.
        format: the name of the file format; None in memory.
        options: the options of the address that change how the file is read.
        files: for each file its size and time, or its commit; None in memory.
        sha256: hash of each file by its name, or, in memory, of each tensor.
        F: number of features.
        d: width of the activations.
        activation: name of the activation function.
        notes: what was changed while the SAE was read.
    """

    path: str | None
    format: str | None
    options: dict[str, str]
    files: dict[str, list[int] | str] | None
    sha256: dict[str, str]
    F: int
    d: int
    activation: str
    notes: list[str]


class PairRecord(Scalars, total=False):
    """What is recorded of one pair: `failure`, the reason why it has no matching, or else everything but that."""

    source: int
    target: int
    failure: str
    inputs: list[InputRecord]
    seconds: float
    stats: dict[str, Any]


class RunOptions(TypedDict):
    """The options under which all pairs of a run are matched; a run resumes only under the same ones."""

    parts: list[Part]
    weights: dict[Part, float]
    fold: FoldName
    max_cost: float | None
    method: Method
    max_rounds: int | None
    time_limit: float | None
    backend: BackendName
    precision: PrecisionName
    memory: int


class RunRecord(TypedDict, total=False):
    """The content of `run.json`. A run that was never written has an empty record.

    Attributes:
        schema: version of this format.
        id: a random name of the run.
        source: the address of the layers, or an address for each layer.
        against: the same for a second set of SAEs; None for a run of one set.
        pairs: all pairs to be matched, as (source layer, target layer).
        options: how they are matched.
        versions: of Python and of the packages.
        machine: where the run began.
    """

    schema: int
    id: str
    source: str | dict[str, str]
    against: str | dict[str, str] | None
    pairs: list[list[int]]
    options: RunOptions
    versions: dict[str, str | None]
    machine: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The result of one pair: its record, and its matching, unless it has none or a worker has written it already."""

    pair: Pair
    record: PairRecord
    matching: Matching | None = None

    @classmethod
    def failed(cls, pair: Pair, reason: str) -> Outcome:
        """The outcome of a pair that has no matching."""
        return cls(pair, {"source": pair[0], "target": pair[1], "failure": reason})


@dataclass(frozen=True)
class Progress:
    """A progress event of a run.

    Attributes:
        stage: "start" of the run, or of a pair "reading" (its SAEs), "pass" (one over all pairs of features is done,
            see `last_pass`), "done" (see `matching`, `seconds`) or "failed" (see `error`).
        total: number of pairs to be matched.
        finished: number of pairs that are done, those of an earlier run included.
        pair: (source layer, target layer).
        peak_bytes: at the start, the most memory that the run takes.
    """

    stage: Stage
    total: int = 0
    finished: int = 0
    pair: Pair | None = None
    last_pass: Round | None = None
    matching: Matching | None = None
    seconds: float = 0.0
    error: str | None = None
    peak_bytes: int = 0


_Kinds = dict[str, tuple[type, ...]]  # name in a JSON object -> the types that its value may have
_NUMBER, _NUMBER_OR_NONE = (int, float), (int, float, NoneType)
_RUN: _Kinds = {
    "id": (str,), "source": (str, dict), "against": (str, dict, NoneType), "pairs": (list,), "options": (dict,),
    "versions": (dict,), "machine": (dict,),
}  # fmt: skip
_OPTIONS: _Kinds = {
    "parts": (list,), "weights": (dict,), "fold": (str,), "max_cost": _NUMBER_OR_NONE, "method": (str,),
    "max_rounds": (int, NoneType), "time_limit": _NUMBER_OR_NONE, "backend": (str,), "precision": (str,),
    "memory": (int,),
}  # fmt: skip
_INPUT: _Kinds = {
    "path": (str, NoneType), "format": (str, NoneType), "options": (dict,), "files": (dict, NoneType),
    "sha256": (dict,), "F": (int,), "d": (int,), "activation": (str,), "notes": (list,),
}  # fmt: skip
_NUMBERS: _Kinds = {**dict.fromkeys(SCALARS, _NUMBER_OR_NONE), "certified": (bool,), "status": (str,)}
_FINISHED: _Kinds = {"inputs": (list,), **_NUMBERS, "seconds": _NUMBER, "stats": (dict,)}


def read_run_record(content: Any, shown: str) -> RunRecord:
    """Check the content of a `run.json`, which `shown` names. Raises `MatchError` if it is not the record of a run."""
    what = f"{shown}: not the record of a run"
    _check(content, {"schema": (int,)}, what)
    if content["schema"] != SCHEMA:
        raise MatchError(f"{shown}: schema {content['schema']}, this version reads {SCHEMA}")
    _check(content, _RUN, what)
    _check(content["options"], _OPTIONS, what)
    for pair in content["pairs"]:
        numbers = isinstance(pair, list) and [type(layer) for layer in pair] == [int, int]
        if not numbers or (pair[0] >= pair[1] and content["against"] is None):
            raise MatchError(f"{shown}: its pairs do not lead from each layer to a later one")
    return cast(RunRecord, content)


def read_pair_record(content: Any, pair: Pair, shown: str) -> PairRecord:
    """Check the record of a pair, in a file that `shown` names. Raises `MatchError` if it is not that record."""
    what = f"{shown}: not the record of that pair"
    _check(content, {"source": (int,), "target": (int,)}, what)
    if (content["source"], content["target"]) != pair:
        raise MatchError(what)
    if "failure" in content:
        _check(content, {"failure": (str,)}, what)
        return cast(PairRecord, content)
    _check(content, _FINISHED, what)
    if len(content["inputs"]) != len(pair):
        raise MatchError(f"{what}: it has {len(content['inputs'])} inputs")
    for record in content["inputs"]:
        _check(record, _INPUT, what)
    return cast(PairRecord, content)


def _check(content: Any, kinds: _Kinds, what: str) -> None:
    """Raise `MatchError` unless a JSON object has these names, with values of these types."""
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name, ...), kind):
            raise MatchError(f"{what}: {name} is missing or not as saematch writes it")
