import json
import math
import os

import numpy as np
import pytest
import torch

import saematch as sm
from contracts import assert_proved_optimal
from saematch.matching.problem import RowProblem
from saematch.sae.features import feature_rows
from saematch.sources import as_layers
from saes import made_up, write_model, write_npz

pytestmark = pytest.mark.through_passes


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
        "run.json",
        "pairs",
        *(f"{pair}.{kind}" for pair in ("3-4", "4-5", "5-11") for kind in ("safetensors", "json")),
        ".lock",
        ".lock-start",
    }


def test_saes_of_one_feature_are_hashed_whatever_the_strides_of_their_tensors():
    """An axis of length 1 has any stride, also in a tensor that is contiguous."""
    tensors = torch.randn(5, 8)
    cut = sm.SAE(tensors[:, :1], tensors[::5, 0], tensors.T[:1], tensors[:, 1])
    copy = sm.SAE(*(tensor.clone(memory_format=torch.contiguous_format) for tensor in cut.tensors().values()))
    assert (cut.F, as_layers({0: cut}).handles[0].sha256()) == (1, as_layers({0: copy}).handles[0].sha256())


def test_the_records_say_what_was_done(model, tmp_path):
    sm.match_layers(model, tmp_path / "run", parts=["decoder"], fold="none")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["schema"] == 2
    assert (record["source"], record["against"]) == (str(tmp_path / "model"), None)
    assert record["pairs"] == [[3, 4], [4, 5], [5, 11]]
    assert not {"names", "axis"} & set(record)  # layers are called by their numbers, as in runs of earlier versions
    assert record["options"]["parts"] == ["decoder"]
    assert record["options"]["fold"] == "none"
    assert record["options"]["time_limit"] is None
    assert record["options"]["method"] == "optimal"
    assert "memory" not in record["options"]
    assert {"torch", "lapx", "numpy", "python"} <= set(record["versions"])
    assert record["machine"]["cores"] >= 1
    row = json.loads((tmp_path / "run" / "pairs" / "3-4.json").read_text())
    assert row["certified"] is True
    assert row["inputs"][0]["path"] == str(tmp_path / "model" / "layer_03" / "params.npz")
    assert [each["sha256"] for each in row["inputs"]] == [model.handles[layer].sha256() for layer in (3, 4)]
    assert [row["inputs"][0][name] for name in ("F", "d", "activation")] == [12, 8, "jumprelu"]
    assert {
        "backend",
        "device",
        "exact_pairs",
        "largest_residual",
        "products",
        "precision",
        "rounds",
        "edges",
        "seconds",
        "stages",
    } == set(row["stats"])
    assert set(row["stats"]["stages"]) == {"candidates", "sparse optimum", "passes"}


def test_equal_runs_write_equal_pairs(model, tmp_path):
    sm.match_layers(model, tmp_path / "a")
    sm.match_layers({layer: model[layer] for layer in model}, tmp_path / "b")
    for file in (tmp_path / "a" / "pairs").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "b" / "pairs" / file.name).read_bytes()


def test_progress_tells_of_every_pair(model):
    news = []
    sm.match_layers(model, progress=news.append)
    assert (news[0].stage, news[0].total, news[0].finished) == ("start", 3, 0)
    assert news[0].peak_bytes > 0
    done = [one for one in news if one.stage == "done"]
    assert sorted(one.pair for one in done) == [(3, 4), (4, 5), (5, 11)]
    assert [(one.total, one.finished) for one in done] == [(3, 1), (3, 2), (3, 3)]
    assert all(one.matching.certified and one.seconds > 0 for one in done)
    for pair in [(3, 4), (4, 5), (5, 11)]:
        stages = [one.stage for one in news if one.pair == pair]
        assert stages[0] == "reading"
        assert stages[-1] == "done"
        assert set(stages[1:-1]) == {"pass"}


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


def test_a_run_that_stops_keeps_its_finished_pairs_and_resumes(model, tmp_path):
    def stop(news):
        if news.stage == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sm.match_layers(model, tmp_path / "run", progress=stop)
    chain = sm.Chain.load(tmp_path / "run")
    assert len(chain) == 1
    assert not chain.complete
    news = []
    assert sm.match_layers(model, tmp_path / "run", progress=news.append).complete
    assert (news[0].total, news[0].finished) == (3, 1)
    assert [one.pair for one in news if one.stage == "done"] != list(chain)
    assert len([one for one in news if one.stage == "done"]) == 2


