"""What commands share: exit codes, output, options that were given."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from saematch.errors import MatchError
from saematch.storage.folders import regular_file
from saematch.text import printable

DONE, DEFECT, UNFINISHED, INTERRUPTED = 0, 1, 3, 130


def complain(message: str, code: int) -> int:
    """One line on stderr, if it can be written, without what could steer a terminal."""
    with suppress(OSError):
        print("saematch:", printable(" ".join(message.split())), file=sys.stderr)
    return code


def print_json(content: dict[str, Any]) -> None:
    """One object on stdout, on one line."""
    print(json.dumps(content, allow_nan=False))


def refuse_unwritable(output: str | None, overwrite: bool) -> None:
    """Before any work: its folder can be written, a file that is there may be replaced."""
    if output is None:
        return
    path = regular_file(Path(output))
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise MatchError(f"{output}: cannot be written; name a file in a folder that exists and can be written")
    if path.exists() and not overwrite:
        raise MatchError(f"{output}: exists already; choose another name, or overwrite it (--overwrite)")


def comparison_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a comparison that were given."""
    given = {name: getattr(options, name) for name in ("parts", "weights", "fold", "max_cost")}
    return {name: value for name, value in given.items() if value is not None}


def limits_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a solver."""
    return {
        "max_rounds": options.max_rounds,
        "time_limit": options.time_limit,
        "memory": options.memory,
        "device": options.device,
        "backend": options.backend,
        "precision": options.precision,
    }
