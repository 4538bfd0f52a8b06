"""One pair of layers, solved and proved, compared with one float32 product of its rows and with other exact solvers.

`make bench` runs this file. A row is only written if the answer is certified, and a row of another exact solver only if
it finds the same matching. The other solvers make the cost matrix from the rows, too, and prove nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import lap
import numpy as np
import pytest
import torch
from record import timed
from scipy.optimize import linear_sum_assignment
from synthetic import layer_pair

import saematch as sm
from saematch.cost.passes import TILE
from saematch.cost.products import int8_obstacle, int8_operands, integer_products
from saematch.cost.sides import make_sides
from saematch.cost.walks import HostWalks
from saematch.numeric.rows import Rows
from saematch.sae.features import feature_rows

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "smollm2-135m-res"


def real_pair():
    if not REAL.is_dir():
        pytest.skip(f"the real SAEs are not at {REAL}")
    layers = sm.load_layers(REAL)
    a, b = next(iter(pairwise(layers)))
    return feature_rows(layers[a]), feature_rows(layers[b])


def hard_pair():
    return layer_pair(16_384, 576, survive=0.1, noise=1.0)


RUNS = 3
PEERS = {"scipy": linear_sum_assignment, "lapjvr": lap.lapjvr, "lapjvh": lap.lapjvh}


@pytest.fixture(scope="module")
def workload():
    x, y = hard_pair()
    sm.assign(x[:256], y[:256])  # compile the loops
    return "hard synthetic", x, y, RUNS


def float32_product(x, y):
    """Multiply all rows in float32, tile by tile, and do nothing with the products: the work of one dense pass."""
    left, right = (torch.from_numpy(rows.astype(np.float32)) for rows in (x, y))
    out = torch.empty(TILE)
    for top in range(0, len(left), TILE[0]):
        for start in range(0, len(right), TILE[1]):
            a, b = left[top : top + TILE[0]], right[start : start + TILE[1]]
            torch.mm(a, b.T, out=out[: len(a), : len(b)])


def test_float32_product(benchmark, workload):
    name, x, y, runs = workload
    timed(benchmark, name, "float32 product", x, y, lambda: float32_product(x, y), runs)


def int8_product(sides):
    """Multiply all rows as whole numbers, tile by tile, and do nothing with the products."""
    left, right = int8_operands(sides).values
    out = torch.empty(TILE[0] * TILE[1], dtype=torch.int32)
    for top in range(0, len(left), TILE[0]):
        for start in range(0, len(right), TILE[1]):
            a, b = left[top : top + TILE[0]], right[start : start + TILE[1]]
            integer_products(a, b, out[: len(a) * len(b)].view(len(a), len(b)))


def test_int8_product(benchmark, workload):
    if int8_obstacle():
        pytest.skip(str(int8_obstacle()))
    name, x, y, runs = workload
    sides = make_sides((HostWalks(Rows.of(x)), HostWalks(Rows.of(y))))
    timed(benchmark, name, "int8 product, with the rounding of the rows", x, y, lambda: int8_product(sides), runs)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_saematch(benchmark, workload, precision):
    name, x, y, runs = workload
    if precision == "int8" and int8_obstacle():
        pytest.skip(str(int8_obstacle()))
    assert timed(
        benchmark, name, f"saematch, {precision}", x, y, lambda: sm.assign(x, y, precision=precision), runs
    ).certified


@pytest.mark.parametrize("features", [16, 64, 128, 256, 512, 1024, 2048])
@pytest.mark.parametrize("peer", ["saematch", "scipy", "lapjvr", "lapjvh"])
def test_small_problems(benchmark, features, peer):
    """Measure sizes at which a dense solver is quick: from rows to a matching, for saematch with its proof."""
    x, y = (rows[:features].copy() for rows in real_pair())
    ours = sm.assign(x, y)
    assert ours.certified

    def dense():
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        costs = ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T).numpy()
        return PEERS[peer](costs)

    run = (lambda: sm.assign(x, y)) if peer == "saematch" else dense
    answer = timed(benchmark, f"real SAEs, {features}", peer, x, y, run, 30 if features <= 512 else 7)
    if peer != "saematch":
        np.testing.assert_array_equal(np.asarray(answer[-1]), ours.perm)
