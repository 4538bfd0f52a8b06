"""Files of our own: written aside and renamed, so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from saematch.errors import MatchError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, replacing what is there in one step. Raises `MatchError` where it cannot be written."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        try:
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise MatchError(f"{path}: cannot be written ({error.strerror or error})") from error


def as_json(content: Any) -> bytes:
    """JSON for people and programs: indented, ASCII, no NaN."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
