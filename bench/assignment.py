"""One pair, solved and proved, against the bare product of its rows and against other exact solvers.

Run by `make bench`. Every row is written behind a gate: the answer is certified and, where an exact peer runs, equal in
cost. Peers get the stored cost matrix for nothing; what they are compared with is everything but the one product.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import lap
import numpy as np
import pytest
import torch
from record import append
from scipy.optimize import linear_sum_assignment
from synthetic import layer_pair

import saematch as sm
from saematch.cost import DistanceCost
from saematch.features import feature_rows

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "smollm2-135m-res"
CPU = torch.device("cpu")


def real_pair():
    if not REAL.is_dir():
        pytest.skip(f"the real SAEs are not at {REAL}")
    layers = sm.load_layers(REAL)
    a, b = next(iter(pairwise(layers)))
    return feature_rows(layers[a]), feature_rows(layers[b])


def hard_pair():
    return layer_pair(16_384, 576, survive=0.1, noise=1.0)


WORKLOADS = {"real SAEs": (real_pair, 15), "hard synthetic": (hard_pair, 1)}  # rows of both sides, repetitions


@pytest.fixture(scope="module", params=WORKLOADS)
def workload(request):
    make, repetitions = WORKLOADS[request.param]
    x, y = make()
    sm.assign(x[:64], y[:64])  # compiles the loops
    return request.param, x, y, repetitions


def timed(benchmark, workload, what, run, **more):
    """Time `run`, append the row, and return what it returned last."""
    name, x, y, repetitions = workload
    result = benchmark.pedantic(run, rounds=repetitions, warmup_rounds=min(1, repetitions - 1))
    sizes = {"F_A": len(x), "F_B": len(y), "K": x.shape[1]}
    append("cpu.jsonl", f"{name}: {what}", sizes, list(benchmark.stats.stats.data), **more)
    return result


def test_bare_product(benchmark, workload):
    """The floor: the float32 products of all pairs, in the tiles of a pass."""
    cost = DistanceCost(workload[1], workload[2], CPU)
    timed(benchmark, workload, "bare product", lambda: sum(1 for _ in cost._tiles(np.arange(cost.shape[0]))))


@pytest.mark.parametrize("memory", [2**23, 2**33], ids=["matrix-free", "stored"])
def test_saematch(benchmark, workload, memory):
    _, x, y, _ = workload
    matching = timed(
        benchmark, workload, "saematch, " + ("stored" if memory > 2**30 else "matrix-free"),
        lambda: sm.assign(x, y, memory=memory),
    )  # fmt: skip
    assert matching.certified


@pytest.mark.parametrize("peer", ["scipy", "lapjvr", "lapjvh"])
def test_dense_peers_on_the_stored_cost(benchmark, workload, peer):
    _, x, y, _ = workload
    if len(x) > 4096:
        pytest.skip("minutes a run at this size")
    costs = np.stack([((row - y) ** 2).sum(axis=1) for row in x])
    stored = costs if peer == "scipy" else costs.astype(np.float32)
    solve = {"scipy": linear_sum_assignment, "lapjvr": lap.lapjvr, "lapjvh": lap.lapjvh}[peer]
    answer = timed(benchmark, workload, f"{peer} on the stored cost", lambda: solve(stored))
    columns = np.asarray(answer[-1])
    ours = sm.assign(x, y)
    assert math.isclose(costs[np.arange(len(x)), columns].sum(), ours.cost, rel_tol=1e-6)
