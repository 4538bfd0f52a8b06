"""Where the host's time goes: an SAE from its file to rows that are ready for passes, and the assignment by stage.

    python bench/stages.py            16,384 features, K = 4,609, and 131,072 features, K = 1,153
    python bench/stages.py --small    only the first, for a minute

Run it with `OMP_NUM_THREADS=1` to measure one thread. Rows are appended to bench/results/cpu.jsonl. A stage of the
assignment is what is left of its time without the passes, and without the float64 values of listed pairs, which are
stages of their own: on a GPU, both are made by kernels.

The last lines of each size are a prediction, not a measurement: how long what a GPU does would take on one H200, from
what has to be computed and copied, and from the rates in `RATES`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from model import timed
from record import append
from synthetic import layer_pair

import saematch as sm
from saematch.cost import distances, products
from saematch.matching import comparison
from saematch.numeric.threads import threads

SIZES = [(16_384, 2_304, 3), (131_072, 576, 1)]  # features, the width of activations, and how often pairs are matched
# Assumed for one H200: int8 operations of a product at three quarters of cuBLAS' rate, bytes of its memory, bytes from
# pageable memory of the host, and float64 operations of listed pairs, all a second.
RATES = {"int8": 1.1e15, "memory": 3.4e12, "upload": 7e9, "float64": 15e12}


@contextlib.contextmanager
def timed_parts(of: Any, names: list[str], seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds that methods of a class, or functions of a module, take."""

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*given, **options)
            finally:
                seconds[name] += time.perf_counter() - began

        return run

    before = {name: getattr(of, name) for name in names}
    for name, method in before.items():
        setattr(of, name, timed(name, method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(of, name, method)


def make_sae(rows: np.ndarray, d: int) -> dict[str, np.ndarray]:
    """Return the arrays of an SAE, as they are stored, whose folded rows are near the given ones."""
    threshold = np.linalg.norm(rows[:, :d], axis=1)
    return {
        "W_dec": rows[:, :d] / threshold[:, None],
        "W_enc": np.ascontiguousarray((rows[:, d:] * threshold[:, None]).T),
        "threshold": threshold,
        "b_enc": np.random.default_rng(0).standard_normal(len(rows), dtype=np.float32),
        "b_dec": np.zeros(d, np.float32),
    }


def measure(features: int, d: int, runs: int) -> None:
    pair = layer_pair(features, d, survive=0.1, noise=1.0)
    sizes = {"F_A": features, "F_B": features, "K": 2 * d + 1}
    sm.assign(*(rows[:2_304].copy() for rows in pair))  # compile the loops
    with tempfile.TemporaryDirectory(prefix="saematch-bench-") as folder:
        paths = [Path(folder) / f"layer_{n}.npz" for n in range(2)]
        for path, rows in zip(paths, pair, strict=True):
            np.savez(path, **make_sae(rows, d))
        del pair, rows
        reading = []
        for _ in range(runs):
            saes, seconds = timed(lambda: [sm.load(path) for path in paths])
            reading.append(seconds / len(paths))
    found = [stages_of(*saes) for _ in range(runs)]
    print(f"{features:,} features, K = {2 * d + 1:,}, {threads()} threads")
    rows = {"an SAE: reading": reading}
    rows |= {name: [seconds[name] for seconds, _ in found] for name in found[0][0]}
    for name, values in rows.items():
        append(f"stages: {name}", sizes, values)
        print(f"  {name:32} {statistics.median(values):8.2f} s")
    stats = found[0][1]
    on_a_gpu = predicted(features, 2 * d + 1, stats["products"], stats["exact_pairs"])
    for name, value in on_a_gpu.items():
        print(f"  one H200, predicted: {name:32} {value:8.3f} s")


def stages_of(a: sm.SAE, b: sm.SAE) -> tuple[dict[str, float], dict[str, Any]]:
    """Match two SAEs; return the seconds of each stage, and the statistics of the matching."""
    seconds: dict[str, float] = defaultdict(float)
    kind, make = products.Int8Products, "int8_operands"
    if products.int8_obstacle():
        kind, make = products.Float32Products, "float32_operands"
    with (
        timed_parts(comparison, ["folded_rows"], seconds),
        timed_parts(distances, ["make_sides"], seconds),
        timed_parts(products, [make], seconds),
        timed_parts(kind, ["cheapest", "exact", "block"], seconds),
    ):
        answer, whole = timed(lambda: sm.match(a, b))
    assert answer.certified
    stages = answer.stats["stages"]
    rows = {
        "an SAE: folding": seconds["folded_rows"] / 2,
        "an SAE: preparing for passes": (seconds["make_sides"] + seconds[make]) / 2,
        "a pair: passes": seconds["cheapest"],
        "a pair: float64 values": seconds["exact"] + seconds["block"],
        "a pair: sparse optimum": stages["sparse optimum"],
        "a pair: assignment": sum(stages.values())
        - sum(seconds[part] for part in ("cheapest", "exact", "block", make)),
    }
    known = sum(value for name, value in rows.items() if name != "a pair: sparse optimum")
    known += rows["an SAE: folding"] + rows["an SAE: preparing for passes"]
    return rows | {"a pair: the rest": whole - known, "a pair: everything but reading": whole}, answer.stats


def predicted(features: int, width: int, products: float, pairs: int) -> dict[str, float]:
    """Return predicted seconds of one pair on a GPU, from the products and the float64 values that it took here."""
    entries, all_pairs = 2 * features * width, features**2
    return {
        "upload of the weights": 4 * entries / RATES["upload"],
        "walks over the rows": 24 * 8 * entries / RATES["memory"],  # float64 and float32 arrays, written and read
        "int8 products": products * 2 * all_pairs * width / RATES["int8"],
        "lists of what is cheapest": products * 3 * 4 * all_pairs / RATES["memory"],  # written once, and read twice
        "float64 values of listed pairs": max(
            8 * pairs * width / RATES["memory"], 60 * pairs * width / RATES["float64"]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    for size in SIZES[:1] if parser.parse_args().small else SIZES:
        measure(*size)


if __name__ == "__main__":
    main()
