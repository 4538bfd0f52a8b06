"""Every path that a user gives may begin with ~."""

import json
import os
import pwd
from pathlib import Path

import numpy as np
import pytest

import saematch as sm
from saematch.analysis.export import export
from saematch.cli.main import main
from saematch.evaluation import StoredActivations, evaluate, read_explanations
from saematch.evaluation.meaning import read_grades
from saematch.evaluation.texts import Texts
from saematch.matching.files import read_permutation
from saematch.report import Contents, write_report
from saematch.sources.address import Address
from saematch.storage.folders import local_path
from saes import made_up, write_model

TEXT = "the texts"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Make a home folder with SAEs and a run, and another working folder, which stays empty."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_model(home / "saes", layers=(3, 4))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    sm.match_layers(sm.load_layers("~/saes"), "~/run")
    yield home
    assert list(elsewhere.iterdir()) == []


@pytest.fixture(params=[str, Path])
def kind(request):
    return request.param


def test_saes_of_a_home(home, kind):
    assert list(sm.load_layers(kind("~/saes"))) == [3, 4]
    assert sm.load(kind("~/saes/layer_03")).F == 12
    assert list(sm.load_layers([kind("~/saes/layer_03"), kind("~/saes/layer_04/params.npz")])) == [3, 4]
    assert list(sm.load_layers({8: kind("~/saes/layer_03"), 9: kind("~/saes/layer_04")})) == [8, 9]
    assert sm.load_layers(kind("~/saes")).source == str(home / "saes")


@pytest.mark.parametrize(
    "source", ["~/saes/layer_{layer}", "~/saes/layer_{layer}/*?layer=3-4", "~/saes?layer=3,4", "~/*/layer_*/params.npz"]
)
def test_addresses_of_a_home(home, source):
    assert list(sm.load_layers(source)) == [3, 4]
    assert sm.load_layers(source).source.startswith(str(home))


def test_a_home_that_is_the_source_itself(home):
    assert list(sm.load_layers("~?layer=3-4")) == list(sm.load_layers("~")) == [3, 4]


def test_lists_of_a_home(home, kind):
    (home / "list.yaml").write_text("3: ~/saes/layer_03\n4: '~/saes/layer_{layer}?layer=4'\n")
    assert list(sm.load_layers(kind("~/list.yaml"))) == [3, 4]


def test_the_home_of_a_user_by_name():
    me = pwd.getpwuid(os.getuid())
    assert local_path(f"~{me.pw_name}/x") == Path(me.pw_dir) / "x"
    for source in (f"~{me.pw_name}/x", Path(f"~{me.pw_name}/x"), f"~{me.pw_name}/x?width=16k"):
        assert Address.parse(source).where == f"{me.pw_dir}/x"


def test_a_name_that_begins_with_a_tilde_is_found_where_it_lies(tmp_path, monkeypatch):
    write_model(tmp_path / "~saes", layers=(3, 4))
    monkeypatch.chdir(tmp_path)
    assert list(sm.load_layers("~saes")) == list(sm.load_layers(Path("~saes"))) == [3, 4]


def test_files_of_a_run_in_a_home(home, kind):
    chain = sm.Chain.load(kind("~/run"))
    assert chain.folder == str(home / "run")
    assert sm.match_layers(sm.load_layers("~/saes"), kind("~/run")).complete
    chain[3, 4].save(kind("~/m.safetensors"))
    assert sm.Matching.load(kind("~/m.safetensors")).cost == chain[3, 4].cost
    assert read_permutation(kind("~/m.safetensors"))[0].tolist() == chain[3, 4].perm.tolist()
    np.save(home / "perm.npy", chain[3, 4].perm.numpy())
    assert read_permutation(kind("~/perm.npy"))[0].tolist() == chain[3, 4].perm.tolist()
    write_report(Contents(chain), kind("~/page.html"))
    assert export(chain, kind("~/x.csv"), "csv") == 12
    made_up().save(kind("~/saved"))
    assert sm.load("~/saved").F == 12
    assert {"m.safetensors", "page.html", "x.csv", "saved"} <= {path.name for path in home.iterdir()}


def test_files_of_an_evaluation_in_a_home(home, kind):
    (home / "texts.jsonl").write_text(json.dumps({"text": TEXT}))
    (home / "labels.jsonl").write_text(json.dumps({"layer": 3, "feature": 1, "explanation": TEXT}))
    (home / "grades.csv").write_text("source,target,feature,partner,grade\n3,4,1,2,SAME\n")
    (home / "acts").mkdir()
    np.save(home / "acts" / "layer_3.npy", np.zeros((4, 8), np.float32))
    assert Texts.read(kind("~/texts.jsonl")).documents == [TEXT]
    assert read_explanations(kind("~/labels.jsonl")) == {3: {1: TEXT}}
    assert list(read_grades(kind("~/grades.csv"))) == [(3, 4, 1, 2)]
    assert StoredActivations(kind("~/acts"), 2).documents.tolist() == [0, 0, 1, 1]
    found = evaluate(sm.Chain.load("~/run"), kind("~/evaluation"), distance=1)
    assert found.folder == str(home / "evaluation")
    assert (home / "evaluation" / "mse.csv").is_file()
    assert "mse" in Contents(sm.Chain.load("~/run"), evaluation=kind("~/evaluation")).summary()["evaluation"]


