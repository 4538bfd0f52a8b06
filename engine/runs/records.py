"""Records and events of a run: what is written about its SAEs and pairs, and what is reported while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from saematch.errors import MatchError
from saematch.matching.scalars import SCALARS, Scalars
from saematch.options import ActivityMetric, BackendName, FoldName, Method, Metric, Part, Stage
from saematch.runs.plan import Pair
from saematch.sources.names import LAYERS, Names, check_names

if TYPE_CHECKING:
    from saematch.assignment import Round
    from saematch.matching.result import Matching

SCHEMA = 2


class InputRecord(TypedDict):
    """The record of one SAE, by which a later call recognises the SAE.

    Attributes:
        path: the absolute path or the URL of the file; None for an SAE in memory.
        format: the name of the file format; None for an SAE in memory.
        options: the options of the address that change how the file is read.
        files: file name -> size and time of the last change, or the commit; None for an SAE in memory.
        sha256: file name -> hash of the file; for an SAE in memory, name of a tensor -> hash of the tensor.
        F: the number of features.
        d: the width of the activations that the SAE reads.
        activation: the name of the activation function.
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
    """The record of one pair of layers. A pair without a matching has `source`, `target` and `failure` only.

    Attributes:
        source: the number of the source layer.
        target: the number of the target layer.
        failure: why the pair has no matching.
        inputs: the records of the source SAE and of the target SAE.
        seconds: the time from reading the SAEs of the pair to the proof.
        stats: see `Matching.stats`.
        matching_sha256: the hash of the file of the matching; missing in memory and in records of earlier versions.
    """

    source: int
    target: int
    failure: str
    inputs: list[InputRecord]
    seconds: float
    stats: dict[str, Any]
    matching_sha256: str


class RunOptions(TypedDict):
    """The options of `match_layers` that all pairs of a run share. A run resumes only under the same options.

    Records of earlier versions have other precisions, and the option `memory`. Without a `metric`, costs are squared
    distances. With a metric of activations, `activations` identifies them. `map` identifies the map of each source
    into the basis of the targets.
    """

    metric: NotRequired[Metric | ActivityMetric]
    activations: NotRequired[dict[str, Any]]
    weights_share: NotRequired[float]
    map: NotRequired[dict[str, Any]]
    parts: list[Part]
    weights: dict[Part, float]
    fold: FoldName
    max_cost: float | None
    method: Method
    max_rounds: int | None
    time_limit: float | None
    backend: BackendName
    precision: str


class RunRecord(TypedDict, total=False):
    """The content of `run.json`. A run in memory has an empty record.

    Attributes:
        schema: the version of the format.
        id: a random name of the run, by which workers recognise its folder.
        source: the permanent address of the layers, or layer (as text) or name -> address.
        against: the same for a second set of SAEs; None for a run of one set.
        names: the names of SAEs that are not layers. Layers in records and file names are then places in this list.
        axis: what the SAEs differ in; missing for layers.
        pairs: all pairs to be matched, as (source layer, target layer).
        options: the options that all pairs share.
        versions: package -> its version; None for an optional package that is not installed.
        machine: the machine that started the run.
    """

    schema: int
    id: str
    source: str | dict[str, str]
    against: str | dict[str, str] | None
    names: list[str]
    axis: str
    pairs: list[list[int]]
    options: RunOptions
    versions: dict[str, str | None]
    machine: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The result of matching one pair.

    Attributes:
        pair: (source layer, target layer).
        record: the record of the pair.
        matching: the matching; None if the pair has failed, or if a worker has written its matching already.
    """

    pair: Pair
    record: PairRecord
    matching: Matching | None = None

    @classmethod
    def failed(cls, pair: Pair, reason: str) -> Outcome:
        """Return the outcome of a pair that has no matching."""
        return cls(pair, {"source": pair[0], "target": pair[1], "failure": reason})


@dataclass(frozen=True)
class Progress:
    """A progress event of a run.

    Attributes:
        stage: "start" (of the run), or what a pair has reached: "reading" (its SAEs are read), "pass" (one pass over
            all pairs of features is complete), "done" or "failed".
        total: the number of pairs to be matched.
        finished: the number of pairs that have a matching, including those of an earlier call.
        pair: (source layer, target layer); None at the start of the run.
        last_pass: the state of the solver, at stage "pass".
        matching: the matching, at stage "done".
        seconds: the time from reading the SAEs to the proof, at stage "done".
        error: why the pair has no matching, at stage "failed".
        peak_bytes: the most memory that the run takes in addition to what the process holds already, at the start.
        names: what the SAEs of the run are called, see `Chain.names`.

    Examples:
        >>> import saematch as sm
        >>> def show(event):
        ...     if event.stage == "done":
        ...         print(event.pair, event.matching.status, f"{event.finished} of {event.total}")
        >>> chain = sm.match_layers(sm.load_layers("sample?layer=8-9"), progress=show)
        (8, 9) optimal 1 of 1
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
    names: Names = LAYERS


