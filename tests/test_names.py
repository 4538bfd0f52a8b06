"""Runs of SAEs that are not layers, such as checkpoints: they are called by their names wherever a run is shown."""

import csv
import json
import re
import shutil
from xml.etree import ElementTree

import pyarrow.parquet
import pytest
import torch

import saematch as sm
from browser import findings_of_axe, needs_browser, page_at, rows_of
from saematch.analysis.export import export
from saematch.analysis.ranking import alike, lasting
from saematch.cli.main import main
from saematch.evaluation import evaluate
from saematch.evaluation.explanations import explanations_of
from saematch.report import Contents, Server
from saematch.sources import Names
from saes import made_up, write_npz
from test_cli import assert_refused, parsed, saematch

STEPS = ["step_1000", "step_200", "final"]
HOSTILE = ["<img src=x onerror=alert(1)>\"'&", "=1+1", "</script><b>bold</b>", "a{b|c}/../d", "x" * 200]
REFUSED = ["", "a;b", "a\nb", "\x1b[2J", "\u202eright to left", "\ud83d", "x" * 201]


@pytest.fixture(scope="module")
def saes():
    return {name: made_up(40, seed=seed) for seed, name in enumerate(STEPS)}


@pytest.fixture(scope="module")
def home(tmp_path_factory, saes):
    """Write three SAEs without layer numbers, labels of one, a list with their names, and a run of the list."""
    home = tmp_path_factory.mktemp("names")
    for name, sae in saes.items():
        write_npz(home / "saes" / name, sae)
    labels = {"features": [{"feature": 3, "tokens": ["May", "June"]}]}
    (home / "saes" / "step_200" / "labels.json").write_text(json.dumps(labels))
    (home / "saes.yaml").write_text("".join(f"{name}: saes/{name}\n" for name in STEPS))
    assert main(["layers", str(home / "saes.yaml"), "--axis", "step", "-o", str(home / "run"), "--quiet"]) == 0
    return home


@pytest.fixture
def run(home):
    return home / "run"


def test_names_keep_the_order_in_which_they_are_given(saes):
    chain = sm.match_layers(saes)
    assert list(chain.names.names) == STEPS
    assert (list(chain), chain.layers) == ([(0, 1), (1, 2)], [0, 1, 2])
    for a, b in (STEPS[:2], STEPS[1:]):
        assert (a, b) in chain
        assert torch.equal(chain[a, b].perm, sm.match(saes[a], saes[b]).perm)
    assert ("step_1000", "final") not in chain
    assert ("step_1000", "other") not in chain
    with pytest.raises(
        KeyError, match=r"no matching of \('step_1000', 'final'\); the pairs are \('step_1000', 'step_200"
    ):
        _ = chain["step_1000", "final"]


def test_every_method_takes_names(saes):
    chain = sm.match_layers(saes, axis="step")
    assert torch.equal(chain.compose("step_1000", "final").perm, chain.compose(0, 2).perm)
    assert torch.equal(chain.sae("final").W_enc, saes["final"].W_enc)
    path = chain.path("step_200", 5)
    assert path == chain.path(1, 5)
    assert [step.layer for step in path] == STEPS
    assert path[1].feature == 5
    labelled = chain.labelled({"step_200": {5: "names of months"}})
    assert labelled.label("step_200", 5) == labelled.path("step_200", 5)[1].label == "names of months"
    with pytest.raises(sm.MatchError, match="no SAE of this run is called 'step_300'; there are step_1000, step_200"):
        chain.path("step_300", 5)
    with pytest.raises(sm.MatchError, match="feature 40 is not in step_200, whose features are 0 to 39"):
        chain.path("step_200", 40)


def test_pairs_are_chosen_by_name(saes):
    assert list(sm.match_layers(saes, pairs=[("step_1000", "final")])) == [(0, 2)]
    assert list(sm.match_layers(saes, pairs="step_1000-final")) == [(0, 2)]
    assert list(sm.match_layers(saes, pairs="all")) == [(0, 1), (0, 2), (1, 2)]


