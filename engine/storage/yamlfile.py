"""Reading YAML files of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from saematch.errors import MatchError
from saematch.storage.reading import parsing, refuse_pointer

MOST_YAML_BYTES = 2**18


def read_yaml(path: Path, shown: str) -> Any:
    """Read a small YAML file: mappings, lists and texts.

    Raises:
        MatchError: if the file is larger than 256 KB, or cannot be read; the message calls it `shown`.
    """
    with parsing(shown, OSError, ValueError, RecursionError):
        size = path.stat().st_size
        if size > MOST_YAML_BYTES:
            raise MatchError(f"{shown}: {size} bytes of YAML, more than the {MOST_YAML_BYTES} accepted")
        content = path.read_bytes()
        refuse_pointer(content, shown)
        return parsed_yaml(content.decode())[0]


def parsed_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the content of a YAML text, and its tree. Raises `ValueError`.

    The loader makes every scalar a text, whatever its tag: it makes no objects, and computes nothing.
    """
    try:
        return yaml.load(text, yaml.BaseLoader), yaml.compose(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error  # the message has several lines
