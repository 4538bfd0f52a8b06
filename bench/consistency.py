"""Consistency of SAEs: the numbers of `docs/consistency.md`, compared with SciPy; and a pair of 131,072 features.

    python bench/consistency.py --seeds FOLDER
    python bench/consistency.py --large

All SAEs in the folder are compared. Rows are appended to `bench/results/cpu.jsonl` only with `--append`.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from record import append, peak_bytes
from stored_matrix import THRESHOLD, numbers_by_scipy

import saematch as sm
from saematch.cli.consistency import print_summary
from saematch.cli.named import distinct_names
from saematch.sources.search import search

ROUNDING = 1e-9  # of a mean of cosines in float64, with room to spare
LARGE, WIDTH, PLANTED = 131_072, 576, 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", metavar="FOLDER", help="SAEs of one model and layer")
    parser.add_argument("--nulls", type=int, default=3, help="seeds of each null model")
    parser.add_argument("--runs", type=int, default=3, help="how often each pair is timed")
    parser.add_argument("--large", action="store_true", help=f"two decoders of {LARGE:,} rows: many minutes")
    parser.add_argument("--append", action="store_true", help="append rows to bench/results/cpu.jsonl")
    options = parser.parse_args()
    if options.seeds is not None:
        handles = search(options.seeds)[0]
        names = distinct_names([handle.shown for handle in handles])
        saes = {name: handle.read() for name, handle in zip(names, handles, strict=True)}
        print_summary(sm.consistency(saes, threshold=THRESHOLD, nulls=options.nulls))
        print()
        for a, b in itertools.combinations(saes, 2):
            compare_with_scipy(a, saes[a], b, saes[b], options.runs, options.append)
    if options.large:
        large(options.append)


def compare_with_scipy(a, first, b, second, runs, appends):
    """Check every number of a pair against SciPy, and print the seconds of both, in turns."""
    ours, theirs = [], []
    for _ in range(runs):
        result, seconds = timed(lambda: sm.consistency({a: first, b: second}, threshold=THRESHOLD, nulls=0))
        ours.append(seconds)
        expected, seconds = timed(lambda: numbers_by_scipy(first, second))
        theirs.append(seconds)
    numbers = result.pairs[0].numbers()
    difference = max(abs(numbers[name] - expected[name]) for name in numbers)
    assert result.certified
    assert difference < ROUNDING
    (wall, cpu), (scipy_wall, scipy_cpu) = np.median(ours, axis=0), np.median(theirs, axis=0)
    print(
        f"{a} and {b}, {first.F:,} and {second.F:,} features: {wall:.2f} s, {cpu:.2f} of all cores; SciPy on stored "
        f"matrices {scipy_wall:.2f} s, {scipy_cpu:.2f} of all cores; largest difference {difference:.1e}",
        flush=True,
    )
    if appends:
        sizes = {"F_A": first.F, "F_B": second.F, "K": first.d}
        for what, seconds in (("saematch", ours), ("SciPy on stored matrices", theirs)):
            append(f"consistency: {what}", sizes, [wall for wall, _ in seconds])


def timed(run):
    """Return the answer of `run`, its seconds, and its seconds summed over all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    return answer, (time.perf_counter() - wall, time.process_time() - cpu)


def planted_decoders(r):
    """Return two float32 arrays of random directions, and the partner of each row that the second has with noise."""

    def directions(count):
        rows = r.standard_normal((count, WIDTH), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    x, y = directions(LARGE), directions(LARGE)
    planted = int(PLANTED * LARGE)
    partner = r.permutation(LARGE)[:planted]
    noise = np.float32(0.7) * np.exp(r.normal(0, 0.5, planted)).astype(np.float32)  # relative to the row
    y[partner] = x[:planted] + noise[:, None] * directions(planted)
    return x, y, partner


def large(appends):
    """Match two decoders by the cosine of their rows, and print the time and the memory of the proved answer."""
    x, y, partner = planted_decoders(np.random.default_rng(0))
    sm.assign(x[:256], y[:256], metric="cosine")  # compile the loops
    ((m, (wall, cpu)), peak) = peak_bytes(lambda: timed(lambda: sm.assign(x, y, metric="cosine", progress=print)))
    peak += x.nbytes + y.nbytes
    found = (m.perm.numpy()[: len(partner)] == partner).mean()
    print(
        f"{LARGE:,} x {WIDTH}: {wall:.0f} s, {cpu:.0f} of all cores, {peak / 1e9:.2f} GB, certified: {m.certified}; "
        f"mean cosine {1 - m.cost / LARGE:.4f}, {found:.1%} of the planted partners found, {m.stats}"
    )
    assert m.certified
    if appends:
        sizes, more = {"F_A": LARGE, "F_B": LARGE, "K": WIDTH}, {key: m.stats[key] for key in ("rounds", "products")}
        append("planted decoders by cosine: saematch", sizes, [wall], peak_bytes=peak, **more)


if __name__ == "__main__":
    main()
