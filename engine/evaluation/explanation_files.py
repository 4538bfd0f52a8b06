"""Files of explanations: lines of one's own, `labels.json` of SAEs, or the folders that Neuronpedia exports."""

from __future__ import annotations

import gzip
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from saematch.errors import MatchError, refusals
from saematch.numeric.numbers import whole_number
from saematch.sources.labels import read_all_labels
from saematch.sources.stored import layer_in
from saematch.storage.reading import refuse_pointer_at
from saematch.text import well_formed

_LONGEST_LINE = 10**6  # characters; no explanation is as long


class Explanation(NamedTuple):
    """An explanation of one feature.

    Attributes:
        layer: the layer.
        source: the name on Neuronpedia of the SAE, `"<model>/<layer>-<name>"` or `"<layer>-<name>"`; empty if the line
            names only a layer.
        feature: the feature.
        text: the explanation; may be empty.
    """

    layer: int
    source: str
    feature: int
    text: str


def find_files(root: Path, shown: str) -> tuple[list[Path], int]:
    """Find the files that may hold explanations, in a folder or as a single file.

    In a folder of exports, these are the files in folders whose name starts with `explanations`; in other folders, all
    `.jsonl`, `.jsonl.gz` and `labels.json` files.

    Args:
        root: the file or folder.
        shown: its name in messages.

    Returns:
        The files, and the number of other files in exports.

    Raises:
        MatchError: if `root` is neither a file nor a folder that can be read.
    """
    _check_file_or_folder(root, shown)
    if root.is_file():
        return [root], 0
    files = sorted(file for name in ("*.jsonl", "*.jsonl.gz", "labels.json") for file in root.rglob(name))
    exports = {_export_of(file, root) for file in files} - {None}
    chosen = [file for file in files if _export_of(file, root) is not None or exports.isdisjoint(file.parents)]
    return chosen, len(files) - len(chosen)


def read_file(file: Path, root: Path) -> list[Explanation] | None:
    """Read the explanations in a file that `find_files` found below `root`.

    Returns None for a file in which no line is an explanation, unless an export or the caller names it as one.

    Raises:
        MatchError: if the file cannot be read, or if only some of its lines are explanations.
    """
    if file.suffix == ".json":
        return _labels(file)
    explanations, wrong_line = _parsed(file)
    if wrong_line is None:
        return explanations
    if explanations or file == root or _export_of(file, root) is not None:
        raise MatchError(
            f'{file}, line {wrong_line}: expected {{"layer": 8, "feature": 17, "explanation": "…"}}, or layer, index '
            "and description"
        )
    return None


def _check_file_or_folder(root: Path, shown: str) -> None:
    with refusals("cannot be read", shown, OSError):
        try:
            mode = root.stat().st_mode
        except FileNotFoundError as error:
            raise MatchError(f"{shown}: no such file or folder") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise MatchError(f"{shown}: neither a regular file nor a folder; give explanations in one of these")


def _export_of(file: Path, root: Path) -> Path | None:
    """Return the folder of the export that a file is an explanation file of, or None.

    This is the folder, below the root, whose folder `explanations…` contains the file.
    """
    parts = file.relative_to(root).parts[:-1]
    depth = next((depth for depth, name in enumerate(parts) if name.startswith("explanations")), None)
    return None if depth is None else root.joinpath(*parts[:depth])


def _parsed(file: Path) -> tuple[list[Explanation], int | None]:
    """Return the explanations in a file, and the number of the first line that is not an explanation."""
    explanations, wrong_line = [], None
    for number, row in _json_lines(file):
        try:
            layer, _, name = str(row["layer"]).partition("-")
            feature = row["feature"] if "feature" in row else row["index"]
            text = row["explanation"] if "explanation" in row else row["description"]
            model = f"{row['modelId']}/" if row.get("modelId") else ""
            source = f"{model}{row['layer']}" if model or name else ""
            text = well_formed(text.strip()) if isinstance(text, str) else ""
            explanations.append(Explanation(_whole_number(layer), source, _whole_number(feature), text))
        except (KeyError, ValueError):
            wrong_line = number if wrong_line is None else wrong_line
    return explanations, wrong_line


def _labels(file: Path) -> list[Explanation]:
    """Return the labels in a `labels.json`, of the layer that the file or else its path names."""
    labels, layer = read_all_labels(file, str(file))
    layer = layer_in(str(file)) if layer is None else whole_number(layer)
    if layer is None:
        raise MatchError(f'{file}: of which layer its labels are is not known; add "layer": 8 in front of "features"')
    return [Explanation(layer, "", feature, well_formed(text)) for feature, text in labels.items()]


def _whole_number(given: object) -> int:
    """Return the number of a layer or feature, given as a number or as text. Raises `ValueError`."""
    if isinstance(given, bool) or not re.fullmatch("[0-9]{1,18}", str(given)):
        raise ValueError(given)
    return int(str(given))


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the JSON object of every line; an empty object for a line that is too long."""
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
                    raise ValueError("a line is not an object")
                yield number, row
