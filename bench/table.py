"""Print the newest row of every workload in a results file, compared with the bare product of the same rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from saematch.cli.terminal import table

file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "cpu.jsonl"
newest = {(row["workload"], row["F_A"]): row for row in map(json.loads, file.read_text().splitlines())}


def floor(name, features):
    """Return the row of the bare product, stored if the solver stores it, or of the bare pass."""
    group, _, what = name.partition(": ")
    form = "stored" if "stored" in what else "matrix-free"
    for bare in (f"bare product, {form}", "bare product, matrix-free", "bare pass, row and column minimum"):
        if (f"{group}: {bare}", features) in newest:
            return newest[f"{group}: {bare}", features]
    return None


lines = []
for (name, features), row in sorted(newest.items(), key=lambda item: (item[0][0].split(":")[0], item[0][1])):
    bare = floor(name, features)
    whole = bare is not None and "product, first" not in name and "sparse problem" not in name
    ratio = f"{row['p50'] / bare['p50']:.2f}" if whole else ""
    rest = f"{row['p50'] - bare['p50']:.3f}" if whole and "saematch" in name else ""
    peak = f"{row['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in row else ""
    rounds = str(row.get("rounds", ""))
    lines.append([name, f"{features:,}", str(row["K"]), f"{row['p50']:.4g}", ratio, rest, peak, rounds])
print(table(("workload", "F", "K", "median s", "/ bare", "less bare", "peak", "rounds"), lines))
for (name, features), row in newest.items():
    group, _, what = name.partition(": ")
    ours = newest.get((f"{group}: saematch, stored", features))
    if ours and what.endswith("on the stored cost"):
        products = [newest[f"{group}: bare product, {form}", features]["p50"] for form in ("stored", "matrix-free")]
        times = row["p50"] / (ours["p50"] - min(products))
        print(f"{group}, F = {features:,}: all but the product {times:.1f} x faster than {what}")
last = list(newest.values())[-1]
machine = last["machine"]
print(f"\n{machine['processor']}, {machine['cores']} cores, torch {last['versions']['torch']}")
