"""A whole model, end to end: 12 layers of 8,192 features in Gemma Scope layout, against the sum of its parts.

    python bench/model.py                everything, some minutes; rows are appended to bench/results/cpu.jsonl
    python bench/model.py --kill 50      kill -9 at that many random moments, resume, and compare with a whole run
    python bench/model.py --smaller      256 features, to try the script itself

P is the time of the passes on all cores, S that of the sparse problems on one, both from the pairs done one after the
other. With two pairs in work at once the ideal is P + S / 2.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from record import append, peak_bytes
from scipy.optimize import linear_sum_assignment

import saematch as sm
from saematch import stream
from saematch.features import feature_rows
from saematch.plan import plan_pairs

LAYERS, D = 12, 576


def write_model(folder: Path, features: int) -> None:
    """Layers of which each shares 60 % of its features, with noise, with the one before, in another order."""
    r = np.random.default_rng(0)
    spectrum = np.arange(1, D + 1, dtype=np.float32) ** -0.5

    def unit(count: int) -> np.ndarray:
        v = r.standard_normal((count, D), dtype=np.float32) * spectrum
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    decoder = unit(features)
    for layer in range(LAYERS):
        threshold = np.exp(r.normal(0, 0.5, features)).astype(np.float32) * np.float32(1.05) ** layer
        arrays = {
            "W_enc": np.ascontiguousarray((decoder + 0.5 * unit(features)).T), "W_dec": decoder, "threshold": threshold,
            "b_enc": r.standard_normal(features, dtype=np.float32), "b_dec": np.zeros(D, np.float32),
        }  # fmt: skip
        where = folder / f"layer_{layer}" / "width_8k" / "average_l0_50"
        where.mkdir(parents=True)
        np.savez(where / "params.npz", **arrays)
        size = (0.35 * np.exp(r.normal(0, 0.7, features))).astype(np.float32)[:, None]
        decoder = decoder + size * unit(features)
        decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
        new = r.random(features) > 0.6
        decoder[new] = unit(int(new.sum()))
        decoder = decoder[r.permutation(features)]


@contextlib.contextmanager
def lanes(number: int) -> Iterator[None]:
    before, stream.LANES = stream.LANES, number
    yield
    stream.LANES = before


def timed(run: object) -> tuple[object, float]:
    began = time.perf_counter()
    answer = run()  # type: ignore[operator]
    return answer, time.perf_counter() - began


def throughput(model: Path, scratch: Path, features: int) -> None:
    layers = sm.load_layers(model)
    pairs = plan_pairs(layers)
    sizes = {"F_A": features, "F_B": features, "K": 2 * D + 1}
    sm.match_layers(layers, pairs=pairs[:1])  # compiles the loops, fills the page cache

    def bare() -> list[sm.Matching]:
        """The pairs one after the other, rows made once, nothing written."""
        found, rows = [], feature_rows(layers[pairs[0][0]])
        for pair in pairs:
            target = feature_rows(layers[pair[1]])
            found.append(sm.assign(rows, target))
            rows = target
        return found

    answers, alone = timed(bare)
    with lanes(1):
        _, one_lane = timed(lambda: sm.match_layers(layers, scratch / "one"))
    told: list[sm.Progress] = []
    (chain, peak), seconds = timed(
        lambda: peak_bytes(lambda: sm.match_layers(layers, scratch / "run", progress=told.append))
    )
    assert chain.certified
    stages = [matching.stats["stages"] for matching in answers]
    S = sum(stage["sparse optimum"] for stage in stages)
    P = alone - S
    share = (P + S) / seconds / ((P + S) / (P + S / 2))
    append("model: pairs one after the other, nothing written", sizes, [alone], passes=round(P, 2), sparse=round(S, 2))
    append(
        "model: streamed and written, one pair at a time", sizes, [one_lane], overhead=round(one_lane / alone - 1, 3)
    )
    append("model: streamed and written", sizes, [seconds], peak_bytes=peak, stated_bytes=told[0].bytes,
           share_of_ideal_gain=round(share, 3))  # fmt: skip
    print(f"one after the other {alone:.2f} s: passes P {P:.2f}, sparse problems S {S:.2f}")
    print(f"streamed and written, one pair at a time {one_lane:.2f} s: overhead {one_lane / alone - 1:+.1%}")
    print(f"streamed and written, two at a time {seconds:.2f} s: {share:.0%} of the ideal gain")
    print(f"memory: {peak / 1e6:,.0f} MB at the peak, {told[0].bytes / 1e6:,.0f} MB stated")


def against_scipy(model: Path, features: int, pairs: int) -> None:
    """What one would write: torch's distances and SciPy, of which a few pairs are enough."""
    layers = sm.load_layers(model)

    def loop() -> None:
        for layer in range(pairs):
            x, y = (torch.from_numpy(feature_rows(layers[layer + side])) for side in (0, 1))
            squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
            linear_sum_assignment(squares.numpy())

    _, seconds = timed(loop)
    whole = seconds / pairs * (LAYERS - 1)
    append(
        "model: a Python loop over SciPy", {"F_A": features, "F_B": features, "K": 2 * D + 1}, [whole], measured=pairs
    )
    print(f"a Python loop over SciPy: {whole:.0f} s ({pairs} of {LAYERS - 1} pairs measured)")


def killed(model: Path, scratch: Path, features: int, kills: int) -> None:
    """Runs that are killed at random moments and go on, until so many kills are through: no pair twice, equal bytes."""
    moments = random.Random(0)
    command = [sys.executable, "-m", "saematch", "layers", str(model), "--quiet", "-o"]
    began = time.monotonic()
    subprocess.run([*command, str(scratch / "whole")], check=True)
    length = time.monotonic() - began
    expected = {path.name: path.read_bytes() for path in (scratch / "whole" / "pairs").glob("*.safetensors")}
    count = twice = runs = 0
    run, finished = scratch / "0", {}
    while count < kills:
        process = subprocess.Popen([*command, str(run)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.02, 0.6) * length)
        process.kill()
        count += process.wait() != 0
        now = {path.name: path.stat().st_mtime_ns for path in (run / "pairs").glob("*.json")}
        twice += sum(now[name] != when for name, when in finished.items())
        finished = now
        if process.returncode == 0:
            assert {path.name: path.read_bytes() for path in (run / "pairs").glob("*.safetensors")} == expected
            runs += 1
            run, finished = scratch / str(runs), {}
    sizes = {"F_A": features, "F_B": features, "K": 2 * D + 1}
    append("model: killed and resumed", sizes, [length], kills=count, whole_runs=runs, pairs_computed_twice=twice)
    print(f"{count} kills, {runs} runs carried to their end with equal bytes, {twice} finished pairs computed again")
    assert twice == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--smaller", action="store_true")
    options = parser.parse_args()
    features = 256 if options.smaller else 8192
    scratch = Path(tempfile.mkdtemp(prefix="saematch-bench-"))
    try:
        write_model(scratch / "model", features)
        if options.kill:
            killed(scratch / "model", scratch, features, options.kill)
        else:
            throughput(scratch / "model", scratch, features)
            against_scipy(scratch / "model", features, 1)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
