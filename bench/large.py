"""65,536 and 131,072 features, the sparse problem alone, and SAEs of the full width of Gemma-2-2B.

`make bench-large` runs this file, which takes many minutes. A row is only written if the matching is certified.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from assignment import float32_product
from record import append, timed
from synthetic import layer_pair

import saematch as sm
from saematch.assignment.graph import CandidateGraph
from saematch.cost import DistanceCost
from saematch.cost.products import int8_obstacle

CPU = torch.device("cpu")
NAME = "thin synthetic"


@pytest.fixture(scope="module", params=[65_536, 131_072])
def rows(request):
    x, y = layer_pair(request.param, 48, survive=0.1, noise=1.0)
    sm.assign(x[:256], y[:256])  # compile the loops
    return x, y


def one_pass(x, y, k):
    """Compute all products once, and list the k cheapest pairs of each row and column."""
    cost = DistanceCost(x, y, CPU)
    prices, potentials = cost.by_cost()
    return cost, cost.scan(np.arange(len(x)), prices, np.zeros(len(y)), potentials, k, np.inf)


def test_float32_product(benchmark, rows):
    timed(benchmark, NAME, "float32 product", *rows, lambda: float32_product(*rows))


def test_float32_pass(benchmark, rows):
    timed(benchmark, NAME, "float32 pass, row and column minimum", *rows, lambda: one_pass(*rows, 1))


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_saematch(benchmark, rows, precision):
    if precision == "int8" and int8_obstacle():
        pytest.skip(str(int8_obstacle()))
    x, y = rows
    answer = timed(benchmark, NAME, f"saematch, {precision}", x, y, lambda: sm.assign(x, y, precision=precision))
    assert answer.certified


@pytest.fixture(scope="module")
def candidates(rows):
    """Return the candidate graph of the 11 cheapest pairs of each row and column: about 21 edges per row."""
    cost, scan = one_pass(*rows, 11)
    graph = CandidateGraph(cost, cost.unmatched(np.inf, np.inf), cost.some_matching())
    graph.add(*scan.pairs())
    return graph


def test_sparse_problem_alone(benchmark, rows, candidates):
    """Measure the exact optimum and its prices on the candidate graph, on one core."""
    graph, features = candidates, len(rows[0])
    prices = np.zeros(features)
    graph.optimum(prices, np.inf)
    benchmark.pedantic(graph.optimum, (prices, np.inf), rounds=3)
    size = {"F_A": features, "F_B": features, "K": rows[0].shape[1], "edges": len(graph)}
    append(f"{NAME}: sparse problem, saematch", size, list(benchmark.stats.stats.data))


def test_gemma_2_2b_with_131k_features(benchmark, tmp_path):
    """Measure the widest common SAEs, K = 4,608, whose cost matrix alone would take 69 GB in float32."""
    script = (
        "import sys, numpy as np; from synthetic import layer_pair\n"
        "for name, rows in zip('xy', layer_pair(131_072, 2_304, survive=0.1, noise=1.0)): "
        "np.save(f'{sys.argv[1]}/{name}.npy', rows)"
    )
    # Another process makes the rows, so that this does not count.
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=Path(__file__).parent)
    x, y = (np.load(tmp_path / f"{name}.npy") for name in "xy")
    sm.assign(x[:256], y[:256])
    answer = timed(benchmark, "hard synthetic", "saematch", x, y, lambda: sm.assign(x, y, progress=print))
    assert answer.certified
