"""The solver with Triton's kernels, in the interpreter: answers are equal, and the choice of backend is reported."""

import numpy as np
import pytest
import torch

import saematch as sm
from problems import R, nasty, noisy_copy
from saematch import kernels
from saematch.assignment import BASELINES
from saematch.cost import DistanceCost
from saematch.kernels import PRECISIONS
from saematch.matching.backend import choose_backend
from saematch.options import Method, PrecisionName, names

pytestmark = pytest.mark.through_passes

CPU = torch.device("cpu")


def both(x, y, **options):
    found, expected = sm.assign(x, y, backend="triton", **options), sm.assign(x, y, backend="torch", **options)
    assert found.stats["backend"] == "triton, interpreted"
    assert expected.stats["backend"] == "torch"
    return found, expected


@pytest.mark.parametrize("kind", nasty())
def test_the_same_answer_with_the_same_proof(kind):
    x, y = nasty()[kind]
    found, expected = both(x, y)
    assert found.certified
    assert found.cost == pytest.approx(expected.cost, rel=1e-12, abs=1e-300)
    certain = ~(found.margins().tied | expected.margins().tied)
    assert (found.perm == expected.perm)[certain].all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_finds_the_planted_optimum_and_says_what_it_rests_on(precision, monkeypatch):
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 150 * 64)
    x, y, planted = noisy_copy(150, 20, 0.3)
    found = sm.assign(x, y, backend="triton", precision=precision)
    np.testing.assert_array_equal(found.perm, planted)
    assert found.certified
    assert ("model" in found.stats["precision"]) == (precision != "ieee")
    assert found.stats["precision"].startswith(precision)


def test_the_kernels_list_the_pairs_that_torch_lists(monkeypatch):
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 90 * 33)
    x, y = R(0).standard_normal((2, 90, 10))
    scans = [
        cost.scan(np.arange(90), *cost.by_cost()[:1], np.zeros(90), cost.by_cost()[1], 5, np.inf)
        for cost in (DistanceCost(x, y, CPU, precision="ieee"), DistanceCost(x, y, CPU))
    ]
    for name in ("row_partners", "column_partners"):
        np.testing.assert_array_equal(*(getattr(scan, name) for scan in scans))


@pytest.mark.parametrize("options", [{"max_cost": 12.0}, {"method": "greedy"}, {"method": "mutual_nearest"}])
def test_partial_problems_and_baselines(options):
    x, y = R(1).standard_normal((50, 8)), R(2).standard_normal((64, 8))
    found, expected = both(x, y, **options)
    np.testing.assert_array_equal(found.perm, expected.perm)
    assert found.status == expected.status


@pytest.mark.parametrize("precision", PRECISIONS)
def test_floors_hold_for_rows_that_are_built_to_be_bad(precision):
    """If large products nearly cancel in the reduced cost, the bounds that a list proves must hold for every pair."""
    r = R(3)
    x = 1 + 2.0 ** -r.integers(1, 24, (40, 30)) * r.choice([-1, 1], (40, 30))
    y = 1 + 2.0 ** -r.integers(1, 24, (50, 30)) * r.choice([-1, 1], (50, 30))
    x[3] *= 1e3
    cost = DistanceCost(x, y, CPU, precision=precision)
    M = cost.block(np.arange(40), np.arange(50))
    prices = M.min(axis=0) + r.standard_normal(50) * 1e-6
    scan = cost.scan(np.arange(40), prices, np.zeros(50), np.zeros(40), 3, np.inf)
    reduced = M - prices
    for i in range(40):
        rest = np.delete(reduced[i], scan.row_partners[i])
        assert scan.floors[i, -1] <= rest.min()
    assert (scan.column_floors[:, 0] <= (M - prices).min(axis=0)).all()


def test_a_device_without_room_for_a_block_of_products_is_given_smaller_ones(monkeypatch):
    def full(*given):
        raise torch.OutOfMemoryError

    x, y, planted = noisy_copy(40, 6, 0.1)
    candidates, attempts = kernels.candidates, []

    def crowded(costs, *given):
        attempts.append(given[-1])
        return full() if len(attempts) < 2 else candidates(costs, *given)

    monkeypatch.setattr(kernels, "candidates", crowded)
    found = sm.assign(x, y, backend="triton")
    assert attempts[0] == 2**30
    assert set(attempts[1:]) == {2**27}
    np.testing.assert_array_equal(found.perm, planted)
    for operation in ("candidates", "exact_products", "split"):
        with monkeypatch.context() as patched:
            patched.setattr(kernels, operation, full)
            with pytest.raises(sm.MatchError, match="not enough memory on cpu: rows and their parts in ieee take"):
                sm.assign(x, y, backend="triton")
    monkeypatch.setattr(kernels, "candidates", full)
    with pytest.raises(sm.MatchError, match="not enough memory on cpu: rows and their parts in ieee take"):
        sm.assign(x, y, backend="triton")


def test_a_backend_that_cannot_run_is_named_and_nothing_stands_in_for_it(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    x = np.eye(3)
    with pytest.raises(sm.MatchError, match=r'backend "triton" cannot run: Triton.s kernels need a CUDA GPU'):
        sm.assign(x, x, backend="triton")
    with pytest.raises(sm.MatchError, match="precision 'tf32x3' needs Triton's kernels"):
        sm.assign(x, x, precision="tf32x3")
    with pytest.raises(sm.MatchError, match="backend is 'cuda'; choose one of auto, torch, triton"):
        sm.assign(x, x, backend="cuda")
    assert choose_backend().name == "torch"
    assert "Triton's kernels need a CUDA GPU" in choose_backend().reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(sm.MatchError, match="triton is not installed"):
        sm.assign(x, x, backend="triton")


@pytest.mark.through_passes(False)
def test_where_no_pass_chose_the_run_says_so():
    x = np.random.default_rng(0).standard_normal((60, 4))
    assert sm.assign(x, x[::-1].copy(), backend="triton", precision="bf16").stats["precision"] == "float64"


def test_a_device_without_room_is_an_error_with_numbers(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")

    monkeypatch.setattr("saematch.cost.products.float32_product", full)
    with pytest.raises(sm.MatchError, match=r"not enough memory on .* for 40 x 40 features: CUDA out of memory"):
        sm.assign(np.eye(40), np.eye(40))


def test_unknown_precisions_and_costs_of_your_own_are_refused():
    with pytest.raises(sm.MatchError, match="precision 'fp8' is not known; choose one of ieee, tf32x3"):
        sm.assign(np.eye(3), np.eye(3), backend="triton", precision="fp8")
    with pytest.raises(sm.MatchError, match='backend "triton" is for rows'):
        sm.assign(cost=np.eye(3), backend="triton")


def test_options_name_every_precision_and_every_method():
    assert names(PrecisionName) == tuple(PRECISIONS)
    assert names(Method) == ("optimal", *BASELINES)
