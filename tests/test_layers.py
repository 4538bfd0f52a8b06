import json

import numpy as np
import pytest
import torch

import saematch as sm
from contracts import assert_proved_optimal
from saematch.features import feature_rows
from saes import made_up, write_model, write_npz


@pytest.fixture
def model(tmp_path):
    return sm.load_layers(write_model(tmp_path / "model"))


def test_every_pair_is_matched_written_and_read_again(model, tmp_path):
    chain = sm.match_layers(model, tmp_path / "run")
    assert chain.layers == [3, 4, 5, 11]
    assert list(chain) == [(3, 4), (4, 5), (5, 11)]
    for (a, b), matching in chain.items():
        assert_proved_optimal(matching, feature_rows(model[a]), feature_rows(model[b]))
    again = sm.Chain.load(tmp_path / "run")
    assert again.certified
    for pair, matching in again.items():
        assert torch.equal(matching.perm, chain[pair].perm)
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {
        "run.json", "pairs", "3-4.safetensors", "4-5.safetensors", "5-11.safetensors"
    }  # fmt: skip


def test_run_json_says_what_was_done(model, tmp_path):
    sm.match_layers(model, tmp_path / "run", parts=["decoder"], fold="none")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["schema"] == 1
    assert record["complete"] is True
    assert record["options"]["parts"] == ["decoder"]
    assert record["options"]["fold"] == "none"
    assert record["options"]["time_limit"] is None
    assert record["inputs"]["layers"]["3"]["sha256"]["params.npz"] == model.stored[3].sha256()["params.npz"]
    assert [row["certified"] for row in record["pairs"]] == [True] * 3
    assert record["options"]["method"] == "optimal"
    for row in record["pairs"]:
        assert {"backend", "device", "costs", "precision", "rounds", "edges", "seconds", "stages"} == set(row["stats"])
        assert set(row["stats"]["stages"]) == {"candidates", "sparse optimum", "passes"}
    assert {"torch", "lapx", "numpy", "python"} <= set(record["versions"])
    assert record["machine"]["cores"] >= 1


def test_equal_runs_write_equal_pairs(model, tmp_path):
    sm.match_layers(model, tmp_path / "a")
    sm.match_layers({layer: model[layer] for layer in model}, tmp_path / "b")
    for file in (tmp_path / "a" / "pairs").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "pairs" / file.name).read_bytes()


def test_progress_tells_of_every_pair(model):
    news = []
    sm.match_layers(model, progress=news.append)
    assert [(one.pair, one.number, one.of) for one in news if one.matching] == [
        ((3, 4), 1, 3), ((4, 5), 2, 3), ((5, 11), 3, 3)
    ]  # fmt: skip
    assert any(one.round for one in news)


def test_layers_of_different_widths_and_features_left_out(tmp_path):
    layers = {layer: made_up(F=10 + layer, seed=layer) for layer in (1, 2, 3)}
    chain = sm.match_layers(layers, tmp_path / "run", max_cost=40.0)
    for (a, b), matching in chain.items():
        assert_proved_optimal(matching, feature_rows(layers[a]), feature_rows(layers[b]), 40.0)
        assert (matching.perm < 0).any()
        assert len(matching.unmatched_targets)
    loaded = sm.Chain.load(tmp_path / "run", layers)
    assert loaded[1, 2].objective == chain[1, 2].objective
    assert loaded.compose(1, 3).target_features == 13
    complete = sm.match_layers(layers)
    assert (complete[1, 2].perm >= 0).all()
    assert len(complete[1, 2].unmatched_targets) == 1


def test_layers_are_read_once_to_be_checked_and_once_to_be_matched(model, monkeypatch):
    reads = []
    read = type(model).__getitem__
    monkeypatch.setattr(type(model), "__getitem__", lambda self, layer: reads.append(layer) or read(self, layer))
    sm.match_layers(model)
    assert reads == [3, 4, 5, 11] * 2


