"""JSON files, and the error for a file that cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from saematch.errors import MatchError, first_line, refuse_out_of_memory
from saematch.storage.pointers import refuse_pointer

_MOST_JSON_BYTES = 4 * 2**20  # of a configuration
_LONGEST_REASON = 200  # letters of what a parser says


def finite(value: Any) -> Any:
    """A value for JSON: None for a number that is not finite, anything else as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any) -> bytes:
    """JSON for people and programs: indented, ASCII, no NaN."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, shown: str | None = None, most: int = _MOST_JSON_BYTES) -> Any:
    """A JSON file of at most so many bytes. Raises `MatchError`, with `shown` if that is its name."""
    shown = shown or str(path)
    try:
        if path.stat().st_size > most:
            raise MatchError(f"{shown}: {path.stat().st_size} bytes of JSON, more than the {most} accepted")
        content = path.read_bytes()
        refuse_pointer(content, shown)
        return json.loads(content.decode())
    except MatchError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(shown, error) from error


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(shown: str, error: Exception) -> MatchError:
    """The error for a file that some parser refused. Raises `MemoryError` if the file is not to blame."""
    refuse_out_of_memory(error, shown)
    if isinstance(error, FileNotFoundError):
        return MatchError(f"{shown}: no such file")
    reason = first_line(error)[:_LONGEST_REASON]
    remedy = "the file may be truncated or not what its name says"
    if any("\udc80" <= letter <= "\udcff" for letter in shown):  # what Python makes of bytes that are no UTF-8
        remedy = "its path is not valid UTF-8, by which the library that reads tensors opens no file: rename it"
    return MatchError(f"{shown}: cannot be read ({reason}); {remedy}")
