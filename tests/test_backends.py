"""The solver with Triton's kernels, in the interpreter: answers are equal, and the choice of backend is reported."""

import numpy as np
import pytest
import torch

import saematch as sm
from problems import R, nasty, noisy_copy
from saematch import kernels
from saematch.assignment import BASELINES
from saematch.cost import DistanceCost
from saematch.matching import backend
from saematch.matching.backend import choose_backend
from saematch.matching.problem import RowProblem
from saematch.numeric.rows import Rows
from saematch.options import Method, names

pytestmark = pytest.mark.through_passes


def both(x, y, **options):
    found, expected = sm.assign(x, y, backend="triton", **options), sm.assign(x, y, backend="torch", **options)
    assert found.stats["backend"] == "triton, interpreted"
    assert expected.stats["backend"] == "torch"
    return found, expected


@pytest.mark.parametrize("kind", nasty())
def test_the_same_answer_with_the_same_proof(kind):
    x, y = nasty(36)[kind]
    found, expected = both(x, y)
    assert found.certified
    assert found.cost == pytest.approx(expected.cost, rel=1e-12, abs=1e-300)
    certain = ~(found.margins().tied | expected.margins().tied)
    assert (found.perm == expected.perm)[certain].all()


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_every_precision_finds_the_planted_optimum_or_says_why_it_cannot_run(name, monkeypatch):
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 80 * 32)
    x, y, planted = noisy_copy(80, 20, 0.3)
    possible = {"float32", choose_backend(name, "cpu").precision}  # the latter is "auto"
    for precision in possible:
        found = sm.assign(x, y, backend=name, device="cpu", precision=precision)
        np.testing.assert_array_equal(found.perm, planted)
        assert found.certified
    if "int8" not in possible:
        with pytest.raises(sm.MatchError, match=r'precision "int8" cannot run: .*; choose "float32" or "auto"'):
            sm.assign(x, y, backend=name, device="cpu", precision="int8")


def test_integers_are_chosen_where_they_are_fast_and_only_there(monkeypatch):
    obstacles = []
    monkeypatch.setattr(backend, "_why_not_int8", lambda *_: next(iter(obstacles), None))
    assert choose_backend("torch", "cpu").precision == "int8"
    assert choose_backend("torch", "cpu", "int8").precision == "int8"
    assert choose_backend("torch", "cpu", "float32").precision == "float32"
    obstacles.append("this processor is old")
    assert choose_backend("torch", "cpu").precision == "float32"
    assert choose_backend("torch", "cpu").reason == "asked for; float32 instead of int8, because this processor is old"
    assert choose_backend("torch", "cpu", "float32").reason == "asked for"
    with pytest.raises(sm.MatchError, match='precision "int8" cannot run: this processor is old; choose "float32"'):
        choose_backend("torch", "cpu", "int8")


def test_the_kernels_list_the_pairs_that_torch_lists(monkeypatch):
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 90 * 33)
    x, y = R(0).standard_normal((2, 90, 10))
    scans = [
        cost.scan(np.arange(90), *cost.by_cost()[:1], np.zeros(90), cost.by_cost()[1], 5, np.inf)
        for cost in (
            RowProblem.checked(x, y, None).cost(choose_backend(name, "cpu", "float32")) for name in ("triton", "torch")
        )
    ]
    for name in ("row_partners", "column_partners"):
        np.testing.assert_array_equal(*(getattr(scan, name) for scan in scans))


@pytest.mark.parametrize("options", [{"max_cost": 12.0}, {"method": "greedy"}, {"method": "mutual_nearest"}])
def test_partial_problems_and_baselines(options):
    x, y = R(1).standard_normal((50, 8)), R(2).standard_normal((64, 8))
    found, expected = both(x, y, **options)
    np.testing.assert_array_equal(found.perm, expected.perm)
    assert found.status == expected.status