def test_two_sets_are_matched_by_equal_names(saes):
    other = {name: made_up(40, seed=seed) for seed, name in enumerate(("new", "final", "step_1000"), 7)}
    chain = sm.match_layers(saes, against=other, axis="step")
    assert [chain.names.keys(pair) for pair in chain] == [("step_1000", "step_1000"), ("final", "final")]
    expected = sm.match(saes["final"], other["final"])
    assert torch.equal(chain["final", "final"].perm, expected.perm)
    with pytest.raises(sm.MatchError, match="one set of SAEs has names and the other has layer numbers"):
        sm.match_layers(saes, against={1: made_up(40)})


def test_numbers_on_another_axis_are_called_by_it(saes):
    chain = sm.match_layers({1000: saes["step_200"], 500: saes["final"]}, axis="step")
    assert list(chain) == [(500, 1000)]
    assert chain.path(500, 0)[0].layer == 500
    with pytest.raises(sm.MatchError, match="step 8 is not in this run, whose SAEs are 500, 1000"):
        chain.path(8, 0)
    assert list(sm.match_layers({"1000": saes["step_200"], "500": saes["final"]})) == [(500, 1000)]


def test_a_run_keeps_its_names(home, run, saes):
    record = json.loads((run / "run.json").read_text())
    assert (record["names"], record["axis"]) == (STEPS, "step")
    assert record["source"] == {name: str(home / "saes" / name / "params.npz") for name in STEPS}
    assert sorted(path.name for path in (run / "pairs").glob("*.json")) == ["0-1.json", "1-2.json"]
    chain = sm.Chain.load(run)
    assert chain.names == Names(tuple(STEPS), "step")
    assert chain.label("step_200", 3) == "May, June"
    assert torch.equal(chain.sae("final").W_enc, saes["final"].W_enc.float())
    given = sm.Chain.load(run, sm.load_layers({name: home / "saes" / name for name in reversed(STEPS)}))
    assert torch.equal(given.sae("final").W_enc, chain.sae("final").W_enc)
    with pytest.raises(sm.MatchError, match="the SAEs of this run have names, and these have layer numbers"):
        sm.Chain.load(run, {0: saes["final"]})
    with pytest.raises(sm.MatchError, match="the SAE of step_1000 is needed"):
        sm.Chain.load(run, {"final": saes["final"]}).sae("step_1000")


def test_the_notes_of_a_named_sae_do_not_speak_of_layers(tmp_path):
    write_npz(tmp_path / "layer_8", made_up())
    assert sm.load_layers({"early": tmp_path / "layer_8"})["early"].notes == sm.load(tmp_path / "layer_8").notes


def test_a_run_resumes_under_the_same_names_only(home, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "pairs" / "1-2.json").unlink()
    before = (run / "pairs" / "1-2.safetensors").read_bytes()
    events = []
    layers = sm.load_layers(home / "saes.yaml")
    sm.match_layers(layers, tmp_path / "run", axis="step", progress=events.append)
    assert [event.names.keys(event.pair) for event in events if event.stage == "done"] == [("step_200", "final")]
    assert (tmp_path / "run" / "pairs" / "1-2.safetensors").read_bytes() == before
    with pytest.raises(sm.MatchError, match='axis was "step", is "SAE"'):
        sm.match_layers(layers, tmp_path / "run")
    renamed = sm.load_layers({name.upper(): home / "saes" / name for name in STEPS})
    with pytest.raises(sm.MatchError, match=r'names were \["step_1000", .* are \["STEP_1000", '):
        sm.match_layers(renamed, tmp_path / "run", axis="step")
    numbered = sm.load_layers({at: home / "saes" / name for at, name in enumerate(STEPS)})
    with pytest.raises(sm.MatchError, match=r"names were .*, are \[\]; axis was \"step\", is \"layer\""):
        sm.match_layers(numbered, tmp_path / "run")


