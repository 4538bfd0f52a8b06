import json
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import saematch as sm
from contracts import dual_bound
from problems import nasty
from saematch.matching.basis import describe_basis
from saematch.matching.files import read_permutation
from saematch.matching.permutation import check_permutation
from saematch.matching.scalars import scalars
from saes import made_up

pytestmark = pytest.mark.through_passes

X, Y = nasty()["random"]


@pytest.fixture(scope="module")
def matching():
    return sm.assign(X, Y)


def partial(perm, targets):
    """Return a matching with unmatched features, in which a pair costs the number of its source feature."""
    perm = torch.tensor(perm)
    cost = torch.where(perm >= 0, torch.arange(len(perm), dtype=torch.float64), 0.0)
    return sm.Matching(perm, cost, target_features=targets)


def test_attributes_have_the_types_they_promise(matching):
    assert (matching.perm.dtype, matching.perm.device.type, matching.perm.shape) == (torch.int64, "cpu", (60,))
    assert (matching.pair_cost.dtype, matching.prices.dtype) == (torch.float64, torch.float64)
    for name in ("cost", "objective", "lower_bound", "gap", "rounding_error", "gain", "random_cost"):
        assert isinstance(getattr(matching, name), float), name
    assert isinstance(matching.certified, bool)
    assert repr(matching).startswith("Matching(60 -> 60 features, cost=")


def test_saved_and_loaded_it_is_the_same(matching, tmp_path):
    matching.save(tmp_path / "m.safetensors")
    loaded = sm.Matching.load(tmp_path / "m.safetensors")
    for name in ("perm", "pair_cost", "prices"):
        assert torch.equal(getattr(loaded, name), getattr(matching, name))
    assert scalars(loaded) == scalars(matching)
    assert loaded.options == matching.options


def test_the_verdict_on_constant_costs_survives_the_disk(tmp_path):
    matching = sm.assign(np.ones((150, 4)) / 3, np.random.default_rng(0).random((150, 4)))
    matching.save(tmp_path / "m.safetensors")
    assert matching.rounding_error > matching.gain == 0
    assert (matching.certified, sm.Matching.load(tmp_path / "m.safetensors").certified) == (True, True)


def test_equal_answers_are_equal_bytes_without_times_or_paths(tmp_path):
    sm.assign(X, Y).save(tmp_path / "a.safetensors")
    sm.assign(X, Y).save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:  # readable without this package
        assert set(file.keys()) == {"perm", "pair_cost", "prices"}
        record = json.loads(file.metadata()["saematch"])
    assert record["certified"] is True
    assert not {"seconds", "path", "date"} & set(record)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(matching, tmp_path, monkeypatch):
    target = tmp_path / "m.safetensors"
    matching.save(target)
    before = target.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(sm.MatchError, match=r"cannot be written \(No space left on device\)"):
        matching.save(target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_codes_are_scattered_not_gathered():
    perm = [2, 0, 1]
    codes = torch.tensor([[10.0, 20.0, 30.0]])
    moved = partial(perm, 3).carry(codes)
    assert moved.tolist() == [[20.0, 30.0, 10.0]]
    assert moved.tolist() != codes[:, perm].tolist()


def test_features_without_a_counterpart_do_not_become_the_last_one():
    moved = partial([1, -1, 0], 4).carry(torch.tensor([1.0, 2.0, 3.0]))
    assert moved.tolist() == [3.0, 1.0, 0.0, 0.0]


def test_inverse_of_partial_and_certified(matching):
    back = partial([1, -1, 0], 4).inverse()
    assert back.perm.tolist() == [2, 0, -1, -1]
    assert back.pair_cost.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert not back.certified
    inverse = matching.inverse()
    assert inverse.certified
    assert inverse.cost == pytest.approx(matching.cost, rel=1e-14)
    np.testing.assert_array_equal(inverse.perm[matching.perm], np.arange(60))
    costs = ((Y[:, None] - X[None]) ** 2).sum(-1)
    prices = inverse.prices.numpy()
    assert (costs - prices).min(axis=1).sum() + prices.sum() == pytest.approx(matching.cost, rel=1e-12)


@pytest.mark.parametrize("max_cost", [None, 0.3, 1.0, 50.0, 1e12])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (40, 40), (3, 0)])
def test_prices_and_those_of_the_inverse_prove_the_optimum(shape, max_cost, tmp_path):
    costs = np.random.default_rng(0).random(shape)
    matching = sm.assign(cost=costs, max_cost=max_cost)
    assert matching.certified
    matching.save(tmp_path / "m.safetensors")
    for found, of in (
        (matching, costs),
        (matching.inverse(), costs.T),
        (matching.inverse().inverse(), costs),
        (sm.Matching.load(tmp_path / "m.safetensors").inverse(), costs.T),
    ):
        rest = abs(of.shape[0] - of.shape[1]) * (max_cost or 0) / 2 if 0.0 in found.unmatched_cost else 0.0
        proved = dual_bound(of, found.prices.numpy(), *found.unmatched_cost)
        assert proved + rest == pytest.approx(found.objective, rel=1e-12)
        assert found.objective == pytest.approx(matching.objective, rel=1e-14)
        assert found.random_cost == matching.random_cost


