"""Check and time the kernels and whole pairs on a GPU, in one command of under ten minutes.

    python bench/gpu.py                 everything; rows are appended to bench/results/gpu.jsonl
    python bench/gpu.py --gate          only the correctness gate (TRITON_INTERPRET=1 runs it without a GPU)
    python bench/gpu.py --minutes 5     workloads that do not fit into the time are named and skipped

The script needs torch, triton, numba and the repository, and nothing else. Whole pairs need lapx too, and peers SciPy
and torch-lap-cuda, if they are installed. Rates count 2 F_A F_B K operations, or the bytes that must move. Shares
compare them with the rates of cuBLAS and of a copy in the same run. Whole pairs start from rows in main memory, where
weights are folded.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import subprocess
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
from synthetic import layer_pair

from saematch import kernels
from saematch.cli.terminal import table
from saematch.kernels import PRECISIONS
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tiles import STORED

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
D = 2304  # Gemma-2-2B: K = 4,609 with encoder, decoder and bias
FILE = "gpu.jsonl"
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

    def kernel(
        self,
        name: str,
        sizes: dict[str, int],
        run: Callable[[], Any],
        *,
        flops: float = 0.0,
        moved: float = 0.0,
        ceiling: float = 0.0,
    ) -> float:
        """Time a kernel, and return its rate in TFLOP/s or GB/s. Its share of `ceiling`, in the same unit, is noted."""
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        # The first run is not timed, because the timer takes memory of its own.
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - held
        seconds = [
            milliseconds / 1e3 for milliseconds in triton.testing.do_bench(run, warmup=100, rep=400, return_mode="all")
        ]
        median = statistics.median(seconds)
        rate = flops / median / 1e12 if flops else moved / median / 1e9
        share = rate / ceiling if ceiling else 0.0
        more = {"rate": round(rate, 2), "rate_unit": "TFLOP/s" if flops else "GB/s", "share": round(share, 3)}
        append(name, sizes, seconds, file=FILE, peak_bytes=peak, **more)
        self.note(name, sizes, median, f"{rate:,.1f} {more['rate_unit']}", f"{share:.0%}" if ceiling else "")
        return rate

    def whole(self, name: str, sizes: dict[str, int], run: Callable[[], Any], runs: int = 1, **more: Any) -> Any:
        """Time a long workload in few runs, and return its answer."""
        torch.cuda.reset_peak_memory_stats()
        measured = []
        for _ in range(runs):
            torch.cuda.synchronize()
            began = time.perf_counter()
            answer = run()
            torch.cuda.synchronize()
            measured.append(time.perf_counter() - began)
        seconds = statistics.median(measured)
        peak = torch.cuda.max_memory_allocated()
        stats = getattr(answer, "stats", {})
        more |= {key: stats[key] for key in ("rounds", "edges", "stages", "costs", "precision") if key in stats}
        append(name, sizes, measured, file=FILE, peak_bytes=peak, **more)
        self.note(name, sizes, seconds, f"{peak / 1e9:.1f} GB", "")
        return answer

    def note(self, name: str, sizes: dict[str, int], seconds: float, rate: str, share: str) -> None:
        """Add a line to the table, and print it at once, so that an interrupted run has shown its results."""
        self.lines.append([name, f"{sizes['F_A']:,}", str(sizes["K"]), f"{seconds:.4g}", rate, share])
        print("  " + "  ".join(self.lines[-1]), flush=True)


def ceilings(bench: Bench, F: int, K: int) -> tuple[dict[str, float], float]:
    """Measure the rate of cuBLAS for the parts of each precision, on K padded to a multiple of 128, and of a copy."""
    sizes, padded = {"F_A": F, "F_B": F, "K": K}, -(-K // 128) * 128
    x, y = torch.randn(2, F, padded, device=DEVICE)
    flops = 2.0 * F * F * padded
    rates = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        a, b = x.to(dtype), y.to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        rates[name] = bench.kernel(f"cuBLAS product, {name}", sizes, lambda a=a, b=b: a @ b.T, flops=flops)
    torch.backends.cuda.matmul.allow_tf32 = False
    source, target = torch.empty(2, 2**30, dtype=torch.int8, device=DEVICE)
    copy = bench.kernel("copy", sizes, lambda: target.copy_(source), moved=2.0 * 2**30)
    return rates, copy


def hard_pair(F: int, survive: float = 0.1, noise: float = 1.0) -> list[np.ndarray]:
    """Return rows of the generator, with a column for the bias."""
    r = np.random.default_rng(1)
    return [
        np.concatenate([rows, r.standard_normal((F, 1), dtype=np.float32)], axis=1)
        for rows in layer_pair(F, D, survive=survive, noise=noise)
    ]


def passes(bench: Bench, F: int, rates: dict[str, float], copy: float) -> None:
    """Time every kernel at one size: products in every precision, and passes over the stored matrix."""
    x, y = (torch.from_numpy(rows).to(DEVICE) for rows in hard_pair(F))
    K = x.shape[1]
    sizes, flops = {"F_A": F, "F_B": F, "K": K}, 2.0 * F * F * K
    u, v = torch.zeros(F, device=DEVICE), torch.zeros(F, device=DEVICE)
    # Products, compared with cuBLAS.
    for name, chosen in PRECISIONS.items():
        parts = "float32" if chosen.is_proved else "bfloat16" if chosen.dtype == torch.bfloat16 else "tf32"
        ceiling = rates[parts] / len(chosen.pairs)
        costs = kernels.products(x, y, name)
        if bench.has(5, f"pairwise cost, {name}"):
            run = partial(kernels.pairwise_cost, costs)
            bench.kernel(f"pairwise cost, {name}", sizes, run, flops=flops, ceiling=ceiling)
    # Passes over the stored matrix, compared with a copy.
    matrix = kernels.pairwise_cost(kernels.products(x, y))
    costs, moved = kernels.stored(matrix), 4.0 * F * F
    every = torch.arange(F, dtype=torch.int32, device=DEVICE)
    for operation, run in {
        "tile minima, stored": lambda: tile_minima(matrix, every, u, v, STORED),
        "candidates k = 8, stored": lambda: kernels.candidates(costs, u, v, 8),
        "candidates k = 64, stored": lambda: kernels.candidates(costs, u, v, 64),
        "peer: torch.topk k = 8 of the rows, stored": lambda: matrix.topk(8, dim=1, largest=False),
    }.items():
        if bench.has(5, operation):
            bench.kernel(operation, sizes, run, moved=moved, ceiling=copy)
    bench.kernel("peer: torch.cdist", sizes, lambda: torch.cdist(x, y), flops=flops, ceiling=rates["float32"])
    # Listed pairs in float64.
    pairs = torch.randint(0, F, (2, 2**18), device=DEVICE)
    wide = x.double(), y.double()
    bench.kernel(
        "exact products, float64 rows",
        sizes,
        lambda: kernels.exact_products(*wide, *pairs, wide[0][0], wide[1][0]),
        moved=2.0 * 8 * K * 2**18,
        ceiling=copy,
    )


def whole_pairs(bench: Bench) -> None:
    """Time whole pairs, from rows in main memory to a certified permutation."""
    if importlib.util.find_spec("lap") is None:
        bench.skipped.append("whole pairs (lapx is not installed)")
        return
    import saematch as sm

    # This compiles the kernels that are timed below.
    warm = hard_pair(512)
    for memory in (2**40, 2**23):
        for precision in ("ieee", "tf32x3"):
            sm.assign(*warm, backend="triton", precision=precision, memory=memory)
    for F, seconds in ((16_384, 20), (65_536, 70), (131_072, 200)):
        if bench.has(seconds, f"whole pairs, F = {F:,}"):
            _one_size(bench, F, seconds)


def _one_size(bench: Bench, F: int, seconds: float) -> None:
    import saematch as sm

    x, y = hard_pair(F)
    sizes = {"F_A": F, "F_B": F, "K": x.shape[1]}
    for form, memory in (("stored", 2**40), ("matrix-free", 2**23)):
        for precision in ("ieee", "tf32x3"):
            case = f"hard synthetic: saematch, {form}, {precision}"
            if bench.has(seconds / 2, f"{case}, F = {F:,}"):

                def solve(precision: str = precision, memory: int = memory) -> Any:
                    limit = max(1.0, (bench.until - time.monotonic()) / 2)
                    return sm.assign(x, y, backend="triton", precision=precision, memory=memory, time_limit=limit)

                answer = bench.whole(case, sizes, solve, runs=3 if F == 16_384 else 1)
                if answer.stats["costs"] != form:
                    bench.skipped.append(f"{case}, F = {F:,}: it ran {answer.stats['costs']}")
                assert answer.certified or answer.status == "time_limit", case
    if F == 16_384:
        planted = hard_pair(F, survive=1.0, noise=0.1)
        bench.whole("all planted: saematch, stored, ieee", sizes, lambda: sm.assign(*planted, backend="triton"), 3)
        a, b = (sm.load_layers("sample")[layer] for layer in (8, 9))
        sizes = {"F_A": a.F, "F_B": b.F, "K": 2 * a.d + 1}
        bench.whole("sample: saematch, from SAEs in main memory", sizes, lambda: sm.match(a, b, backend="triton"), 3)


def peers(bench: Bench, F: int) -> None:
    """Time other exact solvers on the matrix of costs. They run last, because they take longest."""
    x, y = (torch.from_numpy(rows).to(DEVICE) for rows in hard_pair(F))
    M = kernels.pairwise_cost(kernels.products(-2 * x, y))
    M -= M.min()
    costs, sizes = M.cpu().numpy(), {"F_A": F, "F_B": F, "K": x.shape[1]}
    solvers = {
        "torch_lap_cuda": ("torch-lap-cuda on the matrix", lambda module: module.solve_lap(M)),
        "lap": ("lapx lapjvr on the copied matrix", lambda module: module.lapjvr(costs)),
        "scipy.optimize": ("SciPy on the copied matrix", lambda module: module.linear_sum_assignment(costs)),
    }
    for package, (what, solve) in solvers.items():
        name = f"peer: {what}"
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            bench.skipped.append(f"{name} ({package.partition('.')[0]} is not installed)")
        else:
            module = importlib.import_module(package)
            bench.whole(name, sizes, lambda solve=solve, module=module: solve(module))


def run_aside(arguments: list[str], seconds: float) -> bool:
    """Run this script with other arguments in another process; return whether that was ended after `seconds`."""
    try:
        subprocess.run([sys.executable, __file__, *arguments], check=False, timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return True
    return False


def main() -> int:
    """Run the workloads, print the table, and name the skipped workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", action="store_true", help="only the correctness gate")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="skip workloads that do not fit into this time (default: 9)"
    )
    parser.add_argument("--peers", action="store_true", help="only the peers, however long they take")
    options = parser.parse_args()
    if DEVICE.type != "cuda" and not (options.gate and kernels.is_interpreted()):
        print("torch sees no CUDA GPU: nothing was measured (TRITON_INTERPRET=1 with --gate checks the kernels)")
        return 1
    # Peers run in a process of their own, which may be ended.
    if options.peers:
        bench = Bench(60)
        peers(bench, 16_384)
        print("\n".join(f"skipped: {what}" for what in bench.skipped))
        return 0
    # Nothing is timed that gives wrong answers.
    print("gate:", torch.cuda.get_device_name() if DEVICE.type == "cuda" else "interpreted", flush=True)
    gate(DEVICE)
    print("every kernel agrees with its reference")
    if options.gate:
        return 0
    # The workloads, in the order of their importance.
    bench = Bench(options.minutes)
    try:
        rates, copy = ceilings(bench, 16_384, 2 * D + 1)
        passes(bench, 16_384, rates, copy)
        whole_pairs(bench)
        if bench.has(120, "peers"):
            timed_out = run_aside(["--peers"], bench.until - time.monotonic())
            bench.skipped += ["peers that did not end in time"] * timed_out
    finally:  # an interrupted run prints the table as well
        print("\n" + table(("workload", "F", "K", "median s", "rate or peak", "share"), bench.lines))
        for what in bench.skipped:
            print(f"skipped: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