def test_commands_with_paths_of_a_home(home, capsys):
    (home / "labels.jsonl").write_text(json.dumps({"layer": 3, "feature": 1, "explanation": TEXT}))
    for command in (
        "info ~/saes",
        "layers ~/saes -o ~/other --log-json=~/log",
        "layers --against=~/saes ~/saes -o~/both --quiet",
        "path ~/run --layer 3 --feature 1",
        "match ~/saes/layer_03 ~/saes/layer_04 --output=~/m.safetensors",
        "verify ~/saes/layer_03 ~/saes/layer_04 ~/m.safetensors",
        "evaluate ~/run --out=~/evaluation --explanations=~/labels.jsonl --quiet",
        "report ~/run --labels=~/labels.jsonl --evaluation=~/evaluation --inputs=~/saes -o ~/page.html",
        "export ~/run --output=~/x.json --inputs=~/saes",
    ):
        assert main(command.split()) == 0, (command, capsys.readouterr())
    names = {path.name for path in home.iterdir()}
    assert {"other", "log", "both", "m.safetensors", "evaluation", "page.html", "x.json"} <= names
    assert f"Written to {home}/other/" in capsys.readouterr().out


def test_a_folder_that_is_called_tilde_is_not_the_home(tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    write_model(here / "~" / "saes", layers=(3, 4))
    (here / "~" / "labels.jsonl").write_text(json.dumps({"layer": 3, "feature": 1, "explanation": TEXT}))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert local_path("./~") == here / "~"
    assert local_path(local_path(".//~/x")) == here / "~" / "x"
    for command in (
        "demo -o ./~/demo",
        "layers ./~/saes -o ./~/run --log-json ./~/log",
        "path ./~/run --layer 3 --feature 1",
        "match ./~/saes/layer_03 ./~/saes/layer_04 -o ./~/m.safetensors",
        "verify ./~/saes/layer_03 ./~/saes/layer_04 ./~/m.safetensors",
        "evaluate ./~/run --explanations ./~/labels.jsonl --quiet",
        "report ./~/run --labels ./~/labels.jsonl --inputs ./~/saes",
        "export ./~/run -o ./~/x.csv",
    ):
        assert main(command.split()) == 0, (command, capsys.readouterr())
    made_up().save("./~/saved")
    write_report(Contents(sm.Chain.load("./~/run")), "./~/page.html")
    assert export(sm.Chain.load("./~/run"), "./~/y.csv", "csv") == 12
    assert not list(home.iterdir())
    assert [path.name for path in here.iterdir()] == ["~"]
    names = {path.name for path in (here / "~").iterdir()}
    assert {"demo", "run", "log", "m.safetensors", "x.csv", "saved", "page.html", "y.csv"} <= names
    assert {"evaluation", "report.html"} <= {path.name for path in (here / "~" / "run").iterdir()}


@pytest.mark.parametrize("name", [b"o\xff", b"\xe9t\xe9/run", b"a\xc3"])
def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path, monkeypatch, name, capsys):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    write_model(tmp_path / "saes", layers=(3, 4))
    for command in ("layers saes -o", "demo -o", "match saes/layer_03 saes/layer_04 -o", "path --layer 3 --feature 1"):
        try:
            code = main([*command.split(), name])
        except SystemExit as ended:
            code = ended.code
        assert code == 2
        assert "not valid UTF-8" in capsys.readouterr().err
    for use in (
        lambda: sm.match_layers(sm.load_layers("saes"), name),
        lambda: sm.Chain.load(name),
        lambda: made_up().save(Path(name)),
        lambda: sm.Matching.load(name),
    ):
        with pytest.raises(sm.MatchError, match="not valid UTF-8"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["saes"]


@pytest.mark.parametrize("given", ["", "a\0b", b"bytes", 3, None])
def test_what_names_no_file_is_refused(given):
    with pytest.raises(sm.MatchError, match="names no file or folder"):
        local_path(given)
    if given is not None:
        with pytest.raises(sm.MatchError, match="names no file or folder"):
            sm.match_layers({1: made_up(), 2: made_up()}, given)
    with pytest.raises(sm.MatchError):
        sm.load_layers(given)
