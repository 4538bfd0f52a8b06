"""Check and time the kernels and whole pairs on a GPU, in one command of under ten minutes.

    python bench/gpu.py                 everything; rows are appended to bench/results/gpu.jsonl
    python bench/gpu.py --gate          only the correctness gate (TRITON_INTERPRET=1 runs it without a GPU)
    python bench/gpu.py --minutes 5     workloads that do not fit into the time are named and skipped

The script needs torch, triton, numba and the repository; whole pairs need lapx too. Rates count 2 F_A F_B K operations,
or the bytes that must move. Shares compare them with the rate of cuBLAS, or of a copy, in the same run. Whole pairs
start from rows in main memory, where weights are folded.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton

sys.path.insert(0, str(Path(__file__).parent))
if importlib.util.find_spec("saematch") is None:  # the machine has the repository, without an installation
    from tree import importable

    importable()

from gpu_gate import gate
from record import append

from saematch import kernels
from saematch.cli.terminal import table
from saematch.cost.upload import upload
from saematch.kernels import TileShape
from saematch.kernels.pairs_below.launch import pairs_below
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tiles import LISTING, READING

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
D = 2304  # Gemma-2-2B: K = 4,609 with encoder, decoder and bias
SIZE = {"F_A": 16_384, "F_B": 16_384, "K": 2 * D}
INT8_TILES = [
    TileShape(128, 128, 128),
    TileShape(128, 128, 128, num_stages=4),
    TileShape(128, 128, 64, num_stages=4),
    TileShape(128, 256, 128),
]
FILE = "gpu.jsonl"
STATS = ("rounds", "edges", "stages", "precision", "products", "exact_pairs", "largest_residual")
BEGAN = time.monotonic()


class Bench:
    """Time workloads, and write and show a row for each; skip workloads that there is no time for."""

    def __init__(self, minutes: float) -> None:
        self.until = BEGAN + 60 * minutes
        self.lines: list[list[str]] = []
        self.skipped: list[str] = []

    def has(self, seconds: float, what: str) -> bool:
        """Return whether there is time for a workload, and note it as skipped if there is none."""
        fits = time.monotonic() + seconds < self.until
        if not fits:
            self.skipped.append(what)
        return fits

    def rate(
        self, name: str, run: Callable[[], Any], *, flops: float = 0.0, moved: float = 0.0, ceiling: float = 0.0
    ) -> float:
        """Time a workload of `SIZE`, and return its rate in TFLOP/s or GB/s. Its share of `ceiling` is noted."""
        if not self.has(5, name):
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        # The first run is not timed, because the timer takes memory of its own.
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - held
        measured = triton.testing.do_bench(run, warmup=100, rep=400, return_mode="all")
        seconds = [milliseconds / 1e3 for milliseconds in measured]
        median = statistics.median(seconds)
        rate, unit = (flops / median / 1e12, "TFLOP/s") if flops else (moved / median / 1e9, "GB/s")
        share = rate / ceiling if ceiling else 0.0
        append(name, SIZE, seconds, file=FILE, peak_bytes=peak, rate=round(rate, 2), rate_unit=unit, share=share)
        self._note(name, SIZE, median, f"{rate:,.1f} {unit}", f"{share:.0%}" if ceiling else "")
        return rate

    def whole(self, name: str, x: np.ndarray, y: np.ndarray, time_limit: float | None = None) -> None:
        """Match one pair, and note its stages and the peak of the GPU's memory."""
        import saematch as sm

        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        answer = sm.assign(x, y, device="cuda", time_limit=time_limit)
        seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated()
        sizes = {"F_A": len(x), "F_B": len(y), "K": x.shape[1]}
        more = {key: answer.stats[key] for key in STATS if key in answer.stats}
        append(name, sizes, [seconds], file=FILE, peak_bytes=peak, status=answer.status, **more)
        self._note(name, sizes, seconds, f"{peak / 1e9:.1f} GB", answer.status)

    def _note(self, name: str, sizes: dict[str, int], seconds: float, rate: str, share: str) -> None:
        # Printed at once as well, so that an interrupted run has shown its results.
        self.lines.append([name, f"{sizes['F_A']:,}", str(sizes["K"]), f"{seconds:.4g}", rate, share])
        print("  " + "  ".join(self.lines[-1]), flush=True)


def ceilings(bench: Bench) -> dict[str, float]:
    """Measure the rates of cuBLAS and of copies: on the GPU, and from main memory."""
    F, K = SIZE["F_A"], SIZE["K"]
    x, y = torch.randn(2, F, K, device=DEVICE)
    rates = {}
    for name, dtype in (
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float64", torch.float64),
    ):
        a, b = x.to(dtype), y.to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        rates[name] = bench.rate(f"cuBLAS product, {name}", partial(torch.mm, a, b.T), flops=2.0 * F * F * K)
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (each.sign().to(torch.int8) for each in (x, y))
    rates["int8"] = bench.rate("cuBLAS product, int8", partial(torch._int_mm, a, b.T), flops=2.0 * F * F * K)
    source, target = torch.empty(2, 2**30, dtype=torch.int8, device=DEVICE)
    rates["copy"] = bench.rate("copy", partial(target.copy_, source), moved=2.0 * 2**30)
    pageable = torch.zeros(2**30, dtype=torch.int8)
    for name, host in (("pageable", pageable), ("pinned", pageable.pin_memory())):
        bench.rate(f"copy from {name} memory", partial(target.copy_, host), moved=2.0**30)
    bench.rate("upload of weights", partial(upload, pageable.numpy(), DEVICE), moved=2.0**30)
    return rates


