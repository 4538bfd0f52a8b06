"""Print the newest row of every workload in a results file, and how it compares with the bare product."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from saematch.terminal import table

file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "cpu.jsonl"
newest = {(row["workload"], row["F_A"]): row for row in map(json.loads, file.read_text().splitlines())}
lines = []
for (name, features), row in newest.items():
    group = name.split(":")[0]
    product = newest.get((f"{group}: bare product", features))
    ratio = f"{row['p50'] / product['p50']:.2f}" if product else ""
    rest = f"{row['p50'] - product['p50']:.3f}" if product and "saematch" in name else ""
    peak = f"{row['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in row else ""
    spread = f"{row['p20']:.3f} to {row['p80']:.3f}"
    lines.append([name, f"{features:,}", str(row["K"]), f"{row['p50']:.3f}", spread, ratio, rest, peak])
head = ("workload", "F", "K", "median s", "p20 to p80", "/ product", "less product", "peak")
print(table(head, lines))
last = list(newest.values())[-1]
machine = last["machine"]
print(f"\n{machine['processor']}, {machine['cores']} cores, torch {last['versions']['torch']}, commit {last['commit']}")
