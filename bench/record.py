"""One row a measurement, appended to a JSON-lines file under `bench/results/`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from saematch.backend import machine, versions

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """The commit that was measured, marked if the tree differs from it."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(described, capture_output=True, text=True, check=False, cwd=RESULTS.parent)
    return done.stdout.strip() or "unknown"


def append(file: str, workload: str, sizes: dict[str, int], seconds: list[float], **more: Any) -> dict[str, Any]:
    """Write a row and return it: p20, p50 and p80 of `seconds`, with hardware, versions and commit."""
    p20, p50, p80 = (round(float(value), 6) for value in np.quantile(seconds, (0.2, 0.5, 0.8)))
    row = {"workload": workload, **sizes, "unit": "s", "p20": p20, "p50": p50, "p80": p80, **more}
    row |= {"versions": versions(), "machine": machine(), "commit": commit()}
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / file).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    return row
