"""Explanations of features, from lines of one's own or as Neuronpedia exports them, and whose features they explain."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saematch.errors import MatchError, refusals
from saematch.numeric.numbers import checked_count
from saematch.runs.chain import Chain
from saematch.storage.folders import local_path, well_formed
from saematch.storage.reading import refuse_pointer_at
from saematch.text import listing

_LONGEST_LINE = 10**6  # characters; no explanation is as long
Texts = dict[int, dict[int, str]]


class Explanations(NamedTuple):
    """What was read of a path.

    Attributes:
        texts: layer -> feature -> explanation.
        sources: layer -> what Neuronpedia calls the SAE whose features are explained, where the lines say it.
        passed_over: files in which no line is an explanation.
    """

    texts: Texts
    sources: dict[int, str]
    passed_over: int

    @property
    def about(self) -> list[str]:
        """Lines that say which sources the explanations are of, and what was passed over."""
        said = [f"explanations are of {listing(sorted(set(self.sources.values())))}"] if self.sources else []
        passed_over = f"files passed over, since no line is an explanation: {self.passed_over}"
        return said + [passed_over] * bool(self.passed_over)


def read_explanations(
    path: str | os.PathLike[str], source: str | None = None, layers: Collection[int] | None = None
) -> Texts:
    """Layer -> feature -> explanation, from a `.jsonl` file, also gzipped, or a folder of such.

    A line is `{"layer": 8, "feature": 17, "explanation": "…"}`, or as in Neuronpedia's exports `{"modelId":
    "gemma-2-2b", "layer": "8-gemmascope-res-16k", "index": "17", "description": "…"}`. The first explanation of a
    feature counts. In a folder of exports, what lies in folders called `explanations…` is read; elsewhere, files
    without an explanation are passed over.

    Args:
        source: what Neuronpedia calls the SAEs, where there are several of a layer, like
            `"gemma-2-2b/{layer}-gemmascope-res-16k"`.
        layers: those that are wanted; all unless given.

    Raises:
        MatchError: if there are no explanations, some lines of a file are not, or a layer has those of several sources.
    """
    return _find(path, layers, source, {}).texts


def explanations_of(chain: Chain, path: str | os.PathLike[str], source: str | None = None) -> Explanations:
    """The explanations for the features of a run, of the source that is given, or that sae-lens knows for its SAEs."""
    known = _known_sources(chain) if source is None else {}
    found = _find(path, features_of(chain), source, known)
    _check_explained(found.texts, chain, str(path))
    return found


def checked_explanations(given: Mapping[int, Mapping[int, str]], chain: Chain) -> Texts:
    """Layer -> feature -> explanation, as text that any file can hold.

    Raises `MatchError` for anything else, and for explanations of none of a run's layers or of features beyond F.
    """
    found: dict[int, dict[int, str]] = {}
    try:
        for layer, texts in given.items():
            of_layer = found.setdefault(checked_count(layer, 0, f"layer {layer!r:.40}"), {})
            for feature, text in texts.items():
                of_layer[checked_count(feature, 0, f"feature {feature!r:.40}")] = well_formed(text)
    except (AttributeError, TypeError, MatchError) as error:
        raise MatchError(f"explanations are {given!r:.100}; give {{layer: {{feature: text}}}} ({error})") from error
    _check_explained(found, chain, "the explanations")
    return found


def _check_explained(texts: Texts, chain: Chain, shown: str) -> None:
    """Raise `MatchError` for explanations of none of a run's layers, or of features that its SAEs do not have."""
    sizes = features_of(chain)
    if texts and sizes and not sizes.keys() & texts.keys():
        raise MatchError(f"{shown}: of layers {listing(map(str, sorted(texts)))}, and the run has none of them")
    for layer, explained in texts.items():
        outside = [feature for feature in explained if not 0 <= feature < sizes.get(layer, feature + 1)]
        if outside:
            raise MatchError(
                f"{shown}: of {len(explained)} explanations for layer {layer}, {len(outside)} are of features that its "
                f"SAE does not have, the first of feature {outside[0]} of {sizes[layer]}: they are of another SAE"
            )


def features_of(chain: Chain) -> dict[int, int]:
    """How many features each layer of a run has; of two sets of SAEs, the layers of the sources."""
    sizes: dict[int, int] = {}
    for pair in chain:
        inputs = chain.pair_record(pair).get("inputs")
        both = [each["F"] for each in inputs] if inputs else [len(chain[pair].perm), chain[pair].target_features]
        sizes |= dict(zip(pair[:1] if chain.of_two_sets else pair, both, strict=False))
    return sizes


def _check_there(root: Path, shown: str) -> None:
    """Raise `MatchError` unless there is a file or a folder."""
    with refusals("cannot be read", shown, OSError):
        try:
            mode = root.stat().st_mode
        except FileNotFoundError as error:
            raise MatchError(f"{shown}: no such file or folder") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise MatchError(f"{shown}: neither a regular file nor a folder; give explanations in one of these")


def _find(
    path: str | os.PathLike[str], layers: Collection[int] | None, source: str | None, known: Mapping[int, Sequence[str]]
) -> Explanations:
    """What a path holds for some layers, of the source that is asked for, or of those known to be of each.

    Raises `MatchError`.
    """
    root = local_path(path)
    _check_there(root, str(path))
    found: dict[int, dict[str, dict[int, str]]] = {}
    files, passed_over = _files(root)
    for file in files:
        explained, wrong = _explained(file)
        if wrong is not None and (explained or file == root or _export(file, root) is not None):
            raise MatchError(
                f'{file}, line {wrong}: expected {{"layer": 8, "feature": 17, "explanation": "…"}}, or layer, index '
                "and description"
            )
        passed_over += wrong is not None
        for layer, name, feature, text in explained:
            if text:
                found.setdefault(layer, {}).setdefault(name, {}).setdefault(feature, text)
    if not found:
        without = f" (files that hold none: {passed_over})" if passed_over else ""
        raise MatchError(
            f"{path}: no explanations there{without}; expected .jsonl or .jsonl.gz, or a folder of such files"
        )
    texts, sources = Texts(), dict[int, str]()
    there = {layer: by_source for layer, by_source in found.items() if layers is None or layer in layers}
    others = []  # layers that have explanations of other sources only
    for layer, by_source in there.items():
        wanted = _names(source, layer) or known.get(layer, ())
        chosen = _chosen(str(path), layer, [name for name in by_source if name], wanted)
        if chosen is None:
            others.append(layer)
            if source is None:
                raise _other_source(path, layer, by_source, f"its SAE is {listing(wanted)}")
        sources |= {layer: chosen} if chosen else {}
        of_layer = {**by_source.get(chosen or "", {}), **by_source.get("", {})}
        texts |= {layer: of_layer} if of_layer else {}
    if others and not sources:
        raise _other_source(path, others[0], there[others[0]], f"{source} is asked for")
    if not texts:
        raise MatchError(
            f"{path}: explanations for layers {listing(map(str, sorted(found)))}, none of which the run has"
        )
    return Explanations(texts, sources, passed_over)


def _chosen(shown: str, layer: int, names: list[str], wanted: Sequence[str]) -> str | None:
    """The one source of a layer whose explanations are meant: "" if no line names one, None if it is not there.

    Raises `MatchError`.
    """
    meant = [name for name in names if not wanted or any(_same_source(name, each) for each in wanted)]
    if len(meant) > 1:
        raise MatchError(
            f"{shown}: explanations of {len(meant)} sources for layer {layer}: {listing(meant)}; say which: "
            f"{_how_to_choose(layer, meant[0])}"
        )
    return meant[0] if meant else (None if names else "")


def _other_source(path: str | os.PathLike[str], layer: int, names: Collection[str], why: str) -> MatchError:
    named = [name for name in names if name]
    return MatchError(
        f"{path}: the explanations for layer {layer} are of {listing(named)}, and {why}; to use them all the same, say "
        f"so: {_how_to_choose(layer, named[0])}"
    )


def _how_to_choose(layer: int, name: str) -> str:
    like = re.sub(rf"(^|/){layer}(?=-|$)", r"\1{layer}", name)
    return f"--neuronpedia '{like}', or source= in Python"


def _names(source: str | None, layer: int) -> Sequence[str]:
    return () if source is None else (source.replace("{layer}", str(layer)),)


def _same_source(name: str, wanted: str) -> bool:
    """Whether two names of a source are the same, where one of them may lack the model."""
    whole = "/" in name and "/" in wanted
    return name == wanted if whole else name.rpartition("/")[2] == wanted.rpartition("/")[2]


def _known_sources(chain: Chain) -> dict[int, Sequence[str]]:
    """What Neuronpedia calls the SAEs of a run, as far as an installed sae-lens knows them."""
    try:
        return {layer: handle.neuronpedia_names() for layer, handle in chain.inputs.handles.items()}
    except (MatchError, OSError):
        return {}  # what is not there says nothing


def _files(root: Path) -> tuple[list[Path], int]:
    """Files that may hold explanations, and how many were passed over: what else an export holds."""
    if root.is_file():
        return [root], 0
    files = sorted([*root.rglob("*.jsonl"), *root.rglob("*.jsonl.gz")])
    exports = {_export(file, root) for file in files} - {None}
    read = [file for file in files if _export(file, root) is not None or exports.isdisjoint(file.parents)]
    return read, len(files) - len(read)


def _export(file: Path, root: Path) -> Path | None:
    """The folder of an export whose explanations a file is among, in a folder of theirs below the root."""
    parts = file.relative_to(root).parts[:-1]
    at = next((at for at, name in enumerate(parts) if name.startswith("explanations")), None)
    return None if at is None else root.joinpath(*parts[:at])


def _explained(file: Path) -> tuple[list[tuple[int, str, int, str]], int | None]:
    """Layer, source, feature and text of each line that is an explanation, and the number of the first that is not."""
    found, wrong = [], None
    for number, row in _lines(file):
        try:
            layer, _, rest = str(row["layer"]).partition("-")
            feature = row["feature"] if "feature" in row else row["index"]
            text = row["explanation"] if "explanation" in row else row["description"]
            model = f"{row['modelId']}/" if row.get("modelId") else ""
            name = f"{model}{row['layer']}" if model or rest else ""
            explained = well_formed(text.strip()) if isinstance(text, str) else ""
            found.append((_number(layer), name, _number(feature), explained))
        except (KeyError, ValueError):
            wrong = number if wrong is None else wrong
    return found, wrong


def _number(given: Any) -> int:
    """A number of a layer or feature. Raises `ValueError`."""
    if isinstance(given, bool) or not re.fullmatch("[0-9]{1,18}", str(given)):
        raise ValueError(given)
    return int(given)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, one a line, with the line's number; an empty one for a line that is too long."""
    refuse_pointer_at(path)
    opened = gzip.open if path.suffix == ".gz" else open
    with (
        refusals("not lines of JSON objects", path, OSError, ValueError, EOFError, RecursionError),
        opened(path, "rt", encoding="utf-8") as file,
    ):
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE and not line.endswith("\n"):
                while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith("\n"):
                    pass
                yield number, {}
            elif line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
                yield number, row
