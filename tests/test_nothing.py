"""Runs in which nothing was matched claim nothing."""

import json
import shutil

import numpy as np
import pytest
import torch

import saematch as sm
from saematch.cli.main import main
from saematch.runs.plan import plan_pairs
from saes import made_up, write_model, write_npz

pytestmark = pytest.mark.through_passes


@pytest.fixture
def broken(tmp_path):
    """Write two layers whose only pair fails."""
    model = write_model(tmp_path / "model", layers=(3, 4))
    write_npz(model / "layer_04", made_up(seed=1), W_dec=np.full((12, 8), np.nan))
    return model


def assert_claims_nothing(chain):
    assert (len(chain), chain.complete, chain.certified, chain.layers) == (0, False, False, [])


def test_a_chain_of_nothing_is_neither_complete_nor_certified():
    assert_claims_nothing(sm.Chain({}))
    assert_claims_nothing(sm.Chain({}, inputs={}, against={}))
    assert_claims_nothing(sm.Chain({}, failures={(1, 2): "gone"}))


@pytest.mark.parametrize("out", [None, "run"])
def test_a_run_whose_pairs_have_all_failed_says_which_and_why(broken, tmp_path, out):
    out = out and tmp_path / out
    chain = sm.match_layers(sm.load_layers(broken), out, progress=lambda news: None)
    for each in [chain, sm.Chain.load(out)] if out else [chain]:
        assert_claims_nothing(each)
        assert "NaN" in each.failures[3, 4]
        with pytest.raises(sm.MatchError, match=r"layers 3 and 4 have no matching: .*NaN"):
            _ = each[3, 4]
        with pytest.raises(sm.MatchError, match="layer 3 is not in this run, which has no matching"):
            each.path(3, 0)
    if out:
        again = sm.Chain.load(out)
        assert again.folder == str(out)
        assert again.record["pairs"] == [[3, 4]]
        assert again.pair_record((3, 4))["failure"] == again.failures[3, 4]


def test_a_run_that_was_stopped_before_its_first_pair_claims_nothing(tmp_path):
    def stop(news):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run", progress=stop)
    chain = sm.Chain.load(tmp_path / "run")
    assert_claims_nothing(chain)
    assert chain.failures == {}


def test_a_run_folder_that_plans_no_pairs_is_not_complete(tmp_path):
    sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"pairs": []}))
    assert_claims_nothing(sm.Chain.load(tmp_path / "run"))


def test_one_matching_that_is_not_certified_keeps_a_chain_from_it():
    unproved = sm.Matching(torch.tensor([0]), torch.zeros(1, dtype=torch.float64), target_features=1)
    proved = sm.assign(np.eye(3), np.eye(3)[::-1])
    assert not sm.Chain({(0, 1): proved, (1, 2): unproved}).certified
    assert sm.Chain({(0, 1): proved}).certified


def test_commands_on_a_run_of_nothing(broken, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["layers", str(broken), "-o", run, "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert (content["complete"], content["certified"], content["pairs"]) == (False, False, [])
    assert [(each["source"], each["target"]) for each in content["failures"]] == [(3, 4)]
    for command in (
        ["path", run, "--layer", "3", "--feature", "1"],
        ["report", run],
        ["serve", run],
        ["export", run, "-o", str(tmp_path / "x.csv")],
        ["evaluate", run],
    ):
        assert main(command) == 2, command
        assert "no " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]


def test_a_shard_without_pairs_is_done_and_one_with_another_shards_failure_too(broken, tmp_path, capsys):
    layers = ["layers", str(broken), "-o", str(tmp_path / "run")]
    assert main([*layers, "--shard", "1/2"]) == 0  # of one pair, the second half has it
    assert "has no pairs" in capsys.readouterr().out
    assert main([*layers, "--shard", "2/2", "--quiet"]) == 3
    assert main([*layers, "--shard", "1/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["certified"] is False
    assert_claims_nothing(sm.Chain.load(tmp_path / "run"))


def test_an_evaluation_of_a_run_with_a_failed_pair_is_not_done(tmp_path, capsys):
    model = write_model(tmp_path / "model", layers=(1, 2, 3))
    shutil.copytree(model, tmp_path / "whole")
    write_npz(model / "layer_03", made_up(seed=1), b_enc=np.full(12, np.nan))
    assert main(["layers", str(model), "-o", str(tmp_path / "run"), "--quiet"]) == 3
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["complete"] is False


@pytest.mark.parametrize(
    "option", ["--against", "--log-json", "--inputs", "--labels", "--evaluation", "--explanations"]
)
def test_an_option_that_is_given_empty_is_not_one_that_is_left_out(tmp_path, capsys, option):
    run = str(tmp_path / "run")
    model = str(write_model(tmp_path / "model", layers=(1, 2)))
    sm.match_layers(sm.load_layers(model), run)
    command = {
        "--against": ["layers", model, "-o", str(tmp_path / "other"), "--quiet"],
        "--log-json": ["layers", model, "-o", run, "--quiet"],
        "--explanations": ["evaluate", run, "--quiet"],
    }.get(option, ["report", run])
    try:
        code = main([*command, f"{option}="])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_pairs_are_not_the_usual_pairs():
    for pairs in ([], (), set(), iter([])):
        with pytest.raises(sm.MatchError, match="pairs is an empty list"):
            plan_pairs([1, 2, 3], None, pairs)
        with pytest.raises(sm.MatchError, match="pairs is an empty list"):
            plan_pairs([1, 2, 3], [1, 2], pairs)


def test_a_listener_that_is_empty_is_still_told(tmp_path):
    class Recorder(list):
        __call__ = list.append

    recorder = Recorder()
    sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), progress=recorder)
    assert [news.stage for news in recorder].count("done") == 3
