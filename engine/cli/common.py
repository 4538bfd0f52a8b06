"""Exit codes, messages and checks that commands share."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from saematch.errors import MatchError
from saematch.storage.folders import regular_file
from saematch.text import printable

DONE, DEFECT, BAD_INPUT, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130
INCOMPLETE = (
    "The run is not complete: it was stopped, it is still running, or some of its pairs have failed. The same\n"
    "`saematch layers` command finishes it."
)

# Python arguments that messages of the library name. Most have the name of their flag, with underscores.
_ARGUMENTS = (
    "activations", "against", "against_neuronpedia", "backend", "causal_pairs", "device", "document_length", "executor",
    "fold", "inputs", "map", "max_cost", "max_rounds", "method", "metric", "neuronpedia", "overwrite", "pairs", "parts",
    "precision", "shard", "time_limit", "verify_inputs", "weights", "weights_share",
)  # fmt: skip
_FLAGS = {name: f"--{name.replace('_', '-')}" for name in _ARGUMENTS} | {
    "out": "-o",
    "others": "--compare",  # other evaluations that figures show
    "source": "--neuronpedia",  # of explanations
}
# `name=`, `name=True` or `name="value"`, but not a part of an address like `hf://owner/repo?name=value`.
_ARGUMENT = re.compile(rf"""(?<![\w?&])({"|".join(_FLAGS)})=(True\b|"[^"]*"|'[^']*'|(?!\w))""")


def in_flags(message: str) -> str:
    """Name flags of the command line in place of the Python arguments that a message of the library names.

    >>> in_flags("choose another folder, or pass overwrite=True")
    'choose another folder, or pass --overwrite'
    >>> in_flags('executor="ray" needs the package ray; give another executor=')
    '--executor "ray" needs the package ray; give another --executor'
    """
    return _ARGUMENT.sub(lambda match: f"{_FLAGS[match[1]]} {match[2].removeprefix('True')}".rstrip(), message)


def for_terminal(message: str) -> str:
    """Return a message of the library as the command line prints it: with flags, without control characters."""
    return printable(in_flags(message))


def complain(message: str, code: int) -> int:
    """Print a message on one line of stderr, if stderr can be written, and return the exit code."""
    with suppress(OSError):
        print("saematch:", for_terminal(" ".join(message.split())), file=sys.stderr)
    return code


def print_json(content: dict[str, Any]) -> None:
    """Print an object as JSON on one line of stdout."""
    print(json.dumps(content, allow_nan=False))


def check_output(output: str | None, overwrite: bool) -> None:
    """Check, before any work, that the output file can be written.

    Raises:
        MatchError: if its folder does not exist or cannot be written, or if the file exists and `overwrite` is false.
    """
    if output is None:
        return
    path = regular_file(Path(output))
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise MatchError(f"{output}: cannot be written; name a file in a folder that exists and can be written")
    if path.exists() and not overwrite:
        raise MatchError(f"{output}: exists already; choose another name, or replace it with --overwrite")
