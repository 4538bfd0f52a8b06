"""Lists of addresses, and mappings of layers to addresses: in Python, or in a YAML file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saematch.errors import MatchError, refusals
from saematch.numeric.numbers import whole_number
from saematch.sources.address import SAMPLE, at_home
from saematch.storage.yamlfile import MOST_YAML_BYTES, parsed_yaml

AddressLike = str | os.PathLike[str]
SourceLike = AddressLike | Sequence[AddressLike] | Mapping[int, AddressLike] | Mapping[str, AddressLike]


def is_list(name: str) -> bool:
    """Whether a file of this name is read as a list of addresses."""
    return name.lower().endswith((".yaml", ".yml"))


def read_list(file: Path) -> list[tuple[int | None, str]]:
    """Read the rows of a YAML list: layers, if the list says them, and addresses.

    Relative paths begin at the folder of the list, and may not lead out of it. Raises `MatchError`.
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
        layers = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
        for layer, times in layers.most_common(1):
            if times > 1:
                raise MatchError(f"{file}: layer {layer} is listed {times} times")
    rows = [(layer, str(text)) for layer, text in entries(content, str(file))]
    for _, text in rows:
        if ".." in Path(text).parts:
            raise MatchError(f"{file}: {text}: a list says where its SAEs are without going up (..)")
    return [(layer, _from_folder(file.parent, text)) for layer, text in rows]


def _from_folder(folder: Path, text: str) -> str:
    """Return an address of a list in a folder, as it is meant from the current folder."""
    if "://" in text or text.partition("?")[0] == SAMPLE:
        return text
    # "~" is expanded first: after the folder, it would be the name of a folder.
    return os.path.join(folder, at_home(text))


def entries(content: Any, shown: str) -> list[tuple[int | None, AddressLike]]:
    """Return the rows of a list: a layer, if the list says one, and an address.

    Raises:
        MatchError: if the content is neither a list nor a mapping; `shown` names the list.
    """
    rows: list[tuple[int | None, AddressLike]] = []
    if isinstance(content, list | tuple):
        rows = [(None, text) for text in content]
    elif isinstance(content, Mapping):
        texts = [layer if isinstance(layer, str) else str(whole_number(layer)) for layer in content]
        numbers = [int(text) if re.fullmatch("[0-9]{1,4}", text) else None for text in texts]
        rows = list(zip(numbers, content.values(), strict=True)) if None not in numbers else []
    if not rows or not all(isinstance(text, str | os.PathLike) and str(text) for _, text in rows):
        # The message does not quote the content: as text, a few nested aliases would fill the memory.
        raise MatchError(f"{shown}: expected a list of paths or addresses, or a mapping of layer numbers to them")
    return rows
