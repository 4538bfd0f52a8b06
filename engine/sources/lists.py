"""Lists of sources, or mappings of layers to them: in Python, or in a YAML file."""

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

_MOST_YAML_BYTES = 2**18
AddressLike = str | os.PathLike[str]
SourceLike = AddressLike | Sequence[AddressLike] | Mapping[int, AddressLike] | Mapping[str, AddressLike]


def is_list(name: str) -> bool:
    """Whether a file of this name is read as a list of sources."""
    return name.lower().endswith((".yaml", ".yml"))


def read_list(file: Path) -> list[tuple[int | None, str]]:
    """The rows of a YAML list; relative paths begin at its folder, and lead no higher. Raises `MatchError`."""
    with refusals("cannot be read", file, OSError, ValueError, RecursionError):
        if not file.is_file():  # it might block, or never end
            raise MatchError(f"{file}: is no regular file")
        if file.stat().st_size > _MOST_YAML_BYTES:
            raise MatchError(f"{file}: {file.stat().st_size} bytes of YAML, more than a list of SAEs has")
        text = file.read_text(encoding="utf-8")
        # Every scalar is text, whatever its tag: nothing is made of it, nor computed from it.
        try:
            content, node = yaml.load(text, yaml.BaseLoader), yaml.compose(text, yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error  # the reason is on several lines
        rows = node.value if isinstance(node, yaml.MappingNode) else []
        for layer, times in Counter(key.value for key, _ in rows if isinstance(key, yaml.ScalarNode)).most_common(1):
            if times > 1:
                raise MatchError(f"{file}: layer {layer} is there {times} times")
    found = [(layer, str(text)) for layer, text in entries(content, str(file))]
    for _, text in found:
        if ".." in Path(text).parts:
            raise MatchError(f"{file}: {text}: a list says where its SAEs are without going up (..)")
    return [(layer, _from_folder(file.parent, text)) for layer, text in found]


def _from_folder(folder: Path, text: str) -> str:
    if "://" in text or text.partition("?")[0] == SAMPLE:
        return text
    # A home is found here: joined, "~" would be a name, or a home again, by where the list lies.
    return os.path.join(folder, at_home(text))


def entries(content: Any, shown: str) -> list[tuple[int | None, AddressLike]]:
    """The rows of a list: a layer, if it says one, and a path or address. Raises `MatchError`, with `shown`."""
    rows: list[tuple[int | None, AddressLike]] = []
    if isinstance(content, list | tuple):
        rows = [(None, text) for text in content]
    elif isinstance(content, Mapping):
        texts = [layer if isinstance(layer, str) else str(whole_number(layer)) for layer in content]
        numbers = [int(text) if re.fullmatch("[0-9]{1,4}", text) else None for text in texts]
        rows = list(zip(numbers, content.values(), strict=True)) if None not in numbers else []
    if not rows or not all(isinstance(text, str | os.PathLike) and str(text) for _, text in rows):
        # What was given is not shown: as text, a few nested aliases would fill the memory.
        raise MatchError(f"{shown}: expected a list of paths or addresses, or a mapping of layer numbers to them")
    return rows
