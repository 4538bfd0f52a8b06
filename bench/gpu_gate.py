"""The correctness gate of `bench/gpu.py`: every kernel against its specification, before anything is timed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saematch import kernels
from saematch.cost.upload import upload
from saematch.kernels.candidates.reference import candidates as candidates_reference
from saematch.kernels.exact_products.reference import exact_products as exact_products_reference
from saematch.kernels.int8_products.reference import int8_products as int8_products_reference


def gate(device: torch.device) -> None:
    """Check every kernel on `device`; raises `AssertionError` where one is wrong."""
    # The only premise of the bounds for int8: whole numbers are multiplied and added without rounding.
    for sizes in ((300, 200, 64), (129, 257, 4_672), (17, 16, 131_072)):
        for extreme in (False, True):
            _check_int8(*sizes, extreme, device)
    r = np.random.default_rng(0)
    x, y = (torch.from_numpy(r.standard_normal((n, 1000))).float().to(device) for n in (200, 300))
    _check_float32(x, y)
    _check_exact_products(x, y)
    _check_upload(device)


def _check_int8(A: int, B: int, K: int, extreme: bool, device: torch.device) -> None:
    """Check products and lists bit for bit, of random whole numbers or of the largest ones."""
    r = np.random.default_rng([A, B, K])
    left, right = (torch.from_numpy(r.integers(-127, 128, (n, K), dtype=np.int8)).to(device) for n in (A, B))
    if extreme:
        left.fill_(127)
        right[::2], right[1::2] = 127, -127
    s, t = (torch.from_numpy(r.random(n, dtype=np.float32) / 3).to(device) for n in (A, B))
    M = int8_products_reference(left, right, s, t)
    products = kernels.Int8Products(left, right, s, t)
    assert torch.equal(products.block(), M), (A, B, K, extreme)
    _check_candidates(products, M)


def _check_candidates(products: kernels.Products, M: torch.Tensor) -> None:
    """Check lists against a sort of the products, which the kernel itself has made."""
    A, B = M.shape
    r = np.random.default_rng([A, B])
    u, v, limit = (torch.from_numpy(r.standard_normal(n).astype(np.float32)).to(M.device) for n in (A, B, B))
    for k in (5, 256):
        lists, expected = kernels.candidates(products, u, v, k, limit), candidates_reference(M, u, v, k, limit)
        _equal([*lists[0], *lists[1]], [*expected[0], *expected[1]])


def _check_float32(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check products against their error bound, and print how much of it is used; check lists of them."""
    products = kernels.Float32Products(x, y)
    M, truth = products.block(), x.double() @ y.double().T
    error = ((M - truth).abs() / (x.double().norm(dim=1)[:, None] * y.double().norm(dim=1))).max()
    terms = (x.shape[1] + 8) * 2.0**-24
    assert error <= terms / (1 - terms)
    print(f"  float32: largest error {float(error):.1e} of |x||y|, bound {terms / (1 - terms):.1e}")
    _check_candidates(products, M)


def _check_exact_products(x: torch.Tensor, y: torch.Tensor) -> None:
    """Check listed products of float32 and float64 rows against their error bound, for both sums."""
    pairs, width = torch.arange(len(x), device=x.device), x.shape[1]
    for left, right in ((x, y), (x.double(), y.double()), (x, y.double())):
        a, b = left[0].double() / 3, right[1].double() / 7
        found = kernels.exact_products(left, right, pairs, pairs, a, b)
        expected = exact_products_reference(left, right, pairs, pairs, a, b)
        size = (left.double() - a).norm(dim=1) * (right[: len(x)].double() - b).norm(dim=1)
        assert ((found - expected).abs() <= 2 * (width + 2) * 2.0**-53 * size).all()


def _check_upload(device: torch.device) -> None:
    """Check weights that go to the device through buffers, each of which is used many times."""
    r = np.random.default_rng(0)
    for entries in (2**23 + 1, 2**26 - 1):
        values = r.standard_normal(entries, dtype=np.float32)
        np.testing.assert_array_equal(upload(values, device).cpu().numpy(), values)


def _equal(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.double(), other.double())