@pytest.mark.parametrize("method", ["optimal", "mutual_nearest", "nearest"])
@pytest.mark.parametrize("max_cost", [None, 0.01, 1e3])
def test_random_cost_is_that_of_as_many_pairs(method, max_cost):
    costs = np.random.default_rng(0).random((50, 40))
    found = sm.assign(cost=costs, method=method, max_cost=max_cost)
    assert found.random_cost == pytest.approx(costs.mean() * int((found.perm >= 0).sum()), rel=1e-12)
    rows = sm.assign(X[:50], Y[:40], method=method, max_cost=max_cost and 100 * max_cost)
    mean = ((X[:50, None] - Y[None, :40]) ** 2).sum(-1).mean()
    assert rows.random_cost == pytest.approx(mean * int((rows.perm >= 0).sum()), rel=1e-12)


def test_forbidden_pairs_are_no_random_pairs():
    costs = np.array([[1.0, np.inf, 2.0], [3.0, 4.0, np.inf]])
    assert sm.assign(cost=costs).random_cost == 5.0


def test_what_is_left_out_for_more_than_it_costs_is_suboptimal():
    costs = np.random.default_rng(0).random((30, 30))
    best = sm.assign(cost=costs, max_cost=2.0)
    perm = best.perm.clone()
    perm[3] = -1
    graded = sm.certify(cost=costs, perm=perm, max_cost=2.0)
    assert graded.status == "suboptimal"
    assert graded.gap == pytest.approx(2 - float(costs[3, best.perm[3]]), rel=1e-9)
    assert sm.assign(cost=costs, method="mutual_nearest", max_cost=2.0).status == "suboptimal"
    costs = np.ones((3, 3))
    costs[0, 0] = costs[2, 2] = 0.25
    same = sm.certify(cost=costs, perm=[0, -1, 2], max_cost=1.0)  # leaving out costs no more
    assert same.certified
    assert same.margins().bound.tolist() == pytest.approx([0.75, 0, 0.75], abs=1e-12)
    assert same.margins().tied.tolist() == [False, True, False]
    margins = sm.certify(cost=np.zeros((3, 3)), perm=[0, -1, 2], max_cost=0.0)
    assert (margins.certified, margins.margins().bound.tolist(), margins.margins().tied.all()) == (
        True,
        [0.0] * 3,
        True,
    )


def test_verdicts_on_negative_costs_survive(tmp_path):
    costs = -np.random.default_rng(0).random((20, 20))
    worse = sm.certify(cost=costs, perm=np.arange(20))
    worse.save(tmp_path / "m.safetensors")
    for again in (sm.Matching.load(tmp_path / "m.safetensors"), worse.inverse(), pickle.loads(pickle.dumps(worse))):
        assert (again.status, again.certified) == ("suboptimal", False)
        for name in ("gap", "rounding_error", "gain", "random_cost", "unmatched_cost"):
            assert getattr(again, name) == getattr(worse, name), name
        assert again.lower_bound == pytest.approx(worse.lower_bound, rel=1e-14)
    unproved = sm.Matching(worse.perm, worse.pair_cost, target_features=20)
    assert (unproved.lower_bound, unproved.gap) == (-np.inf, np.inf)
    assert np.isnan(unproved.random_cost)
    unproved.save(tmp_path / "u.safetensors")
    assert sm.Matching.load(tmp_path / "u.safetensors").gap == np.inf


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([0, 1], r"perm has shape \(2,\), expected one target per source feature, \(3,\)"),
        ([0.0, 1.0, 2.0], "perm holds float64, expected integers"),
        ([0, 1, 3], r"perm\[2\] is 3, outside -1 to 2: perm is not a permutation"),
        ([0, -2, 1], r"perm\[1\] is -2, outside"),
        ([0, 1, 0], r"perm\[2\] is 0, which is taken already: perm is not a permutation"),
    ],
)
def test_what_is_no_permutation_is_refused(perm, message):
    with pytest.raises(sm.MatchError, match=message):
        check_permutation(perm, 3, 3)