def test_an_sae_that_has_changed_is_called_by_its_name(home, run, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    write_npz(tmp_path / "home" / "saes" / "step_200", made_up(40, seed=9))
    moved = sm.load_layers(tmp_path / "home" / "saes.yaml")
    with pytest.raises(sm.MatchError, match=r"the SAE of step_200 .* has changed since pair step_1000-step_200 was"):
        sm.match_layers(moved, tmp_path / "home" / "run", axis="step")
    with pytest.raises(sm.MatchError, match="the SAE of step_200 has changed since the run"):
        sm.Chain.load(run, moved).sae("step_200")


def test_a_pair_that_fails_is_called_by_its_names(saes):
    with pytest.warns(UserWarning, match=r"1 of 2 pairs have no matching, see .failures; \('step_200', 'final'\)"):
        chain = sm.match_layers({**saes, "final": made_up(40, W_enc=torch.full((8, 40), torch.nan))})
    with pytest.raises(sm.MatchError, match="step_200 and final have no matching: "):
        _ = chain["step_200", "final"]


def test_rankings_and_tables_speak_of_names(run):
    chain = sm.Chain.load(run)
    best = alike(chain, 1)[0]
    assert (best.layer, best.target) in (("step_1000", "step_200"), ("step_200", "final"))
    assert {(one.layer, one.last) for one in lasting(chain, 40, -1.0)} == {("step_1000", "final")}
    frame = chain.to_pandas()
    assert list(dict.fromkeys(zip(frame["source"], frame["target"], strict=True))) == [
        ("step_1000", "step_200"),
        ("step_200", "final"),
    ]
    assert repr(chain).startswith("Chain(2 of 2 pairs of 3 SAEs matched")
    assert "<td>step_1000</td><td>step_200</td>" in chain._repr_html_()
    layers = chain.inputs()
    assert "'step_1000', 'step_200', 'final'" in repr(layers)
    assert "<th>name</th>" in layers._repr_html_()
    assert "step_200" in layers
    assert layers["step_200"].F == 40


def test_exports_have_the_names(run, tmp_path):
    chain = sm.Chain.load(run)
    for kind in ("csv", "parquet", "json", "graphml"):
        export(chain, tmp_path / f"x.{kind}", kind)
    expected = [("step_1000", "step_200")] * 40 + [("step_200", "final")] * 40
    with (tmp_path / "x.csv").open(newline="") as file:
        assert [(row["source"], row["target"]) for row in csv.DictReader(file)] == expected
    columns = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert list(zip(columns["source"], columns["target"], strict=True)) == expected
    content = json.loads((tmp_path / "x.json").read_text())
    assert [(pair["source"], pair["target"]) for pair in content["pairs"]] == [expected[0], expected[40]]
    assert content["run"]["names"] == STEPS
    assert set(content["inputs"]) == {"source step_1000", "target step_200", "source step_200", "target final"}
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(tmp_path / "x.graphml").getroot()
    nodes = [node.findtext("g:data[@key='layer']", None, space) for node in root.findall(".//g:node", space)]
    assert {name: nodes.count(name) for name in nodes} == dict.fromkeys(STEPS, 40)
    assert root.find("g:key[@id='layer']", space).get("attr.type") == "string"


def test_commands_speak_of_names(home, run):
    shown = saematch("show", run)
    assert shown.returncode == 0
    assert "2 of 2 pairs of SAEs of a list (" in shown.stdout
    assert re.search(r"^SAEs +matched", shown.stdout, re.MULTILINE)
    assert re.search(r"^step_1000 -> step_200 +40 ", shown.stdout, re.MULTILINE)
    assert "layer" not in shown.stdout
    content = parsed(saematch("show", run, "--json"))
    assert content["layers"] == STEPS
    assert [(pair["source"], pair["target"]) for pair in content["pairs"]] == [tuple(STEPS[:2]), tuple(STEPS[1:])]
    path = saematch("path", run, "--sae", "step_200", "--feature", 3).stdout
    assert path.startswith("step ")
    assert re.search(r"^step_200 \* +3 .*May, June$", path, re.MULTILINE)
    assert parsed(saematch("path", run, "--layer", "final", "--feature", 3, "--json"))["layer"] == "final"
    top = saematch("top", run, "--cosine", -1).stdout
    assert "step_1000 -> final" in top
    assert f"saematch path {run} --sae step_1000 --feature" in top
    assert_refused(saematch("path", run, "--layer", 0, "--feature", 3), "no SAE of this run is called '0'")
    again = saematch("layers", home / "saes.yaml", "--axis", "step", "-o", run)
    assert "2 pairs of SAEs, finished before." in again.stdout


def test_the_command_line_names_saes(home, tmp_path):
    sources = [home / "saes" / name for name in STEPS]
    done = saematch("layers", *sources, "--axis", "step", "-o", tmp_path / "run", "--log-json", tmp_path / "log")
    assert done.returncode == 0
    assert re.search(r"^step_1000 -> step_200 +40 ", done.stdout, re.MULTILINE)
    assert sm.Chain.load(tmp_path / "run").names == Names(tuple(STEPS), "step")
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {event["source"] for event in events if "source" in event} == set(STEPS[:2])
    dry = saematch("layers", *sources, "--names", "a,b,c", "--dry-run", "--pairs", "a-c")
    assert "1 pair: a-c" in dry.stdout
    assert re.search(r"^SAE +F .*\n-+ .*\na +40 ", dry.stdout, re.MULTILINE)
    planned = parsed(saematch("layers", *sources, "--names", "a,b,c", "--dry-run", "--json"))
    assert planned["pairs"] == [["a", "b"], ["b", "c"]]
    assert [row["layer"] for row in planned["sets"][0]["layers"]] == ["a", "b", "c"]
    found = parsed(saematch("layers", home / "saes" / "*", "--axis", "step", "--dry-run", "--json"))
    assert found["pairs"] == [["final", "step_200"], ["step_200", "step_1000"]]
    found = parsed(saematch("layers", home / "saes" / "step_{layer}", "--axis", "step", "--dry-run", "--json"))
    assert found["pairs"] == [[200, 1000]]
    assert_refused(saematch("layers", *sources, "--names", "a,b", "-o", "x"), "--names has 2 names for 3 SAEs")
    assert_refused(saematch("layers", home / "saes", "-o", "x"), "no layer number in its path")


def test_a_failure_names_its_saes_on_every_output(home, tmp_path):
    shutil.copytree(home / "saes", tmp_path / "saes")
    write_npz(tmp_path / "saes" / "final", made_up(40), W_enc=torch.full((8, 40), torch.nan).numpy())
    asked = ("layers", *(tmp_path / "saes" / name for name in STEPS), "-o", tmp_path / "run")
    assert "no matching of step_200 and final: " in saematch(*asked).stdout
    assert "no matching of step_200 and final: " in saematch(*asked, "--quiet").stderr
    (failure,) = parsed(saematch(*asked, "--json"), 3)["failures"]
    assert (failure["source"], failure["target"]) == ("step_200", "final")
    assert "no matching of step_200 and final: " in saematch("show", tmp_path / "run").stdout


def test_what_needs_layers_says_so(run, tmp_path):
    chain = sm.Chain.load(run)
    with pytest.raises(sm.MatchError, match="an evaluation is of the layers of a model, and this run is of SAEs that"):
        evaluate(chain, tmp_path / "out")
    with pytest.raises(
        sm.MatchError, match="explanations in files are for layers, and the SAEs of this run have names"
    ):
        explanations_of(chain, tmp_path / "labels.jsonl")
    with pytest.raises(sm.MatchError, match="neuronpedia is for layers"):
        Contents(chain, neuronpedia="gemma-2-2b/{layer}-x")


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_names_that_no_table_can_hold_are_refused(name, saes):
    for ask in (
        lambda: sm.match_layers({name: saes["final"], "b": saes["step_200"]}),
        lambda: sm.load_layers({name: "sample?layer=8", "b": "sample?layer=9"}),
        lambda: sm.consistency({name: saes["final"], "b": saes["step_200"]}),
        lambda: sm.match_layers(saes, axis=name),
    ):
        with pytest.raises(
            sm.MatchError, match=r"cannot be a name: choose one of 1 to 200 letters|axis is "
        ) as refused:
            ask()
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a", "b"]}, {"names": ["a", "a", "b"]}, {"names": ["a", "b", "\x1b"]}, {"names": [1, 2, 3]},
        {"names": "abc"}, {"names": None}, {"axis": 7}, {"axis": "\x1b[2J"}, {"axis": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_with_other_names_is_refused(run, change, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | change))
    assert_refused(saematch("show", tmp_path / "run"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = tmp_path_factory.mktemp("hostile") / "run"
    sm.match_layers({name: made_up(12, seed=seed) for seed, name in enumerate(HOSTILE)}, run, axis="<b>axis</b>")
    return run


def test_hostile_names_are_text_everywhere(hostile, tmp_path):
    chain = sm.Chain.load(hostile)
    assert list(chain.names.names) == HOSTILE
    assert "<img" not in chain._repr_html_()
    export(chain, tmp_path / "x.csv", "csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(dict.fromkeys(row["source"] for row in csv.DictReader(file))) == HOSTILE[:-1]
    export(chain, tmp_path / "x.graphml", "graphml")
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    nodes = ElementTree.parse(tmp_path / "x.graphml").getroot().findall(".//g:node", space)
    assert {node.findtext("g:data[@key='layer']", None, space) for node in nodes} == set(HOSTILE)
    assert saematch("path", hostile, "--sae", HOSTILE[0], "--feature", 0).returncode == 0


@needs_browser
def test_the_page_speaks_of_names(opened, run, tmp_path):
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    chain = sm.Chain.load(run)
    address = (tmp_path / "page.html").as_uri()
    with page_at(opened, address) as page:
        assert [row[0] for row in rows_of(page, "#pairs")] == ["step_1000 → step_200", "step_200 → final"]
        assert [row[0] for row in rows_of(page, "#inputs")] == STEPS
        assert page.inner_text("#inputs th") == "step"
        assert (page.inner_text("#pairs-title"), page.inner_text("#inputs-title")) == ("Pairs of SAEs", "SAEs")
    with page_at(opened, f"{address}#view=explorer&pair=1-2&layer=1&feature=3&chosen=1:3") as page:
        page.wait_for_selector("#flow svg")
        assert page.inner_text("#feature-title") == "step_200, feature 3"
        path = [(cells[0], int(cells[1])) for cells in rows_of(page, "#feature")]
        assert path == [(step.layer, step.feature) for step in chain.path("step_200", 3)]
        assert "The path has 3 of 3 SAEs: from the first SAE of the run, to the last SAE." in page.inner_text(
            "#feature"
        )
        assert rows_of(page, "#table")[0][0] == "step_200 / 0"
        assert findings_of_axe(page) == []
        for view in ("overview", "pictures", "explorer"):
            page.goto(f"{address}#view={view}")
            assert "layer" not in page.inner_text("main").lower().replace("saematch layers", "")


@needs_browser
def test_hostile_names_are_text_in_the_page(opened, hostile, tmp_path):
    assert main(["report", str(hostile), "-o", str(tmp_path / "page.html")]) == 0
    with page_at(opened, f"{(tmp_path / 'page.html').as_uri()}#view=explorer&layer=0&feature=3&chosen=0:3") as page:
        page.wait_for_selector("#flow svg")
        assert [cells[0] for cells in rows_of(page, "#feature")] == HOSTILE
        page.goto(f"{page.url.split('#')[0]}#view=overview")
        assert [row[0] for row in rows_of(page, "#inputs")] == HOSTILE
        assert page.query_selector_all("main img, main b") == []


def test_a_served_page_finds_the_paths_of_named_saes(run):
    chain = sm.Chain.load(run)
    with Server(Contents(chain)) as server:
        path = server.path(1, 3)
    assert [step["layer"] for step in path] == [0, 1, 2]
    assert [step["feature"] for step in path] == [step.feature for step in chain.path("step_200", 3)]