def passes(bench: Bench, rates: dict[str, float]) -> None:
    """Time every kernel at one size."""
    F, K = SIZE["F_A"], SIZE["K"]
    flops, moved = 2.0 * F * F * K, 4.0 * F * F
    x, y = torch.randn(2, F, K, device=DEVICE)
    single = kernels.Float32Products(x, y)
    q, p = (torch.randint(-127, 128, (F, K), dtype=torch.int8, device=DEVICE) for _ in range(2))
    scale = torch.full((F,), 1e-3, device=DEVICE)
    int8 = kernels.Int8Products(q, p, scale, scale)
    # Products, compared with cuBLAS.
    out = int8.block()
    bench.rate("float32 products", partial(single.block, out=out), flops=flops, ceiling=rates["float32"])
    for tile in INT8_TILES:
        shape = f"{tile.BLOCK_M} x {tile.BLOCK_N} x {tile.BLOCK_K}, {tile.num_stages} stages"
        run = partial(kernels.int8_products, q, p, scale, scale, out=out, tile=tile)
        bench.rate(f"int8 products, {shape}", run, flops=flops, ceiling=rates["int8"])
    # Readings of a block, compared with a copy.
    u = torch.zeros(F, device=DEVICE)
    limit = torch.full((F,), float(out[:8].quantile(8 / F)), device=DEVICE)
    bench.rate("tile minima", partial(tile_minima, out, u, u, READING), moved=moved, ceiling=rates["copy"])
    listed = partial(pairs_below, out, u, u, limit, limit, capacity=2**22, most=2**28, tile=LISTING)
    bench.rate("pairs below", listed, moved=moved, ceiling=rates["copy"])
    bench.rate("peer: torch.topk k = 8 of the rows", partial(out.topk, 8, dim=1), moved=moved, ceiling=rates["copy"])
    del out
    # Whole passes: products and lists.
    for k in (8, 32, 256):
        bench.rate(f"candidates k = {k}, int8", partial(kernels.candidates, int8, u, u, k), flops=flops)
    bench.rate("candidates k = 8, float32", partial(kernels.candidates, single, u, u, 8), flops=flops)
    # Listed pairs in float64.
    pairs = torch.randint(0, F, (2, 2**18), device=DEVICE)
    wide = x.double(), y.double()
    run = partial(kernels.exact_products, *wide, *pairs, wide[0][0], wide[1][0])
    bench.rate("exact products", run, moved=2.0 * 8 * K * 2**18, ceiling=rates["copy"])


def hard_pair(F: int) -> list[np.ndarray]:
    """Return rows of the problem "hard, 10 % persist" of `synthetic.layer_pair`, drawn on the GPU, with a bias."""
    torch.manual_seed(1)
    spectrum = torch.arange(1, D + 1, device=DEVICE) ** -0.5

    def unit() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(F, D, device=DEVICE) * spectrum)

    def rows(decoder: torch.Tensor, encoder: torch.Tensor, threshold: torch.Tensor) -> np.ndarray:
        bias = torch.randn(F, 1, device=DEVICE)
        return torch.cat([decoder * threshold, encoder / threshold, bias], dim=1).cpu().numpy()

    decoder = unit()
    encoder = decoder + 0.5 * unit()
    threshold = torch.randn(F, 1, device=DEVICE).mul(0.5).exp()
    new = torch.rand(F, 1, device=DEVICE) > 0.1
    size = torch.randn(F, 1, device=DEVICE).mul(0.7).exp()
    fresh = unit()
    next_decoder = torch.where(new, fresh, torch.nn.functional.normalize(decoder + size * unit()))
    next_encoder = torch.where(new, fresh + 0.5 * unit(), encoder + size * unit())
    drift = torch.randn(F, 1, device=DEVICE)
    next_threshold = 1.05 * torch.where(new, drift.mul(0.5).exp(), threshold * drift.mul(0.1).exp())
    order = torch.randperm(F, device=DEVICE)
    source = rows(decoder, encoder, threshold)
    return [source, rows(next_decoder[order], next_encoder[order], next_threshold[order])]


def whole_pairs(bench: Bench) -> None:
    """Time whole pairs, from rows in main memory to a certified permutation."""
    if importlib.util.find_spec("lap") is None:
        bench.skipped.append("whole pairs (lapx is not installed)")
        return
    if bench.has(40, "whole pairs, F = 16,384"):
        x, y = hard_pair(16_384)
        for which in ("cold", "warm", "warm"):
            bench.whole(f"hard synthetic, {which}", x, y)
    if bench.has(150, "whole pair, F = 131,072"):
        bench.whole("hard synthetic, at most 60 s", *hard_pair(131_072), time_limit=60)


def main() -> int:
    """Run the workloads, print the table, and name the skipped workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="only the correctness gate")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="skip workloads that do not fit into this time (default: 9)"
    )
    options = parser.parse_args()
    if DEVICE.type != "cuda" and not (options.gate and kernels.is_interpreted()):
        print("torch sees no CUDA GPU: nothing was measured (TRITON_INTERPRET=1 with --gate checks the kernels)")
        return 1
    # Nothing is timed that gives wrong answers.
    print("gate:", torch.cuda.get_device_name() if DEVICE.type == "cuda" else "interpreted", flush=True)
    gate(DEVICE)
    print("every kernel agrees with its reference")
    if options.gate:
        return 0
    # The workloads, in the order of their importance.
    bench = Bench(options.minutes)
    try:
        rates = ceilings(bench)
        passes(bench, rates)
        whole_pairs(bench)
    finally:  # an interrupted run prints the table as well
        print("\n" + table(("workload", "F", "K", "median s", "rate or peak", "share or status"), bench.lines))
        for what in bench.skipped:
            print(f"skipped: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
