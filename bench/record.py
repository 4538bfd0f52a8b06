"""Append one row per measurement to a JSON-lines file in `bench/results/`."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from saematch.matching.backend import machine, versions

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    """Return the measured commit, with "-dirty" if any file except the results differs from it."""
    here = RESULTS.parent.parent

    def git(*command: str) -> str:
        try:
            done = subprocess.run(["git", *command], capture_output=True, text=True, check=False, cwd=here)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")


def status(key: str) -> int:
    """Return an entry of /proc/self/status in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def peak_bytes(run: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `run`, and the peak of its memory above the memory that was in use before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is freed but not returned would hide that much of the peak
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    answer = run()
    return answer, status("VmHWM") - before


def append(
    workload: str, sizes: dict[str, int], seconds: list[float], file: str = "cpu.jsonl", **more: Any
) -> dict[str, Any]:
    """Append a row and return it: the quantiles p20, p50 and p80 of `seconds`, with machine, versions and commit."""
    p20, p50, p80 = (round(float(value), 6) for value in np.quantile(seconds, (0.2, 0.5, 0.8)))
    row = {"workload": workload, **sizes, "unit": "s", "p20": p20, "p50": p50, "p80": p80, "runs": len(seconds), **more}
    row |= {"versions": versions(), "machine": machine(), "commit": commit()}
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / file).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    return row


def timed(benchmark: Any, name: str, what: str, x: Any, y: Any, run: Callable[[], Any], runs: int = 1) -> Any:
    """Time `run`, append the row, and return the last answer.

    If `runs` is more than one, there is one more run before, which is not timed. The peak of memory is that of the
    first run, plus the rows `x` and `y`, which were made before: everything but the imports.
    """
    answer, peak = peak_bytes(lambda: benchmark.pedantic(run, rounds=1) if runs == 1 else run())
    if runs > 1:
        answer = benchmark.pedantic(run, rounds=runs)
    peak += x.nbytes + y.nbytes
    sizes = {"F_A": len(x), "F_B": len(y), "K": x.shape[1]}
    stats = getattr(answer, "stats", {})
    more = {key: stats[key] for key in ("rounds", "products", "exact_pairs", "largest_residual") if key in stats}
    append(f"{name}: {what}", sizes, list(benchmark.stats.stats.data), peak_bytes=peak, **more)
    return answer
