"""A whole model, end to end: 12 layers of 8,192 features in Gemma Scope layout, against the sum of its parts.

    python bench/model.py                 everything, some minutes; rows are appended to bench/results/cpu.jsonl
    python bench/model.py --kill 50       kill -9 at that many random moments, resume, and compare with a whole run
    python bench/model.py --model FOLDER  SAEs of your own
    python bench/model.py --gpu           26 layers of 16,384 features, d = 2,304, on a GPU: from the page cache to
                                          certified matchings, with the share of time that the GPU was busy

P is the time of the passes on all cores, S that of the sparse problems on one, both from the pairs done one after the
other. With two pairs in work at once the ideal is P + S / 2.
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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from record import append, peak_bytes
from scipy.optimize import linear_sum_assignment

import saematch as sm
from saematch.runs import pipeline
from saematch.runs.plan import plan_pairs
from saematch.sae.features import feature_rows


def write_model(folder: Path, layers: int, features: int, d: int) -> None:
    """Layers of which each shares 60 % of its features, with noise, with the one before, in another order."""
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
def lanes(number: int) -> Iterator[None]:
    before, pipeline.WORKERS = pipeline.WORKERS, number
    yield
    pipeline.WORKERS = before


def timed(run: object) -> tuple[object, float]:
    began = time.perf_counter()
    answer = run()  # type: ignore[operator]
    return answer, time.perf_counter() - began


def sizes_of(layers: sm.Layers) -> dict[str, int]:
    about = layers.handles[min(layers)].describe().sae
    return {"F_A": about.F, "F_B": about.F, "K": 2 * about.d + 1, "layers": len(layers)}


def throughput(layers: sm.Layers, scratch: Path, name: str) -> None:
    pairs, sizes = plan_pairs(layers), sizes_of(layers)
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
    events: list[sm.Progress] = []
    (chain, peak), seconds = timed(
        lambda: peak_bytes(lambda: sm.match_layers(layers, scratch / "run", progress=events.append))
    )
    assert chain.certified
    S = sum(matching.stats["stages"]["sparse optimum"] for matching in answers)
    P = alone - S
    share, overhead, stated = (P + S / 2) / seconds, one_lane / alone - 1, events[0].peak_bytes
    parts = {"passes": round(P, 2), "sparse": round(S, 2)}
    append(f"{name}: pairs one after the other, nothing written", sizes, [alone], **parts)
    append(f"{name}: streamed and written, one at a time", sizes, [one_lane], overhead=round(overhead, 3))
    more = {"stated_bytes": stated, "share_of_ideal_gain": round(share, 3)}
    append(f"{name}: streamed and written", sizes, [seconds], peak_bytes=peak, **more)
    print(f"one after the other {alone:.2f} s: passes P {P:.2f}, sparse problems S {S:.2f}")
    print(f"streamed and written, one pair at a time {one_lane:.2f} s: overhead {overhead:+.1%}")
    print(f"streamed and written, two at a time {seconds:.2f} s: {share:.0%} of the ideal gain")
    print(f"memory: {peak / 1e6:,.0f} MB at the peak, {stated / 1e6:,.0f} MB stated")


def against_scipy(layers: sm.Layers, name: str) -> None:
    """What one would write: torch's distances and SciPy, of which one pair is enough."""

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
    found = {"kills": count, "whole_runs": runs, "pairs_computed_twice": twice}
    append("model: killed and resumed", sizes_of(sm.load_layers(model)), [length], **found)
    print(f"{count} kills, {runs} runs carried to their end with equal bytes, {twice} finished pairs computed again")
    assert twice == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--d", type=int)
    given = parser.parse_args()
    usual = (26, 16_384, 2_304) if given.gpu else (12, 8_192, 576)
    shape = [asked or other for asked, other in zip((given.layers, given.features, given.d), usual, strict=True)]
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
