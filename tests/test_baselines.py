"""Baselines: the methods that users have without a solver, with the same interface and the same grade."""

import numpy as np
import pytest
import torch

import saematch as sm
from contracts import costs_of_all_pairs
from problems import nasty, noisy_copy
from saematch.matching.scalars import scalars
from saes import made_up

pytestmark = pytest.mark.through_passes


def greedy(costs):
    """Match the cheapest pair, remove it, and repeat; among equal pairs, take the lowest index."""
    costs, perm = costs.copy(), np.full(len(costs), -1)
    for _ in range(min(costs.shape)):
        i, j = np.unravel_index(costs.argmin(), costs.shape)
        if np.isinf(costs[i, j]):
            break
        perm[i] = j
        costs[i], costs[:, j] = np.inf, np.inf
    return perm


def mutual(costs):
    """Match the pairs in which each feature is the cheapest partner of the other."""
    there, back = costs.argmin(axis=1), costs.argmin(axis=0)
    return np.where(back[there] == np.arange(len(there)), there, -1)


NAMES = ["random", "duplicates", "outlier source", "a hub", "far from the origin", "shuffled copy", "one past a tile"]


@pytest.mark.parametrize("sizes", [(60, 60), (60, 35), (35, 60)])
@pytest.mark.parametrize("name", NAMES)
def test_baselines_are_what_their_names_say(name, sizes):
    x, y = (rows[:size] for rows, size in zip(nasty()[name], sizes, strict=True))
    costs = costs_of_all_pairs(x, y)
    optimum = sm.assign(x, y)
    for method, reference in (("greedy", greedy), ("mutual_nearest", mutual), ("nearest", lambda c: c.argmin(axis=1))):
        expected = reference(costs)
        found = sm.assign(x, y, method=method)
        matched = expected >= 0
        paid = costs[np.arange(len(x))[matched], expected[matched]]
        # Equal costs may be broken otherwise, in which case the same is paid.
        assert (found.perm >= 0).sum() == matched.sum()
        assert found.cost == pytest.approx(paid.sum(), rel=1e-12)
        assert found.lower_bound <= optimum.cost
        assert found.gap == pytest.approx(found.objective - optimum.objective, rel=1e-9, abs=1e-9 * optimum.gain)
        if name in ("random", "one past a tile"):
            np.testing.assert_array_equal(found.perm, expected)


def test_greedy_where_every_list_is_used_up():
    """All rows have the same cheapest columns, so every list is used up many times."""
    r = np.random.default_rng(0)
    x, y = 0.01 * r.standard_normal((300, 4)), r.standard_normal((300, 4))
    np.testing.assert_array_equal(sm.assign(x, y, method="greedy").perm, greedy(costs_of_all_pairs(x, y)))
    assert sm.assign(np.ones((70, 3)), np.ones((70, 3)), method="greedy").perm.tolist() == list(range(70))


def test_status_tells_what_an_answer_is():
    x, y, planted = noisy_copy(120, 10, 0.05)
    for method in ("greedy", "mutual_nearest", "nearest"):
        found = sm.assign(x, y, method=method)  # so easy that each is right, and then the proof says so
        np.testing.assert_array_equal(found.perm, planted)
        assert found.status == "optimal"
    x, y = nasty()["random"]
    assert sm.assign(x, y, method="greedy").status == "suboptimal"
    assert sm.assign(x, y, method="mutual_nearest").status == "incomplete"
    many = sm.assign(x, y, method="nearest")
    assert (many.status, many.certified) == ("many_to_one", False)
    assert many.gap < 0 < many.cost
    with pytest.raises(sm.MatchError, match="no inverse"):
        many.inverse()


def test_many_to_one_adds_codes_and_survives_the_disk(tmp_path):
    many = sm.assign(*nasty()["random"], method="nearest")
    codes = torch.rand(5, 60, dtype=torch.float64)
    carried = many.carry(codes)
    torch.testing.assert_close(carried.sum(dim=1), codes.sum(dim=1))
    many.save(tmp_path / "m.safetensors")
    loaded = sm.Matching.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.perm, many.perm)
    assert (loaded.status, loaded.gap) == (many.status, many.gap)