@pytest.mark.parametrize(("name", "precision"), [("torch", "auto"), ("torch", "float32"), ("triton", "auto")])
def test_floors_hold_for_rows_that_are_built_to_be_bad(name, precision):
    """If large products nearly cancel in the reduced cost, the bounds that a list proves must hold for every pair."""
    r = R(3)
    x = 1 + 2.0 ** -r.integers(1, 24, (40, 30)) * r.choice([-1, 1], (40, 30))
    y = 1 + 2.0 ** -r.integers(1, 24, (50, 30)) * r.choice([-1, 1], (50, 30))
    x[3] *= 1e3
    cost = RowProblem.checked(x, y, None).cost(choose_backend(name, "cpu", precision))
    M = cost.block(np.arange(40), np.arange(50))
    prices = M.min(axis=0) + r.standard_normal(50) * 1e-6
    scan = cost.scan(np.arange(40), prices, np.zeros(50), np.zeros(40), 3, np.inf)
    reduced = M - prices
    for i in range(40):
        rest = np.delete(reduced[i], scan.row_partners[i])
        assert scan.floors[i, -1] <= rest.min()
    assert (scan.column_floors[:, 0] <= (M - prices).min(axis=0)).all()


def test_a_device_without_room_for_a_block_of_products_is_given_smaller_ones(monkeypatch):
    def full(*given, **options):
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
    for operation in ("candidates", "exact_products", "Int8Products"):
        with monkeypatch.context() as patched:
            patched.setattr(kernels, operation, full)
            with pytest.raises(sm.MatchError, match="not enough memory on cpu: rows take"):
                sm.assign(x, y, backend="triton")
    monkeypatch.setattr(kernels, "candidates", full)
    with pytest.raises(sm.MatchError, match="not enough memory on cpu: rows take"):
        sm.assign(x, y, backend="triton")


def test_a_backend_that_cannot_run_is_named_and_nothing_stands_in_for_it(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    x = np.eye(3)
    with pytest.raises(sm.MatchError, match=r'backend "triton" cannot run: Triton.s kernels need a CUDA GPU'):
        sm.assign(x, x, backend="triton")
    with pytest.raises(sm.MatchError, match="backend is 'cuda'; choose one of auto, torch, triton"):
        sm.assign(x, x, backend="cuda")
    assert choose_backend().name == "torch"
    assert "Triton's kernels need a CUDA GPU" in choose_backend().reason
    monkeypatch.setattr("saematch.matching.backend._has_triton", lambda: False)
    with pytest.raises(sm.MatchError, match="triton is not installed"):
        sm.assign(x, x, backend="triton")


@pytest.mark.through_passes(False)
def test_where_no_pass_chose_the_run_says_so():
    x = np.random.default_rng(0).standard_normal((60, 4))
    assert sm.assign(x, x[::-1].copy(), backend="triton").stats["precision"] == "float64"


def test_a_device_without_room_is_an_error_with_numbers(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more")

    monkeypatch.setattr("saematch.cost.products.float32_product", full)
    with pytest.raises(sm.MatchError, match=r"not enough memory on .* for 40 x 40 features: CUDA out of memory"):
        sm.assign(np.eye(40), np.eye(40), precision="float32")


def test_unknown_precisions_and_costs_of_your_own_are_refused():
    for old in ("fp8", "ieee", "tf32x3"):
        with pytest.raises(sm.MatchError, match=f"precision is '{old}'; choose one of auto, int8, float32"):
            sm.assign(np.eye(3), np.eye(3), precision=old)
    with pytest.raises(sm.MatchError, match='backend "triton" is for rows'):
        sm.assign(cost=np.eye(3), backend="triton")


def test_options_name_every_method():
    assert names(Method) == ("optimal", *BASELINES)


def test_pairs_in_work_share_the_weights_of_a_layer_on_a_device():
    x, y = (Rows.of(rows) for rows in np.random.default_rng(0).standard_normal((2, 30, 20)).astype(np.float32))
    made = [DistanceCost(a, b, torch.device("cpu"), backend="triton") for a, b in ((x, y), (y.times(2.0), x))]
    first, second = (cost.passes._rows for cost in made)
    assert first[1].values is second[0].values
    assert first[0].values is second[1].values
    del made, first, second
    assert not x.copies, "nothing keeps the memory of the device"
