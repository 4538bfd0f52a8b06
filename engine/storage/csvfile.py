"""Writing CSV."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Any, TextIO


def csv_rows(file: TextIO) -> Any:
    """Return a `csv.writer` whose rows end with a line feed, and which quotes carriage returns in fields too.

    Before Python 3.13, a writer quotes a carriage return only if its lines end with one. So lines end with both, and
    the carriage return is removed when a line is written.
    """
    lines = SimpleNamespace(write=lambda row: file.write(row.removesuffix("\r\n") + "\n"))
    return csv.writer(lines, lineterminator="\r\n")
