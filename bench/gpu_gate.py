"""The correctness gate of `bench/gpu.py`: every kernel, in every precision, against its specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saematch import kernels
from saematch.kernels import PRECISIONS
from saematch.kernels.candidates.reference import candidates as candidates_reference
from saematch.kernels.exact_products.reference import exact_products as exact_products_reference
from saematch.kernels.pairs_below.launch import pairs_below
from saematch.kernels.pairs_below.reference import pairs_below as pairs_below_reference
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tile_minima.reference import tile_minima as tile_minima_reference
from saematch.kernels.tiles import STORED, STORED_LISTING


def gate(device: torch.device) -> None:
    """Check every pass on `device`; raises `AssertionError` where one is wrong."""
    for sizes in ((1, 1, 1), (129, 257, 33), (300, 65, 100)):
        _check_whole_numbers(*sizes, device)
    r = np.random.default_rng(0)
    x, y = (torch.from_numpy(r.standard_normal((n, 1000))).float().to(device) for n in (200, 300))
    _check_product_errors(x, y)
    _check_candidates(x, y)
    _check_exact_products(x, y)


def _check_whole_numbers(A: int, B: int, K: int, device: torch.device) -> None:
    """Check all passes bit for bit: small whole numbers are exact in every precision."""
    r = np.random.default_rng([A, B, K])
    x, y = (torch.from_numpy(r.integers(-2, 3, (n, K))).float().to(device) for n in (A, B))
    u, v = (torch.from_numpy(r.integers(-4, 5, n)).float().to(device) for n in (A, B))
    limits = torch.full((A,), -20.0, device=device), torch.full((B,), -20.0, device=device)
    M, every = x @ y.T, torch.arange(A, device=device)

    for precision in PRECISIONS:
        for costs in (kernels.products(x, y, precision), kernels.stored(M)):
            _equal([kernels.pairwise_cost(costs)], [M])
            lists = kernels.candidates(costs, u, v, 5, limits[1])
            expected = candidates_reference(M, every, u, v, 5, limits[1])
            _equal([*lists[0], *lists[1]], [*expected[0], *expected[1]])

    minima = tile_minima(M, every.int(), u, v, STORED)
    expected_minima = tile_minima_reference(M, every, u, v, STORED.BLOCK_M, STORED.BLOCK_N)
    _equal([*minima[0], *minima[1]], [*expected_minima[0], *expected_minima[1]])
    pairs = pairs_below(M, every.int(), u, v, *limits, capacity=1, most=2**28, tile=STORED_LISTING)
    _equal(pairs, pairs_below_reference(M, every, u, v, *limits))


def _check_product_errors(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check the error bound of every precision, and print how much of it is used."""
    truth, norms = x.double() @ y.double().T, x.double().norm(dim=1)[:, None] * y.double().norm(dim=1)
    for precision, chosen in PRECISIONS.items():
        error = ((kernels.pairwise_cost(kernels.products(x, y, precision)) - truth).abs() / norms).max()
        bound = chosen.error(x.shape[1])
        assert error <= bound, precision
        print(f"  {precision:8s} largest error {float(error):.1e} of |x||y|, bound {bound:.1e}")


def _check_candidates(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check lists of products that are not whole numbers, against the matrix that the kernel itself makes."""
    u, v = torch.zeros(len(x), device=x.device), torch.zeros(len(y), device=x.device)
    matrix = kernels.pairwise_cost(kernels.products(x, y))
    lists = kernels.candidates(kernels.products(x, y), u, v, 16)
    every = torch.arange(len(x), device=x.device)
    expected = candidates_reference(matrix, every, u, v, 16, torch.full_like(v, torch.inf))
    _equal([*lists[0], *lists[1]], [*expected[0], *expected[1]])


def _check_exact_products(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check listed products of float32 and float64 rows against their error bound, for both sums."""
    pairs, width = torch.arange(len(x), device=x.device), x.shape[1]
    for left, right in ((x, y), (x.double(), y.double()), (x, y.double())):
        a, b = left[0].double() / 3, right[1].double() / 7
        found = kernels.exact_products(left, right, pairs, pairs, a, b)
        expected = exact_products_reference(left, right, pairs, pairs, a, b)
        size = (left.double() - a).norm(dim=1) * (right[: len(x)].double() - b).norm(dim=1)
        assert ((found - expected).abs() <= 2 * (width + 2) * 2.0**-53 * size).all()


def _equal(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.double(), other.double())
