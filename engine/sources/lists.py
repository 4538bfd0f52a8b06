"""Lists of addresses, and mappings of layers or names to addresses: in Python, or in a YAML file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saematch.errors import MatchError, refusals
from saematch.sources.address import SAMPLE, at_home
from saematch.sources.names import numbered
from saematch.storage.yamlfile import MOST_YAML_BYTES, parsed_yaml

AddressLike = str | os.PathLike[str]
SourceLike = AddressLike | Sequence[AddressLike] | Mapping[int, AddressLike] | Mapping[str, AddressLike]


def is_list(name: str) -> bool:
    """Whether a file of this name is read as a list of addresses."""
    return name.lower().endswith((".yaml", ".yml"))


def read_list(file: Path) -> list[tuple[int | str | None, str]]:
    """Read the rows of a YAML list: layers or names, if the list says them, and addresses.

    The configuration of circuit-tracer is such a list if it says where the transcoders of all layers are. Relative
    paths begin at the folder of the list, and may not lead out of it. Raises `MatchError`.
    """
    with refusals("cannot be read", file, OSError, ValueError, RecursionError):
        # A pipe or a device might block, or never end.
        if not file.is_file():
            raise MatchError(f"{file}: is not a regular file")
        if file.stat().st_size > MOST_YAML_BYTES:
            raise MatchError(f"{file}: {file.stat().st_size} bytes of YAML, more than a list of SAEs has")
        content, node = parsed_yaml(file.read_text(encoding="utf-8"))
        # YAML lets a key come twice, and a mapping has only the last of them.
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = Counter(str(key.value) for key, _ in pairs if isinstance(key, yaml.ScalarNode))
        for key, times in keys.most_common(1):
            if times > 1:
                shown = f"layer {key}" if key.isdecimal() else repr(key)
                raise MatchError(f"{file}: {shown:.100} is listed {times} times")
    if isinstance(content, dict) and isinstance(content.get("transcoders"), list):
        content = dict(enumerate(content["transcoders"]))
    rows = [(key, str(text)) for key, text in entries(content, str(file))]
    for _, text in rows:
        if ".." in Path(text).parts:
            raise MatchError(f"{file}: {text}: a list says where its SAEs are without going up (..)")
    return [(key, _from_folder(file.parent, text)) for key, text in rows]


def _from_folder(folder: Path, text: str) -> str:
    """Return an address of a list in a folder, as it is meant from the current folder."""
    if "://" in text or text.partition("?")[0] == SAMPLE:
        return text
    # "~" is expanded first: after the folder, it would be the name of a folder.
    return os.path.join(folder, at_home(text))


def entries(content: Any, shown: str) -> list[tuple[int | str | None, AddressLike]]:
    """Return the rows of a list: the number of a layer, or a name, if the list says one, and an address.

    Raises:
        MatchError: if the content is neither a list nor a mapping; `shown` names the list.
    """
    rows: list[tuple[int | str | None, AddressLike]] = []
    if isinstance(content, list | tuple):
        rows = [(None, text) for text in content]
    elif isinstance(content, Mapping):
        numbers, names = numbered(list(content)) or ([], [])
        rows = list(zip(names or numbers, content.values(), strict=False))
    if not rows or not all(isinstance(text, str | os.PathLike) and str(text) for _, text in rows):
        # The message does not quote the content: as text, a few nested aliases would fill the memory.
        raise MatchError(
            f"{shown}: expected a list of paths or addresses, or a mapping of layer numbers or names to them"
        )
    return rows
