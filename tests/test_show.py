"""Commands that look at a finished run, and the features that they rank."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import saematch as sm
from saematch.analysis.persistence import lifetimes
from saematch.analysis.ranking import alike, cost_limits, lasting, uncertain
from saes import write_model
from test_cli import assert_refused, parsed, saematch

F = 40


@pytest.fixture(scope="module")
def planted():
    """Return a chain of four layers with random partners, some features unmatched, and random cosines."""
    rng = np.random.default_rng(7)
    matchings = {}
    for pair in ((0, 1), (1, 3), (3, 4)):
        perm = rng.permutation(F)
        perm[rng.random(F) < 0.2] = -1
        cosine = np.where(perm >= 0, rng.uniform(0, 1, F), np.nan)
        cost = np.where(perm >= 0, 10 * (1 - cosine) + rng.uniform(0, 3, F), 0)
        tensors = {"cosine": torch.tensor(cosine)}
        matchings[pair] = sm.Matching(torch.tensor(perm), torch.tensor(cost), target_features=F, **tensors)
    return sm.Chain(matchings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model")
    assert saematch("layers", home / "model", "-o", home / "run").returncode == 0
    return home / "run"


def test_pairs_are_ranked_by_their_cosines(planted):
    everything = [
        (float(cosine), pair[0], feature)
        for pair in planted
        for feature, cosine in enumerate(planted[pair].cosine)
        if cosine.isfinite()
    ]
    everything.sort()
    assert [(one.cosine, one.layer, one.feature) for one in alike(planted, 7)] == everything[:-8:-1]
    assert [(one.cosine, one.layer, one.feature) for one in alike(planted, 7, least=True)] == everything[:7]
    assert len(alike(planted, 1000)) == len(everything)


def test_the_features_that_persist_longest_are_those_of_the_paths(planted):
    """Follow every feature as far as cosines allow, from the layer in which it begins."""
    least, found = 0.5, []
    for layer in (0, 1, 3):
        for feature in range(F):
            path = planted.path(layer, feature)
            at = next(place for place, step in enumerate(path) if step.layer == layer)
            if path[at].cosine is not None and path[at].cosine >= least:
                continue  # it began before
            cosines = [step.cosine for step in path[at + 1 :]]
            steps = next((place for place, cosine in enumerate(cosines) if cosine < least), len(cosines))
            if steps:
                found.append((steps + 1, min(cosines[:steps]), layer, feature, path[at + steps].layer))
    found.sort(reverse=True)
    expected = [(one.layers, one.cosine, one.layer, one.feature, one.last) for one in lasting(planted, 12, least)]
    assert expected == found[:12]
    assert expected[0][0] > 2


def test_features_of_a_layer_that_two_layers_lead_to_are_counted_once(planted):
    steps = planted[0, 1], planted[1, 3], planted[3, 4]
    branched = sm.Chain({(0, 2): steps[0], (1, 2): steps[1], (2, 3): steps[2]})
    alone = sm.Chain({(1, 2): steps[1], (2, 3): steps[2]})
    assert lasting(branched, 50, 0.5) == lasting(alone, 50, 0.5)
    cosines = [{pair: m.cosine.numpy() for pair, m in chain.items()} for chain in (branched, alone)]
    assert lifetimes(branched, cosines[0]) == lifetimes(alone, cosines[1])


def test_a_suggested_limit_misplaces_the_fewest_pairs(planted):
    matched = [(m.pair_cost[m.perm >= 0], m.cosine[m.perm >= 0]) for m in planted.values()]
    cost, cosine = (np.concatenate(column) for column in zip(*matched, strict=True))

    def misplaced(limit, least):
        return ((cost <= limit) != (cosine >= least)).sum()

    limits = cost_limits(planted, (0.3, 0.7, 2.0))
    for limit in limits[:2]:
        assert misplaced(limit.max_cost, limit.cosine) == min(misplaced(each, limit.cosine) for each in cost)
        assert limit.kept == (cost <= limit.max_cost).mean()
        assert limit.above == (cosine[cost <= limit.max_cost] >= limit.cosine).mean()
    assert limits[2].max_cost is None  # no pair is above a cosine of 2


@pytest.mark.parametrize("max_cost", [None, 20.0])
def test_the_least_certain_pairs_have_the_least_margins(max_cost):
    layers = sm.load_layers("sample?layer=8-9")
    chain = sm.match_layers({layer: few(layers[layer]) for layer in layers}, max_cost=max_cost)
    matched = chain[8, 9].perm >= 0
    assert matched.all() == (max_cost is None)
    exact = chain[8, 9].margins().exact(matched)
    assert [one.margin for one in uncertain(chain, 5)] == pytest.approx(sorted(exact.tolist())[:5])


def few(sae):
    return sm.SAE(sae.W_enc[:, :60], sae.b_enc[:60], sae.W_dec[:60], sae.b_dec, "jumprelu", sae.threshold[:60])


def test_a_run_is_shown_again(run):
    shown, chain = saematch("show", run), sm.Chain.load(run)
    assert (shown.returncode, shown.stderr) == (0, "")
    content = parsed(saematch("show", run, "--limits", "--json"))
    assert [(pair["source"], pair["target"]) for pair in content["pairs"]] == list(chain)
    for pair, row in zip(chain.values(), content["pairs"], strict=True):
        assert (row["matched"], row["features"], row["cost"]) == (12, 12, pair.cost)
        assert row["cosine"] == pytest.approx(float(pair.cosine.mean()))
        assert row["persistent"] == float((pair.cosine >= 0.7).double().mean())
        assert f"{row['cosine']:.3f}" in shown.stdout
    assert [limit["cosine"] for limit in content["limits"]] == [0.3, 0.5, 0.7, 0.9]
    table = shown.stdout[shown.stdout.index("layers   ") : shown.stdout.index("Lower bounds")]
    assert table in saematch("layers", run.parent / "model", "-o", run).stdout  # a finished run is shown, too
    best = alike(chain, 1)[0]
    assert f"{best.layer} -> {best.target} " in shown.stdout[shown.stdout.index("most alike") :]


def test_a_run_of_an_earlier_version_has_cosines_as_long_as_its_saes_are_there(run, tmp_path):
    home = shutil.copytree(run.parent, tmp_path / "home")
    old = tmp_path / "old"
    assert saematch("layers", home / "model", "-o", old, "--quiet").returncode == 0
    for path in (old / "pairs").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("perm", "pair_cost", "prices")}
            save_file(tensors, path, file.metadata())
        record = json.loads(path.with_suffix(".json").read_text())
        del record["matching_sha256"]
        path.with_suffix(".json").write_text(json.dumps(record))
    expected, chain = sm.Chain.load(run), sm.Chain.load(old)
    assert chain[3, 4].cosine is None
    for pair in chain:
        np.testing.assert_allclose(chain.arrays(pair).cosine, expected[pair].cosine, rtol=1e-12)
    shutil.rmtree(home / "model")
    assert sm.Chain.load(old).arrays((3, 4)).cosine is None
    assert saematch("show", old).returncode == 0
    assert_refused(saematch("top", old), "the decoder cosines of layers 3 and 4 are not known", "--inputs")


def test_tops_of_a_run(run):
    chain = sm.Chain.load(run)
    pairs = parsed(saematch("top", run, "--alike", 3, "--json"))["alike"]
    assert [tuple(pair.values()) for pair in pairs] == alike(chain, 3)
    lasts = parsed(saematch("top", run, "--cosine", -1, "--json"))["persistent"]
    assert [one["layers"] for one in lasts] == [4] * 10
    assert "To follow the first: saematch path" in saematch("top", run, "--cosine", -1).stdout
    heads = [saematch("top", run, "--alike", 1).stdout, saematch("path", run, "--layer", 3, "--feature", 0).stdout]
    assert not any("label" in head for head in heads)  # these SAEs have none
    assert "No feature has a partner" in saematch("top", run, "--cosine", 1.5).stdout
    assert "margin: how much" in saematch("top", run, "--uncertain", 2).stdout
    assert_refused(saematch("top", run, "--alike", 0), "--alike 0: give the number of features")
    assert_refused(saematch("top", run, "--alike", 1, "--uncertain", 1), "not allowed with")


def test_the_top_of_two_sets_is_what_is_most_alike(run, tmp_path):
    model = run.parent / "model"
    assert saematch("layers", model, "--against", model, "-o", tmp_path / "run", "--quiet").returncode == 0
    pairs = parsed(saematch("top", tmp_path / "run", "--json"))["alike"]
    assert {(pair["layer"], pair["feature"]) for pair in pairs} == {(pair["target"], pair["partner"]) for pair in pairs}
    assert_refused(saematch("top", tmp_path / "run", "--persistent", 3), "layers of one set of SAEs")


def test_a_baseline_that_did_what_was_asked_is_no_failure(run, tmp_path):
    model = run.parent / "model"
    done = saematch("match", model / "layer_03", model / "layer_04", "--method", "nearest")
    assert (done.returncode, "NO (" in done.stdout) == (0, False)
    assert "no proof is missing" in done.stdout
    for command in (("layers", model, "-o", tmp_path / "run", "--method", "nearest"), ("show", tmp_path / "run")):
        done = saematch(*command)
        assert (done.returncode, "NO (" in done.stdout) == (0, False)
        assert "  baseline\n" in done.stdout


def test_a_run_with_a_limit_of_the_cost_says_how_many_are_matched(run, tmp_path):
    limit = float(sm.Chain.load(run)[3, 4].pair_cost.median())
    done = saematch("layers", run.parent / "model", "-o", tmp_path / "run", "--max-cost", limit)
    chain = sm.Chain.load(tmp_path / "run")
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("3 -> 4"))
    assert int(row[3]) == chain[3, 4].matched < 12
    written = saematch("export", tmp_path / "run", "-o", tmp_path / "features.csv").stdout
    matched = sum(matching.matched for matching in chain.values())
    assert f"features.csv: {matched} matched features and {36 - matched} without a partner" in written
    fewer = saematch("export", tmp_path / "run", "-o", tmp_path / "cheap.csv", "--max-cost", limit).stdout
    assert f"{matched} rows written" in fewer
