"""One pair of layers, solved and proved, compared with the bare product of its rows and with other exact solvers.

`make bench` runs this file. A row is only written if the answer is certified and, for another exact solver, if both
answers cost the same. The other solvers are given the stored cost matrix and are not charged for it, so they are
compared with everything but the product of the rows.
"""

from __future__ import annotations

import math
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
from saematch.cost import DistanceCost
from saematch.sae.features import feature_rows

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "smollm2-135m-res"
CPU = torch.device("cpu")
FORMS = {"matrix-free": 2**23, "stored": 2**33}


def real_pair():
    if not REAL.is_dir():
        pytest.skip(f"the real SAEs are not at {REAL}")
    layers = sm.load_layers(REAL)
    a, b = next(iter(pairwise(layers)))
    return feature_rows(layers[a]), feature_rows(layers[b])


def hard_pair():
    return layer_pair(16_384, 576, survive=0.1, noise=1.0)


WORKLOADS = {"real SAEs": (real_pair, 15), "hard synthetic": (hard_pair, 3)}  # the rows of both sides, and the runs


@pytest.fixture(scope="module", params=WORKLOADS)
def workload(request):
    make, runs = WORKLOADS[request.param]
    x, y = make()
    sm.assign(x[:256], y[:256])  # compile the loops
    return request.param, x, y, runs


def bare_product(x, y, memory):
    """Compute the float32 products of all pairs in the tiles of a pass, stored or not."""
    cost = DistanceCost(x, y, CPU, memory=memory)
    return sum(1 for _ in cost.passes._tiles(np.arange(cost.shape[0])))


@pytest.mark.parametrize("form", FORMS)
def test_bare_product(benchmark, workload, form):
    name, x, y, runs = workload
    timed(benchmark, name, f"bare product, {form}", x, y, lambda: bare_product(x, y, FORMS[form]), runs)


@pytest.mark.parametrize("form", FORMS)
def test_saematch(benchmark, workload, form):
    name, x, y, runs = workload
    assert timed(
        benchmark, name, f"saematch, {form}", x, y, lambda: sm.assign(x, y, memory=FORMS[form]), runs
    ).certified


@pytest.mark.parametrize("peer", ["scipy", "lapjvr", "lapjvh"])
def test_dense_peers_on_the_stored_cost(benchmark, workload, peer):
    name, x, y, runs = workload
    if len(x) > 4096:
        pytest.skip("takes minutes per run at this size")
    costs = np.stack([((row - y) ** 2).sum(axis=1) for row in x])
    stored = costs if peer == "scipy" else costs.astype(np.float32)
    solve = {"scipy": linear_sum_assignment, "lapjvr": lap.lapjvr, "lapjvh": lap.lapjvh}[peer]
    answer = timed(benchmark, name, f"{peer} on the stored cost", x, y, lambda: solve(stored), runs)
    columns = np.asarray(answer[-1])
    ours = sm.assign(x, y)
    assert math.isclose(costs[np.arange(len(x)), columns].sum(), ours.cost, rel_tol=1e-6)


@pytest.mark.parametrize("features", [32, 128, 512])
@pytest.mark.parametrize("peer", ["saematch", "lapjvr"])
def test_small_problems(benchmark, features, peer):
    """Measure sizes at which a dense solver is quick: from rows to a matching, for saematch with its proof."""
    x, y = (rows[:features].copy() for rows in real_pair())
    sm.assign(x, y)

    def dense():
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        return lap.lapjvr(torch.cdist(a, b).square().numpy())

    timed(benchmark, f"real SAEs, {features}", peer, x, y, dense if peer == "lapjvr" else lambda: sm.assign(x, y), 15)
