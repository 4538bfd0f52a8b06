"""65,536 and 131,072 features, without storing the matrix, and the sparse problem alone.

`make bench-large` runs this file, which takes many minutes. A row is only written if the matching is certified.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from record import append, timed
from synthetic import layer_pair

import saematch as sm
from saematch.assignment.graph import CandidateGraph
from saematch.cost import DistanceCost

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


def test_bare_pass(benchmark, rows):
    timed(benchmark, NAME, "bare pass, row and column minimum", *rows, lambda: one_pass(*rows, 1))


def test_matrix_free(benchmark, rows):
    x, y = rows
    answer = timed(benchmark, NAME, "saematch, matrix-free", x, y, lambda: sm.assign(x, y))
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