def test_strict_raises_after_the_pair_is_written(tmp_path):
    layers = {layer: made_up(F=200, d=8, seed=layer) for layer in (0, 1)}
    with pytest.raises(sm.NotCertified):
        sm.match_layers(layers, tmp_path / "run", max_rounds=1, strict=True)
    assert sm.Chain.load(tmp_path / "run")[0, 1].status == "round_limit"


def test_another_run_is_refused_with_the_difference_and_left_as_it_was(model, tmp_path):
    run = tmp_path / "run"
    sm.match_layers(model, run)
    (run / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file() and path.name[0] != "."}
    for options, difference in (
        ({"fold": "none"}, 'fold was "threshold", is "none"'),
        (
            {"max_cost": 9.0, "parts": ["bias"]},
            r'max_cost was null, is 9.0; parts was \["encoder", "bias", "decoder"\]',
        ),
        ({"pairs": "all"}, r"pairs were \[\[3, 4\], \[4, 5\], \[5, 11\]\], are \[\[3, 4\], \[3, 5\]"),
        ({"against": model}, 'against was null, is "/'),
    ):
        with pytest.raises(sm.MatchError, match=f"holds another run: {difference}"):
            sm.match_layers(model, run, **options)
    write_npz(tmp_path / "model" / "layer_04", made_up(seed=77))
    with pytest.raises(sm.MatchError, match=r"layer 4 .* has changed since pair 3-4 was matched, .*; choose another"):
        sm.match_layers(model, run)
    assert {path: path.read_bytes() for path in before} == before
    sm.match_layers({3: model[3], 4: model[4]}, run, overwrite=True)
    assert list(sm.Chain.load(run)) == [(3, 4)]
    assert {path.name for path in (run / "pairs").iterdir()} == {"3-4.safetensors", "3-4.json"}
    assert (run / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(sm.MatchError, match="holds other files; choose an empty or a new one"):
        sm.match_layers(model, tmp_path / "other", overwrite=True)


def test_inputs_are_trusted_by_path_size_and_time_unless_they_are_to_be_verified(model, tmp_path):
    path = tmp_path / "model" / "layer_04" / "params.npz"
    sm.match_layers(model, tmp_path / "run")
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sm.match_layers(model, tmp_path / "run").complete
    with pytest.raises(sm.MatchError, match=r"layer 4 .* has changed"):
        sm.match_layers(model, tmp_path / "run", verify_inputs=True)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)  # as it was, at another time
    assert sm.match_layers(model, tmp_path / "run").complete
    (tmp_path / "model").rename(tmp_path / "moved")
    assert sm.match_layers(sm.load_layers(tmp_path / "moved"), tmp_path / "run").complete


def test_a_layer_that_cannot_be_read_costs_its_pairs_and_the_next_run_tries_just_them(model, tmp_path):
    good = model[5]
    write_npz(tmp_path / "model" / "layer_05", made_up(seed=1), W_dec=np.full((12, 8), np.nan))
    news = []
    chain = sm.match_layers(model, tmp_path / "run", progress=news.append)
    assert list(chain) == [(3, 4)]
    assert set(chain.failures) == {(4, 5), (5, 11)}
    assert all("W_dec holds 96 values that are NaN" in reason for reason in chain.failures.values())
    assert {one.pair for one in news if one.stage == "failed"} == set(chain.failures)
    assert not chain.complete
    with pytest.raises(sm.MatchError, match=r"layers 4 and 5 have no matching: .*NaN"):
        _ = sm.Chain.load(tmp_path / "run")[4, 5]
    with pytest.raises(sm.MatchError, match="NaN"):
        sm.match_layers(model, strict=True)
    with pytest.warns(UserWarning, match="2 of 3 pairs have no matching"):
        sm.match_layers(model)
    write_npz(tmp_path / "model" / "layer_05", good)
    news.clear()
    again = sm.match_layers(model, tmp_path / "run", progress=news.append)
    assert {one.pair for one in news if one.stage == "done"} == {(4, 5), (5, 11)}
    assert (again.complete, again.failures) == (True, {})


