"""Explanations as Neuronpedia exports them: the folder that a sync leaves, and the SAEs that are explained."""

import gzip
import json
import os
import re
from types import SimpleNamespace

import pytest

import saematch as sm
from saematch.cli.main import main
from saematch.evaluation import evaluate, explanations, read_explanations
from saematch.report.contents import Contents
from saes import made_up, write_model


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def explained(layer, kind="res", count=12, model="demo"):
    """Return the lines of an export for the features of one source."""
    source = f"{layer}-{kind}-16k"
    return [{"modelId": model, "layer": source, "index": str(i), "description": f"{kind} {i}"} for i in range(count)]


def export(root, layer, kind="res", model="demo"):
    """Write all files of an export of a source."""
    at = root / model / f"{layer}-{kind}-16k"
    write(at / "explanations/batch-0.jsonl.gz", explained(layer, kind, model=model))
    write(at / "features/batch-0.jsonl.gz", [{"layer": f"{layer}-{kind}-16k", "index": "0", "maxActApprox": 1.0}])
    write(at / "activations/batch-0.jsonl.gz", [{"index": "0", "tokens": ["x" * 600_000] * 2}])
    for name in ("model", "release", "source", "sourceset"):
        write(at / f"{name}.jsonl", [{"id": model}])
    return at


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a run of layers 3 and 4 with 12 features each."""
    home = tmp_path_factory.mktemp("explanations")
    sm.match_layers(sm.load_layers(write_model(home / "model", layers=(3, 4))), home / "run")
    return home / "run"


def report(run, labels, *options):
    page = ["-o", str(run.parent / "page.html"), "--overwrite"]
    return main(["report", str(run), *page, "--labels", str(labels), *options])


def test_what_a_sync_leaves_is_read(tmp_path, run, capsys):
    at, _ = (export(tmp_path / "v1", layer) for layer in (3, 4))
    write(tmp_path / "v1" / "config" / "types.jsonl", [{"name": "np_max-act", "description": "how"}])
    expected = {i: f"res {i}" for i in range(12)}
    for root in (tmp_path / "v1", tmp_path / "v1" / "demo"):
        assert read_explanations(root) == {3: expected, 4: expected}
    for root in (at, at / "explanations", at / "explanations" / "batch-0.jsonl.gz"):
        assert read_explanations(root) == {3: expected}
    assert report(run, tmp_path / "v1") == 0
    said = capsys.readouterr().err
    assert "explanations are of demo/3-res-16k, demo/4-res-16k" in said
    assert "files skipped, because none of their lines is an explanation: 13" in said
    assert Contents(sm.Chain.load(run), labels=read_explanations(tmp_path / "v1")).labels(3) == expected


def test_another_model_may_have_explained_the_same_features(tmp_path):
    at = export(tmp_path, 3)
    other = [{**row, "description": "by another"} for row in explained(3, count=20)]
    write(at / "explanations-gpt-4o-mini" / "batch-0.jsonl.gz", other)
    found = read_explanations(tmp_path)[3]
    assert (found[11], found[19]) == ("res 11", "by another")
    assert set(read_explanations(at / "explanations-gpt-4o-mini")[3].values()) == {"by another"}


def test_no_folder_above_is_taken_for_one_of_explanations(tmp_path):
    home = tmp_path / "explanations-study" / "mine"
    write(home / "a.jsonl", explained(3))
    write(home / "deep" / "explanations" / "b.jsonl", explained(4))
    assert sorted(read_explanations(home)) == [3, 4]


def test_files_without_explanations_are_passed_over_and_half_ones_are_not(tmp_path, run, capsys):
    write(tmp_path / "all" / "features.jsonl", [{"layer": "3-res-16k", "index": "0"}, {"tokens": ["x" * 600_000] * 2}])
    write(tmp_path / "all" / "labels.jsonl", explained(3))
    assert len(read_explanations(tmp_path / "all")[3]) == 12
    assert report(run, tmp_path / "all") == 0
    assert "files skipped, because none of their lines is an explanation: 1" in capsys.readouterr().err
    write(tmp_path / "all" / "labels.jsonl", [*explained(3), {"layer": "3-res-16k", "index": "0"}])
    with pytest.raises(sm.MatchError, match=r"labels\.jsonl, line 13: expected"):
        read_explanations(tmp_path / "all")
    (tmp_path / "all" / "labels.jsonl").unlink()
    with pytest.raises(sm.MatchError, match=r"no explanations there \(files without one: 1\)"):
        read_explanations(tmp_path / "all")
    write(tmp_path / "export" / "3-res-16k" / "explanations" / "batch-0.jsonl.gz", [{"index": "0"}])
    with pytest.raises(sm.MatchError, match=r"batch-0\.jsonl\.gz, line 1: expected"):
        read_explanations(tmp_path / "export")


@pytest.mark.parametrize(
    "row",
    [
        {"layer": 3.5, "feature": 1},
        {"layer": 3, "feature": 1.5},
        {"layer": 3, "feature": -1},
        {"layer": "3_0", "feature": 1},
        {"layer": True, "feature": 1},
        {"layer": 3, "feature": True},
        {"layer": "res-3", "feature": 1},
    ],
)
def test_what_is_no_number_of_a_layer_or_feature_is_refused(tmp_path, row):
    write(tmp_path / "own.jsonl", [{**row, "explanation": "x"}])
    with pytest.raises(sm.MatchError, match=r"own\.jsonl, line 1: expected"):
        read_explanations(tmp_path / "own.jsonl")


def test_a_path_that_is_not_there_is_said_to_be_so(tmp_path, run, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for given, words in {
        "nowhere": "no such file or folder",
        "nowhere/in.jsonl": "no such file or folder",
        "pipe": "neither a regular file nor a folder",
        "loop": "cannot be read (",
        "x" * 300: "cannot be read (",
        "pipe/in.jsonl": "cannot be read (Not a directory)",
    }.items():
        assert report(run, tmp_path / given) == 2
        assert f"{given}: {words}" in capsys.readouterr().err
        assert main(["evaluate", str(run), "-o", str(tmp_path / "out"), "--explanations", str(tmp_path / given)]) == 2
        assert f"{given}: {words}" in capsys.readouterr().err
    nowhere = str(tmp_path / "nowhere")
    for arguments, words in (
        (["report", str(run), "-o", str(tmp_path / "page.html"), "--evaluation", nowhere], "no such folder"),
        (["path", nowhere, "--layer", "3", "--feature", "1"], "not a run of saematch: there is no such folder"),
    ):
        assert main(arguments) == 2
        assert f"nowhere: {words}" in capsys.readouterr().err


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "batch-0.jsonl.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(sm.MatchError, match=r"batch-0\.jsonl\.gz: is not the file but a pointer of Git LFS"):
        read_explanations(tmp_path)


TWO = {
    "sites": [explained(3, "att"), explained(3, "res")], "widths": [explained(3, "res"), explained(3, "res-65k")],
    "models": [explained(3), explained(3, model="other")],
    "one file": [[*explained(3, "mlp"), *explained(3, "res")]],
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("exported", [True, False])
def test_two_sources_of_a_layer_are_refused_unless_one_is_chosen(tmp_path, run, capsys, name, exported):
    for number, rows in enumerate(TWO[name]):
        write(tmp_path / "labels" / f"{number}{'/explanations' if exported else ''}/x.jsonl", rows)
    assert report(run, tmp_path / "labels") == 2
    said = capsys.readouterr().err
    assert "explanations of 2 sources for layer 3: " in said
    advice = said.partition("--neuronpedia '")[2].partition("'")[0]
    assert "{layer}" in advice
    assert report(run, tmp_path / "labels", "--neuronpedia", advice) == 0
    chosen = advice.replace("{layer}", "3")
    assert f"explanations are of {chosen}\n" in capsys.readouterr().err
    text = next(
        row["description"] for rows in TWO[name] for row in rows if f"{row['modelId']}/{row['layer']}" == chosen
    )
    assert read_explanations(tmp_path / "labels", advice)[3][0] == text
    if name != "models":
        assert read_explanations(tmp_path / "labels", advice.partition("/")[2])[3][0] == text
    with pytest.raises(sm.MatchError, match=r"are of .*, and demo/\{layer\}-clt-hp is asked for; to use them"):
        read_explanations(tmp_path / "labels", "demo/{layer}-clt-hp")


def test_a_layer_without_the_chosen_source_has_no_labels(tmp_path, run, capsys):
    write(tmp_path / "labels" / "a.jsonl", [*explained(3), *explained(4), *explained(4, "wide")])
    for source in ("demo/{layer}-wide-16k", "{layer}-wide-16k", "4-wide-16k"):
        assert read_explanations(tmp_path / "labels", source) == {4: {i: f"wide {i}" for i in range(12)}}
        assert report(run, tmp_path / "labels", "--neuronpedia", source) == 0
        assert capsys.readouterr().err.count("explanations are of demo/4-wide-16k\n") == 1
    write(tmp_path / "labels" / "own.jsonl", [{"layer": 3, "feature": 0, "explanation": "mine"}])
    assert read_explanations(tmp_path / "labels", "{layer}-wide-16k")[3] == {0: "mine"}


def test_lines_of_ones_own_go_with_any_source(tmp_path):
    write(tmp_path / "own.jsonl", [{"layer": 3, "feature": 0, "explanation": "mine"}])
    write(tmp_path / "theirs.jsonl", explained(3))
    found = read_explanations(tmp_path)[3]
    assert (found[0], found[1]) == ("mine", "res 1")


def test_layers_that_the_run_does_not_have_do_not_matter(tmp_path, run):
    write(
        tmp_path / "labels" / "a.jsonl", [*explained(3), *explained(9, "att"), *explained(9), *explained(8, count=99)]
    )
    assert report(run, tmp_path / "labels") == 0
    write(tmp_path / "labels" / "a.jsonl", explained(9))
    with pytest.raises(sm.MatchError, match="explanations for layers 9, none of which the run has"):
        explanations.explanations_of(sm.Chain.load(run), tmp_path / "labels")


def test_what_sae_lens_knows_of_the_saes_chooses_and_refuses(tmp_path, run, monkeypatch):
    """Only the registry is made up; the run, the files and the code that reads them are real."""
    found = [SimpleNamespace(path="layer_03", neuronpedia=name) for name in ("demo/3-res-16k", "demo/3-res-16k__l0-9")]
    monkeypatch.setattr("saematch.sources.registry.find_spec", lambda _: True)
    monkeypatch.setattr("saematch.sources.registry._table", lambda: {"it": {"repo_id": "model"}})
    monkeypatch.setattr("saematch.sources.registry.release", lambda _: ("model", found))
    write(tmp_path / "labels" / "a.jsonl", explained(3, "att"))
    with pytest.raises(
        sm.MatchError, match=r"are of demo/3-att-16k, and its SAE is demo/3-res-16k, demo/3-res-16k__l0-9"
    ):
        explanations.explanations_of(sm.Chain.load(run), tmp_path / "labels")
    named = explanations.explanations_of(sm.Chain.load(run), tmp_path / "labels", "demo/{layer}-att-16k")
    assert named.sources == {3: "demo/3-att-16k"}
    write(tmp_path / "labels" / "b.jsonl", explained(3))
    chosen = explanations.explanations_of(sm.Chain.load(run), tmp_path / "labels")
    assert chosen.sources == {3: "demo/3-res-16k"}


@pytest.mark.parametrize("count", [13, 16_384])
def test_explanations_of_features_that_the_sae_does_not_have_are_refused(tmp_path, run, capsys, count):
    write(tmp_path / "labels" / "a.jsonl", explained(3, count=count))
    assert report(run, tmp_path / "labels") == 2
    message = rf"of {count} explanations for layer 3, {count - 12} are of features .* feature 12 of 12"
    assert re.search(message, capsys.readouterr().err)
    chain = sm.Chain.load(run)
    for labels in (read_explanations(tmp_path / "labels"), {4: {0: "x"}, 3: dict.fromkeys(range(count), "x")}):
        with pytest.raises(sm.MatchError, match=message):
            Contents(chain, labels=labels)
    with pytest.raises(sm.MatchError, match=message):
        evaluate(chain, tmp_path / "out", explanations=read_explanations(tmp_path / "labels"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(sm.MatchError, match="of layers 7, and the run has none of them"):
        Contents(chain, labels={7: {0: "x"}})


def test_a_chain_in_memory_knows_its_features_too():
    saes = {layer: made_up(F, seed=layer) for layer, F in ((3, 12), (4, 9), (5, 12))}
    assert explanations.features_of(sm.match_layers(saes)) == {3: 12, 4: 9, 5: 12}
    assert explanations.features_of(sm.match_layers(saes, against={3: saes[4], 4: saes[4], 5: saes[3]})) == {
        3: 12,
        4: 9,
        5: 12,
    }


def test_evaluate_says_whose_explanations_it_reads(tmp_path, run, capsys):
    write(tmp_path / "labels" / "a.jsonl", [*explained(3), *explained(4), *explained(4, "att\x1b[2J")])
    command = ["evaluate", str(run), "-o", str(tmp_path / "out"), "--explanations", str(tmp_path / "labels")]
    assert main(command) == 2
    assert "explanations of 2 sources for layer 4" in capsys.readouterr().err
    assert main([*command, "--neuronpedia", "demo/{layer}-res-16k", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("explanations are of demo/3-res-16k, demo/4-res-16k\n")
    assert json.loads(shown.out)["summary"][0]["meaning"] is not None
    write(tmp_path / "labels" / "a.jsonl", [*explained(3), *explained(4, "att\x1b[2J")])
    assert report(run, tmp_path / "labels") == 0
    assert "\x1b" not in capsys.readouterr().err


def test_labels_of_features_that_the_sae_does_not_have_are_left_out_with_a_warning(tmp_path, caplog):
    saes = write_model(tmp_path, layers=(3, 4))
    rows = [{"feature": feature, "tokens": ["a"]} for feature in (-1, 0, 11, 12, 3_000_000_000)]
    (saes / "layer_03" / "labels.json").write_text(json.dumps({"features": rows}))
    assert sm.load_layers(saes).handles[3].labels == {0: "a", 11: "a"}
    assert "3 of 5 labels are of features that the SAE does not have, the first of feature -1 of 12" in caplog.text
