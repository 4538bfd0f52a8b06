"""Peak memory and time of `certify` at 16,384 features, without the memory of imports and rows (Linux).

The rows are made by another process, so that making them does not count. The loops are compiled and the libraries are
loaded before the measurement begins.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import append, peak_bytes
from synthetic import layer_pair

import saematch as sm

FEATURES, WIDTH = 16_384, 576


def measure(folder: Path) -> None:
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    sm.certify(x[:256], y[:256], np.arange(256))
    start = time.perf_counter()
    graded, peak = peak_bytes(lambda: sm.certify(x, y, np.arange(FEATURES)))
    seconds = time.perf_counter() - start
    sizes = {"F_A": FEATURES, "F_B": FEATURES, "K": x.shape[1]}
    rounds = graded.stats["rounds"]
    held = peak + x.nbytes + y.nbytes
    row = append("hard synthetic: certify, float64 rows", sizes, [seconds], peak_bytes=held, rounds=rounds)
    matrix, rounding = FEATURES**2 * 4, graded.rounding_error / graded.gain
    print(f"certify the identity, F = {FEATURES:,}, K = {x.shape[1]:,}, rows in {x.dtype}:")
    print(f"  peak memory above imports and rows  {peak / 1e6:.0f} MB; the full cost matrix: {matrix / 1e6:.0f} MB")
    print(f"  seconds                             {row['p50']:.1f}; {rounds} passes over all pairs")
    print(f"  status                              {graded.status}; rounding {rounding:.1e} of the scale")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            for name, rows in zip("xy", layer_pair(FEATURES, WIDTH, survive=0.1, noise=1.0), strict=True):
                np.save(f"{temporary}/{name}.npy", rows.astype(np.float64))
            sys.exit(subprocess.run([sys.executable, __file__, temporary], check=False).returncode)