def test_a_damaged_file_and_an_impossible_fold_cost_their_pairs(model, tmp_path):
    (tmp_path / "model" / "layer_03" / "params.npz").write_bytes(b"PK")
    write_npz(tmp_path / "model" / "layer_11", made_up(seed=1), threshold=np.zeros(12))
    chain = sm.match_layers(model, progress=lambda news: None)
    assert list(chain) == [(4, 5)]
    assert "layer_03" in chain.failures[3, 4]
    assert "threshold is not finite and positive for 12 of 12" in chain.failures[5, 11]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sm.MatchError, match="cannot be written"):
        sm.match_layers(model, tmp_path / "file" / "run", progress=lambda news: pytest.fail("work was done"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": made_up(), 2: made_up()}, "takes a mapping of layer numbers, or of names,"),
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
        ({"fold": np.ones(12)}, "takes the name of a fold"),
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
    feature, steps = 7, [(3, 7, 0.0, None, None, None)]
    for pair in chain:
        cost, cosine = (float(values[feature]) for values in (chain[pair].pair_cost, chain[pair].cosine))
        a, b = chain.sae(pair[0]).W_dec[feature].double(), chain.sae(pair[1]).W_dec.double()
        feature = int(chain[pair].perm[feature])
        assert cosine == pytest.approx(float(torch.cosine_similarity(a, b[feature], dim=0)), rel=1e-12)
        steps.append((pair[1], feature, cost, f"a, {feature}" if pair[1] == 4 else None, cosine, None))
    assert path == steps
    for step in path:  # the whole path is found from any of its features
        assert chain.path(step.layer, step.feature) == path
    margins = [step.margin for step in chain.path(5, 2, margins=True)]
    assert margins[0] is None
    assert margins[-1] == float(chain[5, 11].margins().exact([2])[0])


def test_composition_is_one_permutation_after_the_other(chain, model):
    composed = chain.compose(3, 11)
    by_hand = chain[5, 11].perm[chain[4, 5].perm[chain[3, 4].perm]]
    assert torch.equal(composed.perm, by_hand)
    assert not torch.equal(composed.perm, chain[3, 4].perm[chain[4, 5].perm[chain[5, 11].perm]])
    x, y = feature_rows(model[3]), feature_rows(model[11])
    np.testing.assert_allclose(composed.pair_cost, ((x - y[by_hand]) ** 2).sum(1), rtol=1e-13)
    assert (composed.status, composed.certified, composed.lower_bound) == ("unproved", False, -math.inf)
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
    assert chain.path(1, 1) == chain.path(0, 0)
    assert [step[:2] for step in chain.path(1, 2)] == [(1, 2), (2, 3)]  # no feature of layer 0 leads to it
    assert chain.compose(2, 0).perm.tolist() == [3, -1, 0, -1]


def test_a_chain_says_what_it_lacks(chain, tmp_path):
    with pytest.raises(sm.MatchError, match="layer 6 is not in this run, whose layers are 3, 4, 5, 11"):
        chain.path(6, 0)
    with pytest.raises(sm.MatchError, match="feature 12 is not in layer 3, whose features are 0 to 11"):
        chain.path(3, 12)
    (tmp_path / "model").rename(tmp_path / "moved")
    moved = sm.Chain.load(tmp_path / "run")
    assert moved.path(3, 7)[1].label is None
    with pytest.raises(
        sm.MatchError,
        match=r"the SAEs of the run are needed, and are no longer where the run found them; pass inputs= "
        r"\(.*no such file",
    ):
        _ = moved.compose(3, 5).cost
    given = sm.Chain.load(tmp_path / "run", sm.load_layers(tmp_path / "moved"))
    assert given.compose(3, 5).cost > 0


def test_a_loaded_chain_finds_margins(chain, model):
    loaded, fresh = chain[3, 4], sm.match(model[3], model[4])
    assert torch.equal(loaded.perm, fresh.perm)
    everyone = torch.arange(12)
    torch.testing.assert_close(loaded.margins().exact(everyone), fresh.margins().exact(everyone), rtol=1e-9, atol=1e-9)
    assert (loaded.margins().bound <= loaded.margins().exact(everyone) + 1e-9).all()


def test_inputs_that_changed_since_the_run_are_not_used_for_costs(chain, tmp_path):
    write_npz(tmp_path / "model" / "layer_05", made_up(seed=99))
    with pytest.raises(sm.MatchError, match="layer 5 has changed since the run"):
        _ = sm.Chain.load(tmp_path / "run").compose(3, 5).cost


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(sm.MatchError, match=r"not a run of saematch: there is no run\.json"):
        sm.Chain.load(tmp_path)
    loop = '{"schema": 2, "against": null, "pairs": [[3, 3]]}'
    for content in (
        "[]",
        "{}",
        '{"schema": 7}',
        '{"schema": 2, "pairs": [{}]}',
        loop,
        '{"schema": 2, "pairs": 5}',
        "{",
    ):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(sm.MatchError, match=r"run\.json"):
            sm.Chain.load(tmp_path)


def test_a_set_that_is_matched_with_itself_is_two_sets():
    same = {layer: made_up(seed=layer) for layer in (0, 1)}
    chain = sm.match_layers(same, against=same)
    assert [matching.perm.tolist() for matching in chain.values()] == [list(range(12))] * 2
    with pytest.raises(sm.MatchError, match="no path leads through its layers"):
        chain.path(0, 0)
    assert chain.steps() == []


def test_strict_holds_for_pairs_that_were_finished_before(tmp_path):
    layers = sm.load_layers("sample")
    chain = sm.match_layers(layers, tmp_path / "run", pairs=[(8, 9)], max_rounds=1)
    assert not chain.certified
    with pytest.raises(sm.NotCertified):
        sm.match_layers(layers, tmp_path / "run", pairs=[(8, 9)], max_rounds=1, strict=True)


def test_margins_of_a_run_are_found_where_it_was_matched(model, tmp_path, monkeypatch):
    made = []
    cost = RowProblem.cost
    monkeypatch.setattr(RowProblem, "cost", lambda problem, backend: made.append(backend) or cost(problem, backend))
    for out in (None, tmp_path / "run"):
        chain = sm.match_layers(model, out, backend="torch", device="cpu:0")
        made.clear()
        assert (chain[3, 4].margins().bound >= 0).all()
        assert {(backend.name, str(backend.device)) for backend in made} == {("torch", "cpu:0")}


def test_saes_of_a_dictionary_are_known_by_their_tensors(tmp_path):
    saes = {layer: made_up(seed=layer) for layer in (1, 2)}
    chain = sm.match_layers(saes, tmp_path / "run")
    assert chain.inputs()[2] is saes[2]
    assert sm.match_layers(dict(saes), tmp_path / "run").complete
    assert sm.Chain.load(tmp_path / "run", saes).sae(1) is saes[1]
    other = {**saes, 2: made_up(seed=9)}
    with pytest.raises(sm.MatchError, match=r"layer 2 \(in memory\) has changed since pair 1-2"):
        sm.match_layers(other, tmp_path / "run")
    with pytest.raises(sm.MatchError, match="layer 2 has changed since the run"):
        sm.Chain.load(tmp_path / "run", other).sae(2)


def test_a_chain_of_matchings_alone_says_what_it_does_not_know():
    saes = {layer: made_up(seed=layer) for layer in (1, 2, 3)}
    made = sm.match_layers(saes)
    chain = sm.Chain(dict(made), saes)
    assert (chain.complete, chain.record, chain.pair_record((1, 2)), chain.folder) == (True, {}, {}, None)
    assert chain.compose(1, 3).perm.tolist() == made.compose(1, 3).perm.tolist()
    for ask in (chain.options, lambda: chain.compose(1, 3).cost):
        with pytest.raises(
            sm.MatchError, match="was made of matchings, and how their features were compared is not known"
        ):
            ask()
    with pytest.raises(sm.MatchError, match="the SAEs of this chain are needed, and are not known"):
        sm.Chain(dict(made)).sae(1)


def test_a_mapping_that_reads_its_saes_is_asked_for_each_alone(tmp_path):
    read = []

    class Reading(dict):
        def __getitem__(self, layer):
            read.append(layer)
            return super().__getitem__(layer)

    layers = as_layers(Reading({layer: made_up(seed=layer) for layer in (1, 2)}))
    assert (list(layers), read) == ([1, 2], [])
    assert layers[2].F == 12
    assert read == [2]