def test_a_run_that_stops_keeps_its_finished_pairs(model, tmp_path):
    def stop(news):
        if news.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sm.match_layers(model, tmp_path / "run", progress=stop)
    chain = sm.Chain.load(tmp_path / "run")
    assert list(chain) == [(3, 4)]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["complete"] is False


def test_strict_raises_after_the_pair_is_written(tmp_path):
    layers = {layer: made_up(F=200, d=8, seed=layer) for layer in (0, 1)}
    with pytest.raises(sm.NotCertified):
        sm.match_layers(layers, tmp_path / "run", max_rounds=1, strict=True)
    assert sm.Chain.load(tmp_path / "run")[0, 1].status == "round_limit"


def test_a_folder_in_use_is_refused_and_nothing_of_it_is_touched(model, tmp_path):
    run = tmp_path / "run"
    sm.match_layers(model, run)
    (run / "notes.txt").write_text("mine")
    before = (run / "run.json").read_bytes()
    with pytest.raises(sm.MatchError, match="holds a run already; choose another folder, or overwrite"):
        sm.match_layers(model, run)
    assert (run / "run.json").read_bytes() == before
    sm.match_layers({3: model[3], 4: model[4]}, run, overwrite=True)
    assert list(sm.Chain.load(run)) == [(3, 4)]
    assert [path.name for path in (run / "pairs").iterdir()] == ["3-4.safetensors"]
    assert (run / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(sm.MatchError, match="holds other files; choose an empty or a new one"):
        sm.match_layers(model, tmp_path / "other", overwrite=True)


def test_bad_input_in_the_last_layer_leaves_an_earlier_run_as_it_was(model, tmp_path):
    run = tmp_path / "run"
    sm.match_layers(model, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_npz(tmp_path / "model" / "layer_11", made_up(seed=1), W_dec=np.full((12, 8), np.nan))
    with pytest.raises(sm.MatchError, match="W_dec holds 96 values that are NaN"):
        sm.match_layers(model, run, overwrite=True)
    write_npz(tmp_path / "model" / "layer_11", made_up(seed=1), threshold=np.zeros(12))
    with pytest.raises(sm.MatchError, match="threshold is not finite and positive for 12 of 12"):
        sm.match_layers(model, run, overwrite=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with pytest.raises(sm.MatchError):
        sm.match_layers(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sm.MatchError, match="cannot be written"):
        sm.match_layers(model, tmp_path / "file" / "run", progress=lambda news: pytest.fail("work was done"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": made_up(), "b": made_up()}, "takes a mapping of layer numbers"),
        ({1: made_up(), 2: "x"}, "layer 2 is a str, expected an SAE"),
        ({}, "0 layer to match; at least two"),
        ({1: made_up()}, "1 layer to match; at least two"),
        ({1: made_up(), 2: made_up(d=9)}, "d = 8 and SAE has d = 9"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(layers, message, tmp_path):
    with pytest.raises(sm.MatchError, match=message):
        sm.match_layers(layers, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_that_make_no_sense_are_refused(model):
    for options, message in (
        ({"parts": ["embedding"]}, "must be some of"),
        ({"parts": []}, "must be some of"),
        ({"parts": ["decoder"], "weights": {"bias": 1}}, "weights are given for"),
        ({"weights": {"bias": -1}}, "weight of bias is -1"),
        ({"fold": np.ones(12)}, "folds by name"),
    ):
        with pytest.raises(sm.MatchError, match=message):
            sm.match_layers(model, **options)


@pytest.fixture
def chain(model, tmp_path):
    (tmp_path / "model" / "layer_04" / "labels.json").write_text(
        json.dumps({"layer": 4, "features": [{"feature": i, "tokens": ["a", str(i)]} for i in range(12)]})
    )
    sm.match_layers(model, tmp_path / "run")
    return sm.Chain.load(tmp_path / "run")


def test_path_follows_the_permutations_with_costs_and_labels(chain):
    path = chain.path(3, 7)
    feature, steps = 7, [(3, 7, 0.0, None)]
    for pair in chain:
        cost = float(chain[pair].pair_cost[feature])
        feature = int(chain[pair].perm[feature])
        steps.append((pair[1], feature, cost, f"a, {feature}" if pair[1] == 4 else None))
    assert path == steps
    assert chain.path(5, 2)[0] == (5, 2, 0.0, None)


def test_composition_is_one_permutation_after_the_other(chain, model):
    composed = chain.compose(3, 11)
    by_hand = chain[5, 11].perm[chain[4, 5].perm[chain[3, 4].perm]]
    assert torch.equal(composed.perm, by_hand)
    assert not torch.equal(composed.perm, chain[3, 4].perm[chain[4, 5].perm[chain[5, 11].perm]])
    x, y = feature_rows(model[3]), feature_rows(model[11])
    np.testing.assert_allclose(composed.pair_cost, ((x - y[by_hand]) ** 2).sum(1), rtol=1e-13)
    assert (composed.status, composed.certified, composed.lower_bound) == ("unproved", False, 0.0)
    direct = sm.match(model[3], model[11])
    graded = sm.certify(model[3], model[11], composed.perm)
    assert graded.gap == pytest.approx(composed.cost - direct.cost, rel=1e-9)


def test_composition_backwards_is_the_inverse_and_nowhere_the_identity(chain):
    back = chain.compose(11, 3)
    assert torch.equal(back.perm[chain.compose(3, 11).perm], torch.arange(12))
    assert chain.compose(4, 5) is chain[4, 5]
    itself = chain.compose(4, 4)
    assert itself.perm.tolist() == list(range(12))
    assert itself.cost == 0


def test_no_counterpart_stays_none():
    def partial(*perm):
        return sm.Matching(torch.tensor(perm), torch.zeros(len(perm), dtype=torch.float64), target_features=4)

    chain = sm.Chain({(0, 1): partial(1, -1, 0, 3), (1, 2): partial(-1, 2, 3, 0)})
    assert chain.compose(0, 2).perm.tolist() == [2, -1, -1, 0]
    assert [step.feature for step in chain.path(0, 0)] == [0, 1, 2]
    assert [step.feature for step in chain.path(0, 1)] == [1]
    assert [step.feature for step in chain.path(0, 2)] == [2, 0]
    assert chain.compose(2, 0).perm.tolist() == [3, -1, 0, -1]


def test_a_chain_says_what_it_lacks(chain, tmp_path):
    with pytest.raises(sm.MatchError, match="layer 6 is not in this run, whose layers are 3, 4, 5, 11"):
        chain.path(6, 0)
    with pytest.raises(sm.MatchError, match="feature 12 is not in layer 3, whose features are 0 to 11"):
        chain.path(3, 12)
    (tmp_path / "model").rename(tmp_path / "moved")
    moved = sm.Chain.load(tmp_path / "run")
    assert moved.path(3, 7)[1].label is None
    with pytest.raises(sm.MatchError, match="layer 3, which this cost needs, is not where it was; pass inputs="):
        _ = moved.compose(3, 5).cost
    given = sm.Chain.load(tmp_path / "run", sm.load_layers(tmp_path / "moved"))
    assert given.compose(3, 5).cost > 0


def test_inputs_that_changed_since_the_run_are_not_used_for_costs(chain, tmp_path):
    write_npz(tmp_path / "model" / "layer_05", made_up(seed=99))
    with pytest.raises(sm.MatchError, match="layer 5 has changed since the run"):
        _ = sm.Chain.load(tmp_path / "run").compose(3, 5).cost


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(sm.MatchError, match=r"not a run of saematch: there is no run\.json"):
        sm.Chain.load(tmp_path)
    loop = '{"schema": 1, "pairs": [{"source": 3, "target": 3}]}'
    for content in (
        "[]",
        "{}",
        '{"schema": 7}',
        '{"schema": 1, "pairs": [{}]}',
        loop,
        '{"schema": 1, "pairs": 5}',
        "{",
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(sm.MatchError, match=r"run\.json"):
            sm.Chain.load(tmp_path)