def test_permutations_are_complete_unless_features_may_be_left_out():
    with pytest.raises(
        sm.MatchError, match="perm matches 2 of 3 features; without max_cost, all of them must be matched"
    ):
        sm.certify(np.eye(3), np.eye(3), [0, -1, 2])


def test_permutations_of_others_are_read(matching, tmp_path):
    np.save(tmp_path / "p.npy", matching.perm.numpy().astype(np.int32))
    save_file({"perm": matching.perm}, tmp_path / "p.safetensors")
    for name in ("p.npy", "p.safetensors"):
        perm, options = read_permutation(tmp_path / name)
        assert options == {}
        assert sm.certify(X, Y, perm).certified
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    for name in ("missing.npy", "object.npy", "p.txt"):
        with pytest.raises(sm.MatchError, match="no permutation can be read"):
            read_permutation(tmp_path / name)


def test_damaged_matchings_are_refused(matching, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"perm": matching.perm}, path)
    with pytest.raises(sm.MatchError, match="not a matching that saematch wrote"):
        sm.Matching.load(path)
    record = {"schema": 1}
    save_file({"perm": matching.perm}, path, {"saematch": json.dumps(record)})
    with pytest.raises(sm.MatchError, match="schema 1, this version reads 2"):
        sm.Matching.load(path)
    matching.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(sm.MatchError, match="not a matching"):
        sm.Matching.load(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sm.assign(X, Y, max_cost=-1), "max_cost is -1; give a cost from 0"),
        (lambda: sm.assign(X, Y, max_cost=np.nan), "max_cost is nan"),
        (lambda: sm.assign(X * 1e-170, Y * 1e-170), "feature rows stay below .*; their squares vanish"),
        (lambda: sm.assign(torch.from_numpy(X) * 1j, Y), "the first matrix is a torch.complex128 tensor"),
        (lambda: sm.assign(X, Y, max_rounds=1.5), "max_rounds is 1.5; give a whole number"),
        (lambda: sm.match("a", "b"), "match takes two SAEs, got str; saematch.load reads one"),
        (
            lambda: sm.match_layers("sample"),
            "this takes a mapping of layer numbers, or of names, to SAEs; saematch.load_layers makes one",
        ),
        (lambda: sm.assign(X[:, :5], Y), "has K = 5 and the second matrix has K = 12: they do not live in one space"),
        (lambda: sm.assign(X[0], Y), r"the first matrix has shape \(12,\); expected \(features, K\)"),
        (lambda: sm.assign(X, Y.astype(str)), "the second matrix holds <U.*; expected numbers"),
        (lambda: sm.assign(np.where(X[4, 2] == X, np.nan, X), Y), "holds 1 values that are NaN .* row 4, column 2"),
        (lambda: sm.assign(X * 1e200, Y), "feature rows reach .* leave float64 above"),
        (lambda: sm.assign(X, Y, max_rounds=0), "max_rounds is 0; give a whole number, at least 1"),
        (lambda: sm.assign(X, Y, time_limit=0), "time_limit is 0; give seconds above 0"),
        (lambda: sm.assign(X, Y, device="mps"), "mps has no float64 to prove with"),
        (lambda: sm.assign(X, Y, device="abacus"), "device 'abacus' is not known to torch"),
        (lambda: sm.assign(X, Y, device="cuda:99"), "torch sees . GPUs"),
        (
            lambda: sm.certify(X, Y, np.arange(60), fold="none"),
            "parts, weights, fold, activations and map apply to SAEs",
        ),
    ],
)
def test_rows_and_options_that_make_no_sense_are_refused(call, message):
    with pytest.raises(sm.MatchError, match=message):
        call()


INT8 = {"precision": "int8", "exact_pairs": 1200, "largest_residual": 0.0123}


