"""Reading and writing JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from saematch.errors import MatchError
from saematch.storage.reading import parsing, refuse_pointer

_MOST_BYTES = 4 * 2**20  # of a configuration


def finite_or_none(value: Any) -> Any:
    """Return None for a number that is NaN or infinite, which JSON lacks, and any other value unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(content: Any) -> bytes:
    """Return JSON that people and programs can read: indented, ASCII, and without NaN."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, shown: str | None = None, most: int = _MOST_BYTES) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises:
        MatchError: if the file is larger, or cannot be read; the message calls it `shown`, by default its path.
    """
    shown = shown or str(path)
    with parsing(shown, OSError, ValueError, RecursionError):
        size = path.stat().st_size
        if size > most:
            raise MatchError(f"{shown}: {size} bytes of JSON, more than the {most} accepted")
        content = path.read_bytes()
        refuse_pointer(content, shown)
        return json.loads(content.decode())