def test_no_baseline_makes_a_pair_dearer_than_max_cost():
    x, y = nasty()["random"]
    costs = costs_of_all_pairs(x, y)
    limit = float(np.quantile(costs, 0.02))
    best = sm.assign(x, y, max_cost=limit)
    for method in ("greedy", "mutual_nearest", "nearest"):
        found = sm.assign(x, y, max_cost=limit, method=method)
        assert (found.pair_cost <= limit).all()
        assert method == "nearest" or found.objective >= best.objective
        assert method == "nearest" or found.status == "suboptimal"
    np.testing.assert_array_equal(
        sm.assign(x, y, max_cost=limit, method="greedy").perm, greedy(np.where(costs <= limit, costs, np.inf))
    )


def test_baselines_of_a_matrix_with_forbidden_pairs():
    costs = np.random.default_rng(0).random((30, 30))
    costs[np.random.default_rng(1).random((30, 30)) < 0.3] = np.inf
    np.testing.assert_array_equal(sm.assign(cost=costs, method="nearest").perm, costs.argmin(axis=1))
    np.testing.assert_array_equal(sm.assign(cost=costs, method="greedy").perm, greedy(costs))


@pytest.mark.parametrize("method", ["greedy", "mutual_nearest", "nearest"])
def test_baselines_of_empty_sides_and_of_sides_far_apart(method):
    for shape in ((0, 4), (4, 0), (0, 0)):
        assert (sm.assign(cost=np.zeros(shape), method=method).perm == -1).all()
        assert (sm.assign(np.zeros((shape[0], 3)), np.zeros((shape[1], 3)), method=method).perm == -1).all()
    x, y = nasty()["random"][0].copy(), nasty()["random"][1].copy()
    x[:, 0], y[:, 0] = 0, 1e5
    costs = costs_of_all_pairs(x, y)
    expected = {"greedy": greedy, "mutual_nearest": mutual, "nearest": lambda c: c.argmin(axis=1)}[method](costs)
    np.testing.assert_array_equal(sm.assign(x, y, method=method).perm, expected)


def test_greedy_next_to_enormous_costs():
    costs = np.random.default_rng(0).random((40, 40))
    costs[:, 30:] += 1e35
    assert (sm.assign(cost=costs, method="greedy").perm >= 0).all()


def test_unknown_methods_are_refused():
    with pytest.raises(sm.MatchError, match="choose one of optimal, nearest, mutual_nearest, greedy"):
        sm.assign(*nasty()["random"], method="sinkhorn")


def test_a_model_by_a_baseline(sample):
    layers = {layer: sample[layer] for layer in (8, 9, 10)}
    chain = sm.match_layers(layers, method="greedy")
    assert {matching.status for matching in chain.values()} == {"suboptimal"}
    assert not chain.certified


def test_what_is_composed_of_many_to_one_is_many_to_one(tmp_path):
    layers = {layer: made_up(F, seed=layer) for layer, F in enumerate((24, 8, 8))}
    chain = sm.match_layers(layers, method="nearest")
    composed = chain.compose(0, 2)
    assert composed.status == "many_to_one"
    composed.save(tmp_path / "m.safetensors")
    assert torch.equal(sm.Matching.load(tmp_path / "m.safetensors").perm, composed.perm)
    with pytest.raises(sm.MatchError, match="has no inverse: many source features share a target feature"):
        chain.compose(2, 0)


def test_a_gap_that_compares_is_no_proof():
    x, y = nasty()["random"]
    for method in ("mutual_nearest", "nearest"):
        found = sm.assign(x, y, method=method)
        assert np.isnan(found.proof_gap)
        assert scalars(found)["proof_gap"] is None
    best = sm.assign(x, y)
    assert best.proof_gap == best.gap + best.rounding_error


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e8])
def test_the_nearest_of_rows_in_two_groups_that_float32_cannot_tell_apart(offset):
    x, y = np.random.default_rng(1).standard_normal((2, 60, 2))
    x[::2] += offset
    y[::2] += offset
    costs = costs_of_all_pairs(x, y)
    nearest = sm.assign(x, y, method="nearest").perm.numpy()
    np.testing.assert_array_equal(costs[np.arange(60), nearest], costs.min(axis=1))
    mutual = sm.assign(x, y, method="mutual_nearest").perm.numpy()
    expected = [j if costs[:, j].argmin() == i else -1 for i, j in enumerate(costs.argmin(axis=1))]
    assert mutual.tolist() == expected