@pytest.mark.parametrize(
    ("searches", "words"),
    [
        ([INT8], "The lower bound rests on 1,200 costs .* on int8 products of rows rounded by at most 0.012 of their"),
        ([INT8, INT8 | {"precision": "float32", "largest_residual": 6e-8}], "2,400 costs .* float32 and int8 .* 0.012"),
        (
            [INT8, INT8 | {"precision": "float64", "largest_residual": 9.0}],
            "Lower bounds rest on 2,400 .* int8 .*0.012",
        ),
        ([INT8 | {"precision": "float32", "largest_residual": 0}], "1,200 .* costs rounded to float32"),
        ([INT8 | {"precision": "float64"}], "The lower bound rests on the costs of all pairs in float64"),
        ([INT8, {"precision": "ieee chooses, float64 proves", "costs": "stored"}], "^$"),
        ([INT8 | {"exact_pairs": "many"}], "^$"),
        ([{}], "^$"),
        ([], "^$"),
    ],
)
def test_the_basis_of_lower_bounds_is_said_if_it_is_recorded(searches, words):
    assert re.search(words, describe_basis(searches))


def test_exceptions_travel_between_processes():
    with pytest.raises(sm.NotCertified) as caught:
        sm.certify(X, Y, sm.assign(X, Y).perm.roll(1), strict=True)
    back = pickle.loads(pickle.dumps(caught.value))
    assert str(back) == str(caught.value)
    assert torch.equal(back.matching.perm, caught.value.matching.perm)


def test_inputs_are_left_untouched_and_may_be_of_any_kind():
    x, y = X.astype(np.float32), Y.astype(np.float32)
    before = x.copy()
    expected = sm.assign(x, y).perm
    for convert in (torch.from_numpy, np.asfortranarray, lambda rows: torch.from_numpy(rows).requires_grad_()):
        assert torch.equal(sm.assign(convert(x), convert(y)).perm, expected)
    integers = np.round(x * 1000).astype(np.int32)
    assert torch.equal(sm.assign(integers, integers).perm, torch.arange(60))
    half = torch.from_numpy(x).bfloat16()
    assert sm.assign(half, half).cost == 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, int, float])
def test_numbers_may_be_numpys(number, tmp_path):
    found = sm.assign(X, Y, max_cost=number(100), time_limit=number(1000))
    found.save(tmp_path / "m.safetensors")
    assert sm.Matching.load(tmp_path / "m.safetensors").options == {"max_cost": 100.0}
    layers = dict.fromkeys((0, 1), made_up())
    assert sm.match_layers(layers, tmp_path / "run", max_cost=number(100), max_rounds=np.int64(20)).complete


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_cost": 1.7e308},
        {"max_cost": 10**400},
        {"max_cost": -1},
        {"max_cost": np.nan},
        {"max_cost": "5"},
        {"max_cost": np.complex64(1)},
        {"time_limit": "5"},
        {"time_limit": 10**400},
        {"time_limit": 0},
        {"max_rounds": 1.5},
        {"max_rounds": True},
    ],
)
def test_what_is_no_number_for_it_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(sm.MatchError, match=f"{name} is .*; give "):
        sm.assign(X, Y, **wrong)
    with pytest.raises(sm.MatchError, match=f"{name} is .*; give "):
        sm.assign(cost=np.ones((3, 3)), **wrong)


def test_what_is_no_matrix_or_no_list_is_refused():
    with pytest.raises(sm.MatchError, match="the first matrix is not an array"):
        sm.assign([[1.0, 2.0], [1.0]], Y)
    with pytest.raises(sm.MatchError, match=r"cost is a torch\.float32 tensor"):
        sm.assign(cost=torch.ones(3, 3, device="meta"))
    with pytest.raises(sm.MatchError, match="perm is not an array"):
        sm.certify(X, Y, [[0], [1, 2]])
    with pytest.raises(sm.MatchError, match="expected the indices of features"):
        sm.assign(X, Y).margins().exact([[0], [1, 2]])
    with pytest.raises(sm.MatchError, match="the weight of bias is"):
        sm.match(made_up(), made_up(), weights={"bias": 10**400})
    small = torch.ones(4, 4).to(torch.float8_e4m3fn)
    assert sm.assign(small, small).certified


def test_a_file_with_absurd_numbers_is_refused(matching, tmp_path):
    matching.save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["saematch"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("gap", "random_cost"):
        save_file(tensors, tmp_path / "x.safetensors", {"saematch": json.dumps({**record, name: 10**400})})
        with pytest.raises(sm.MatchError, match="not a matching that saematch wrote"):
            sm.Matching.load(tmp_path / "x.safetensors")
