"""A whole model, end to end: 12 layers of 8,192 features in Gemma Scope layout, compared with the sum of its parts.

    python bench/model.py                 measure for some minutes, and append rows to bench/results/cpu.jsonl
    python bench/model.py --kill 50       kill runs at 50 random moments, resume them, and compare with a whole run
    python bench/model.py --model FOLDER  measure other SAEs
    python bench/model.py --gpu           26 layers of 16,384 features, d = 2,304, on a GPU: from files in memory to
                                          certified matchings, with the share of time in which the GPU was busy

Let P be the time of the passes on all cores, and S the time of the sparse problems on one core, both measured with one
pair at a time. With n pairs at a time on n cores, the ideal is P + S / n: each core then solves sparse problems, or
takes part in passes, all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import append, peak_bytes
from scipy.optimize import linear_sum_assignment

import saematch as sm
from saematch.numeric.threads import threads
from saematch.runs import workers
from saematch.runs.plan import plan_pairs
from saematch.sae.features import feature_rows

NUMBERS = (1, 2, 4)  # of pairs in work at the same time, next to what runs choose


def write_model(folder: Path, layers: int, features: int, d: int) -> None:
    """Write layers that share 60 % of their features, with noise and in another order, with the layer before."""
    r = np.random.default_rng(0)
    spectrum = np.arange(1, d + 1, dtype=np.float32) ** -0.5

    def unit(count: int) -> np.ndarray:
        v = r.standard_normal((count, d), dtype=np.float32) * spectrum
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    decoder = unit(features)
    for layer in range(layers):
        threshold = np.exp(r.normal(0, 0.5, features)).astype(np.float32) * np.float32(1.05) ** layer
        arrays = {
            "W_enc": np.ascontiguousarray((decoder + 0.5 * unit(features)).T),
            "W_dec": decoder,
            "threshold": threshold,
            "b_enc": r.standard_normal(features, dtype=np.float32),
            "b_dec": np.zeros(d, np.float32),
        }
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
def at_a_time(number: int) -> Iterator[None]:
    """Have so many pairs in work at the same time."""
    before, workers.pairs_at_once = workers.pairs_at_once, lambda *_: number
    yield
    workers.pairs_at_once = before


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    answer = run()
    return answer, time.perf_counter() - began


def sizes_of(layers: sm.Layers) -> dict[str, int]:
    about = layers.handles[min(layers)].describe().sae
    return {"F_A": about.F, "F_B": about.F, "K": 2 * about.d + 1, "layers": len(layers)}


def throughput(layers: sm.Layers, scratch: Path, name: str) -> None:
    pairs, sizes = plan_pairs(layers), sizes_of(layers)
    sm.match_layers(layers, pairs=pairs[:1])  # compile the loops, fill the page cache

    def bare() -> list[sm.Matching]:
        """Match one pair after the other, make the rows of each layer once, and write nothing."""
        matchings, rows = [], feature_rows(layers[pairs[0][0]])
        for pair in pairs:
            target = feature_rows(layers[pair[1]])
            matchings.append(sm.assign(rows, target))
            rows = target
        return matchings

    answers, alone = timed(bare)
    by_number = {}
    for number in NUMBERS:
        with at_a_time(number):
            _, by_number[number] = timed(lambda number=number: sm.match_layers(layers, scratch / str(number)))
    events: list[sm.Progress] = []
    (chain, peak), seconds = timed(
        lambda: peak_bytes(lambda: sm.match_layers(layers, scratch / "run", progress=events.append))
    )
    assert chain.certified
    S = sum(matching.stats["stages"]["sparse optimum"] for matching in answers)
    P = alone - S
    share, overhead, stated = (P + S / threads()) / seconds, by_number[1] / alone - 1, events[0].peak_bytes
    parts = {"passes": round(P, 2), "sparse": round(S, 2)}
    append(f"{name}: pairs one after the other, nothing written", sizes, [alone], **parts)
    append(f"{name}: streamed and written, 1 at a time", sizes, [by_number[1]], overhead=round(overhead, 3))
    for number in NUMBERS[1:]:
        append(f"{name}: streamed and written, {number} at a time", sizes, [by_number[number]])
    more = {"stated_bytes": stated, "share_of_ideal_gain": round(share, 3)}
    append(f"{name}: streamed and written", sizes, [seconds], peak_bytes=peak, **more)
    print(f"one after the other {alone:.2f} s: passes P {P:.2f}, sparse problems S {S:.2f}")
    times = ", ".join(f"{number} at a time {by_number[number]:.2f} s" for number in NUMBERS)
    print(f"streamed and written, {times}: overhead of one at a time {overhead:+.1%}")
    print(f"streamed and written, as many as runs choose {seconds:.2f} s: {share:.0%} of the ideal gain")
    print(f"memory: {peak / 1e6:,.0f} MB at the peak, {stated / 1e6:,.0f} MB stated")


def against_scipy(layers: sm.Layers, name: str) -> None:
    """Measure the obvious loop: distances in torch, then SciPy. One pair is measured, and multiplied."""

    def pair() -> None:
        x, y = (torch.from_numpy(feature_rows(layers[layer])) for layer in list(layers)[:2])
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        linear_sum_assignment(squares.numpy())

    _, seconds = timed(pair)
    whole = seconds * (len(layers) - 1)
    append(f"{name}: a Python loop over SciPy", sizes_of(layers), [whole], measured=1)
    print(f"a Python loop over SciPy: {whole:.1f} s (one of {len(layers) - 1} pairs measured)")


def on_a_gpu(layers: sm.Layers, scratch: Path) -> None:
    busy: list[int] = []
    done = threading.Event()

    def sample() -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.2):
            busy.append(int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]))

    sm.match_layers(layers, pairs=plan_pairs(layers)[:1], backend="triton")
    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        chain, seconds = timed(lambda: sm.match_layers(layers, scratch / "run", backend="triton"))
    finally:
        done.set()
        sampler.join()
    assert chain.certified
    share = round(sum(busy) / 100 / max(1, len(busy)), 3)
    append("model on a GPU: streamed and written", sizes_of(layers), [seconds], file="gpu.jsonl", busy=share)
    print(f"{len(chain)} pairs in {seconds:.2f} s, GPU busy {share:.0%} of the time")


def killed(model: Path, scratch: Path, kills: int) -> None:
    """Kill runs at random moments, resume them, and compare the bytes of the complete runs with those of a whole run.

    No finished pair may be computed again.
    """
    moments = random.Random(0)
    command = [sys.executable, "-m", "saematch", "layers", str(model), "--quiet", "-o"]
    # One run without interruption, for its time and its files.
    began = time.monotonic()
    subprocess.run([*command, str(scratch / "whole")], check=True)
    length = time.monotonic() - began
    expected = {path.name: path.read_bytes() for path in (scratch / "whole" / "pairs").glob("*.safetensors")}
    # Each run is killed and resumed until it is complete; then the next run begins in another folder.
    count = computed_twice = runs = 0
    run, finished = scratch / "0", {}
    while count < kills:
        process = subprocess.Popen([*command, str(run)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.02, 0.6) * length)
        process.kill()
        count += process.wait() != 0
        now = {path.name: path.stat().st_mtime_ns for path in (run / "pairs").glob("*.json")}
        computed_twice += sum(now[name] != written for name, written in finished.items())
        finished = now
        if process.returncode == 0:
            assert {path.name: path.read_bytes() for path in (run / "pairs").glob("*.safetensors")} == expected
            runs += 1
            run, finished = scratch / str(runs), {}
    counts = {"kills": count, "whole_runs": runs, "pairs_computed_twice": computed_twice}
    append("model: killed and resumed", sizes_of(sm.load_layers(model)), [length], **counts)
    print(f"{count} kills, {runs} complete runs with equal bytes, {computed_twice} finished pairs computed again")
    assert computed_twice == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--d", type=int)
    given = parser.parse_args()
    default = (26, 16_384, 2_304) if given.gpu else (12, 8_192, 576)
    shape = [size or other for size, other in zip((given.layers, given.features, given.d), default, strict=True)]
    with tempfile.TemporaryDirectory(prefix="saematch-bench-") as folder:
        scratch = Path(folder)
        model = Path(given.model) if given.model else scratch / "model"
        if not given.model:
            write_model(model, *shape)
        layers, name = sm.load_layers(model), Path(given.model).name if given.model else "model"
        if given.kill:
            killed(model, scratch, given.kill)
        elif given.gpu:
            on_a_gpu(layers, scratch)
        else:
            throughput(layers, scratch, name)
            against_scipy(layers, name)


if __name__ == "__main__":
    main()
