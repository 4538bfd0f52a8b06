"""Print the newest row of every workload in a results file, compared with one float32 product of the same rows.

The column "passes" says how many pairs the passes looked at, in units of all pairs, and "residual" how much of a row
their numbers left out at most, relative to its norm.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from saematch.cli.terminal import table

file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "cpu.jsonl"
newest = {
    (row["workload"], row["F_A"], row["machine"].get("threads", 0)): row
    for row in map(json.loads, file.read_text().splitlines())
}


lines = []
for (name, features, threads), row in sorted(newest.items(), key=lambda item: (item[0][0].split(":")[0], *item[0][1:])):
    bare = newest.get((f"{name.partition(': ')[0]}: float32 product", features, threads))
    ratio = f"{row['p50'] / bare['p50']:.2f}" if bare and "sparse problem" not in name else ""
    peak = f"{row['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in row else ""
    looks = f"{row['products']:.2f}" if "products" in row else ""
    residual = f"{row['largest_residual']:.2g}" if "largest_residual" in row else ""
    size = [f"{features:,}", str(row["K"]), str(threads or "")]
    lines.append([name, *size, f"{row['p50']:.4g}", ratio, looks, residual, peak])
print(table(("workload", "F", "K", "threads", "median s", "/ float32 product", "passes", "residual", "peak"), lines))
for (name, features, threads), row in newest.items():
    group, _, what = name.partition(": ")
    ours = newest.get((f"{group}: saematch", features, threads))
    if ours and what in ("scipy", "lapjvr", "lapjvh"):
        print(f"{group} features: {what} takes {row['p50'] / ours['p50']:.2f} times as long as saematch")
last = list(newest.values())[-1]
machine = last["machine"]
print(f"\n{machine['processor']}, {machine['cores']} cores, torch {last['versions']['torch']}")
