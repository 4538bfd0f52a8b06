"""Texts for files that are meant to be shared: paths begin with the name of the source, without folders above it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from saematch.options import Side
from saematch.runs.chain import Chain

# An absolute path, but no part of an address like hf://owner/repo or of a relative path.
_FOLDERS = re.compile(r"(?<![\w.~:/-])/(?:[^/\s:;,'\"()]+/)+")


class Shareable:
    """Texts without the folders of the machine that they were written on.

    Args:
        places: folders and files that the texts may name: of each, only the folder above it is left out.

    Examples:
        >>> from saematch.analysis.shareable import Shareable
        >>> Shareable(["/home/me/saes"]).content("/home/me/saes/layer_8/params.npz: no file")
        'saes/layer_8/params.npz: no file'
    """

    def __init__(self, places: Iterable[str]) -> None:
        above = {str(PurePosixPath(place).parent) + "/" for place in places} - {"//", "./"}
        known = "|".join(re.escape(folder) for folder in sorted(above, key=len, reverse=True))
        self._known = re.compile(rf"(?<![\w.~:/-])(?:{known})") if known else _FOLDERS

    def content(self, value: Any) -> Any:
        """Return JSON content in which every text is without folders of the machine."""
        if isinstance(value, str):
            return _FOLDERS.sub("", self._known.sub("", value))
        if isinstance(value, dict):
            return {key: self.content(item) for key, item in value.items()}
        return [self.content(item) for item in value] if isinstance(value, list) else value


def places_of(chain: Chain) -> Iterator[str]:
    """Yield the folders and files of the machine that a run names: its own, those of its sources and of its SAEs."""
    yield chain.folder or ""
    for source in (chain.record.get("source"), chain.record.get("against")):
        for address in source.values() if isinstance(source, dict) else [source or ""]:
            path = address.split("?")[0]
            literal = re.split(r"[*{[]", path)[0]
            yield path if literal == path else literal.rpartition("/")[0]  # of a pattern, the folder in front of it
    inputs = [chain.pair_record(pair).get("inputs", ()) for pair in chain]
    for side in Side:
        yield common_folder(record[side]["path"] for record in inputs if record)


def common_folder(paths: Iterable[str | None]) -> str:
    """Return the folder that holds the folders of all absolute paths; "" if there is no such path."""
    folders = {str(PurePosixPath(path).parent) for path in paths if path is not None and path.startswith("/")}
    return os.path.commonpath(folders) if folders else ""
