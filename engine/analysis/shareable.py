"""Texts for files that are meant to be shared: paths begin with the name of the source, without folders above it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from saematch.options import Side
from saematch.runs.chain import Chain

# An absolute path, but no part of an address like hf://owner/repo or of a relative path.
_FOLDERS = re.compile(r"(?<![\w.~:/-])/(?:[^/\s:;,'\"()]+/)+")


class Shareable:
    """Texts of a run, without the folders of the machine that it ran on.

    Args:
        chain: the run.

    Examples:
        >>> import saematch as sm
        >>> from saematch.analysis.shareable import Shareable
        >>> Shareable(sm.match_layers(sm.load_layers("sample?layer=8-9"))).content("/home/me/saes/params.npz: no file")
        'params.npz: no file'
    """

    def __init__(self, chain: Chain) -> None:
        above = {str(PurePosixPath(place).parent) + "/" for place in _places(chain)} - {"//", "./"}
        known = "|".join(re.escape(folder) for folder in sorted(above, key=len, reverse=True))
        self._known = re.compile(rf"(?<![\w.~:/-])(?:{known})") if known else _FOLDERS

    def content(self, value: Any) -> Any:
        """Return JSON content in which every text is without folders of the machine."""
        if isinstance(value, str):
            return _FOLDERS.sub("", self._known.sub("", value))
        if isinstance(value, dict):
            return {key: self.content(item) for key, item in value.items()}
        return [self.content(item) for item in value] if isinstance(value, list) else value


def _places(chain: Chain) -> Iterator[str]:
    """Yield the folders and files of the machine that a run names: its own, those of its sources and of its SAEs."""
    yield chain.folder or ""
    for source in (chain.record.get("source"), chain.record.get("against")):
        for address in source.values() if isinstance(source, dict) else [source or ""]:
            path = address.split("?")[0]
            literal = re.split(r"[*{[]", path)[0]
            yield path if literal == path else literal.rpartition("/")[0]  # of a pattern, the folder in front of it
    inputs = [chain.pair_record(pair).get("inputs", ()) for pair in chain]
    for side in Side:
        paths = {record[side]["path"] or "" for record in inputs if record}
        folders = {str(PurePosixPath(path).parent) for path in paths if path.startswith("/")}
        yield os.path.commonpath(folders) if folders else ""
