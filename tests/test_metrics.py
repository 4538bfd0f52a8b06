"""Cosines as costs: the optimum and its proof, for every metric, part and precision."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saematch as sm
from problems import nasty, noisy_copy
from saematch.analysis.findings import Findings
from saematch.cli.main import main
from saematch.cost.products import int8_obstacle

R = np.random.default_rng
PRECISIONS = ["float32", *([] if int8_obstacle() else ["int8"])]


def cosines(x, y):
    """Return the cosine of every pair of rows, 0 for a row that is 0."""
    unit = [
        rows.astype(np.float64) / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (x, y)
    ]
    return unit[0] @ unit[1].T


def best(similarity):
    """Return the largest sum of similarities of a matching of the smaller side, by SciPy."""
    return similarity[linear_sum_assignment(similarity, maximize=True)].sum()


@pytest.mark.through_passes
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", ["cosine", "absolute_cosine"])
@pytest.mark.parametrize("shape", [(80, 80), (60, 90), (90, 60)])
def test_the_optimum_is_that_of_scipy(metric, precision, shape):
    x, y = R(0).standard_normal((90, 9))[: shape[0]], R(1).standard_normal((90, 9))[: shape[1]]
    x[3] *= 1e6
    x[5], y[7], y[8] = 0, 0, 0
    found = sm.assign(x, y, metric=metric, precision=precision)
    similarity = cosines(x, y) if metric == "cosine" else np.abs(cosines(x, y))
    rows = np.nonzero(found.perm.numpy() >= 0)[0]
    assert found.certified
    assert (1 - found.pair_cost[rows]).sum().item() == pytest.approx(best(similarity), abs=1e-9)
    np.testing.assert_allclose(1 - found.pair_cost[rows], similarity[rows, found.perm[rows]], atol=1e-12)
    assert found.stats["without_direction"] == [1, 2]
    assert found.random_cost == pytest.approx(len(rows) * (1 - similarity.mean()), rel=2e-2)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_negated_copy_is_the_same_up_to_sign(backend, precision):
    x, y, planted = noisy_copy(150, 24, 0.2)
    y[::2] *= -1
    found = sm.assign(x, y, metric="absolute_cosine", backend=backend, device="cpu", precision=precision)
    np.testing.assert_array_equal(found.perm, planted)
    assert found.certified
    assert sm.assign(x, -x, metric="absolute_cosine").cost == pytest.approx(0, abs=1e-12)
    assert not sm.certify(x, y, np.roll(planted, 1), metric="absolute_cosine").certified
    assert sm.certify(x, y, planted, metric="absolute_cosine").certified


@pytest.mark.through_passes
@pytest.mark.parametrize("name", sorted(set(nasty()) - {"empty", "no columns"}))
def test_signs_and_sizes_of_rows_do_not_matter(name):
    x, y = (rows.astype(np.float64) for rows in nasty()[name])
    signs, sizes = R(0).choice([-1.0, 1.0], (len(x), 1)), 2.0 ** R(1).integers(-20, 20, (len(y), 1))
    plain, other = (sm.assign(*rows, metric="absolute_cosine") for rows in ((x, y), (x * signs, y * sizes)))
    assert plain.certified
    assert plain.cost == pytest.approx(other.cost, abs=1e-9)
    assert plain.cost == pytest.approx(min(len(x), len(y)) - best(np.abs(cosines(x, y))), abs=1e-9)


def test_the_joint_similarity_is_the_mean_of_the_parts():
    a, b = (sm.load(f"sample?layer={layer}") for layer in (8, 9))
    found = sm.match(a, b, metric="cosine", weights={"decoder": 3})
    parts = [
        cosines(one.double().numpy(), two.double().numpy()) for one, two in ((a.W_enc.T, b.W_enc.T), (a.W_dec, b.W_dec))
    ]
    similarity = (parts[0] + 3 * parts[1]) / 4
    assert found.certified
    assert 1024 - found.cost == pytest.approx(best(similarity), abs=1e-9)
    assert found.options["metric"] == "cosine"
    assert found.margins().bound.min() >= 0
    assert torch.equal(sm.match(a, b, metric="cosine", weights={"decoder": 3}, fold="decoder_norm").perm, found.perm)


def test_features_whose_similarity_is_too_small_stay_unmatched():
    x, y = R(0).standard_normal((2, 70, 5))
    for metric in ("cosine", "absolute_cosine"):
        found = sm.assign(x, y, metric=metric, max_cost=0.1)
        matched = found.perm >= 0
        assert found.certified
        assert 0 < int(matched.sum()) < 70
        assert float(found.pair_cost[matched].max()) <= 0.1


def test_metrics_that_make_no_sense_are_refused():
    x = np.eye(3)
    with pytest.raises(
        sm.MatchError, match="metric is 'euclid'; choose one of squared_distance, cosine, absolute_cosine"
    ):
        sm.assign(x, x, metric="euclid")
    with pytest.raises(sm.MatchError, match="metric is for rows"):
        sm.assign(cost=x, metric="cosine")
    sae = sm.load("sample?layer=8")
    with pytest.raises(sm.MatchError, match="a bias is one number and has no direction"):
        sm.match(sae, sae, metric="cosine", parts=["bias"])


def test_a_run_keeps_its_metric(tmp_path, capsys):
    layers = sm.load_layers("sample?layer=8-9")
    chain = sm.match_layers(layers, tmp_path / "run", metric="absolute_cosine", parts=["decoder"])
    alone = sm.match(layers[8], layers[9], metric="absolute_cosine", parts=["decoder"])
    assert torch.equal(chain[8, 9].perm, alone.perm)
    assert chain.options() == {
        "metric": "absolute_cosine",
        "parts": ["decoder"],
        "weights": {"decoder": 1.0},
        "fold": "none",
        "max_cost": None,
    }
    loaded = sm.Chain.load(tmp_path / "run")
    assert loaded.options() == chain.options()
    np.testing.assert_allclose(loaded.compose(8, 9).pair_cost, alone.pair_cost)
    columns = Findings(loaded, margins=True).columns((8, 9))
    np.testing.assert_allclose(columns["decoder"], alone.pair_cost, atol=1e-12)
    assert (columns["runner_up"] != alone.perm.numpy()).all()
    with pytest.raises(sm.MatchError, match=r"metric was .absolute_cosine., is null"):
        sm.match_layers(layers, tmp_path / "run", parts=["decoder"], fold="none")
    run = tmp_path / "run" / "pairs" / "8-9.safetensors"
    assert main(["verify", "sample?layer=8", "sample?layer=9", str(run)]) == 0
    assert "Optimal, and proved so" in capsys.readouterr().out