_Kinds = dict[str, tuple[type, ...]]  # key of a JSON object -> the types that its value may have
_NUMBER, _NUMBER_OR_NONE = (int, float), (int, float, NoneType)
_RUN: _Kinds = {
    "id": (str,), "source": (str, dict), "against": (str, dict, NoneType), "pairs": (list,), "options": (dict,),
    "versions": (dict,), "machine": (dict,),
}  # fmt: skip
_OPTIONS: _Kinds = {
    "parts": (list,), "weights": (dict,), "fold": (str,), "max_cost": _NUMBER_OR_NONE, "method": (str,),
    "max_rounds": (int, NoneType), "time_limit": _NUMBER_OR_NONE, "backend": (str,), "precision": (str,),
}  # fmt: skip
_MAP: _Kinds = {"sha256": (str,), "shape": (list,), "kind": (str,), "fit": (dict, NoneType)}
_FIT: _Kinds = {"tokens": (list,), "residual": _NUMBER, "held_out": _NUMBER, "scale": _NUMBER, "left_out": (int,)}
_INPUT: _Kinds = {
    "path": (str, NoneType), "format": (str, NoneType), "options": (dict,), "files": (dict, NoneType),
    "sha256": (dict,), "F": (int,), "d": (int,), "activation": (str,), "notes": (list,),
}  # fmt: skip
_NUMBERS: _Kinds = {**dict.fromkeys(SCALARS, _NUMBER_OR_NONE), "certified": (bool,), "status": (str,)}
_FINISHED: _Kinds = {"inputs": (list,), **_NUMBERS, "seconds": _NUMBER, "stats": (dict,), "matching_sha256": (str,)}


def read_run_record(content: Any, shown: str) -> RunRecord:
    """Check the content of a `run.json`, whose name in messages is `shown`, and return it with its type.

    Raises:
        MatchError: if the content is not the record of a run, or of another version of the format.
    """
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
    _check_naming(content, what)
    _check_maps(content["options"].get("map", {}), what)
    return cast(RunRecord, content)


def names_in(record: RunRecord) -> Names:
    """Return what a record of a run says about the names of its SAEs."""
    return Names(tuple(record.get("names", ())), record.get("axis", "layer"))


def naming(names: Names) -> RunRecord:
    """Return what the record of a run says about the names of its SAEs: nothing, if they are layers."""
    record: RunRecord = {} if names.of_layers else {"axis": names.axis}
    if names.names:
        record["names"] = list(names.names)
    return record


def _check_naming(content: Any, what: str) -> None:
    """Raise `MatchError` unless names and axis of a run, if it has them, are such as `match_layers` writes."""
    names, axis = content.get("names", []), content.get("axis", "layer")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in [*names, axis]):
        raise MatchError(f"{what}: names or axis are not as saematch writes them")
    check_names(names)
    check_names([axis])
    if names and not all(0 <= layer < len(names) for pair in content["pairs"] for layer in pair):
        raise MatchError(f"{what}: it has {len(names)} names, and pairs of other SAEs")


def _check_maps(maps: Any, what: str) -> None:
    """Raise `MatchError` unless the records of maps in a run are such as `match_layers` writes."""
    _check({"map": maps}, {"map": (dict,)}, what)
    for record in maps.values():
        _check(record, _MAP, what)
        if record["fit"] is not None:
            _check(record["fit"], _FIT, what)
            if [type(count) for count in record["fit"]["tokens"]] != [int, int]:
                raise MatchError(f"{what}: the tokens of a map are not as saematch writes them")


def read_pair_record(content: Any, pair: Pair, shown: str) -> PairRecord:
    """Check the content of the record of a pair, whose name in messages is `shown`, and return it with its type.

    Raises:
        MatchError: if the content is not the record of this pair.
    """
    what = f"{shown}: not the record of that pair"
    _check(content, {"source": (int,), "target": (int,)}, what)
    if (content["source"], content["target"]) != pair:
        raise MatchError(what)
    if "failure" in content:
        _check(content, {"failure": (str,)}, what)
        return cast(PairRecord, content)
    _check({"matching_sha256": "", **content}, _FINISHED, what)
    if len(content["inputs"]) != len(pair):
        raise MatchError(f"{what}: it has {len(content['inputs'])} inputs")
    for record in content["inputs"]:
        _check(record, _INPUT, what)
    return cast(PairRecord, content)


def _check(content: Any, kinds: _Kinds, what: str) -> None:
    """Raise `MatchError` unless the content is a JSON object that has these keys, with values of these types."""
    for key, types in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key, ...), types):
            raise MatchError(f"{what}: {key} is missing or not as saematch writes it")
