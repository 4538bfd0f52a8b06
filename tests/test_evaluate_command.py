"""The command `saematch evaluate`: tables, figures, missing results, bad input."""

import json
import re
import shutil
from importlib.util import find_spec

import numpy as np
import pytest

import saematch as sm
from endpoint import Endpoint
from language_models import WIDTH, documents, write_language_model
from planted import World
from saematch.cli.main import main
from saematch.evaluation import StoredActivations, evaluate
from saematch.evaluation.figures import draw_all
from saematch.evaluation.figures.draw import _figures
from saematch.evaluation.figures.panels import FigureSkipped, line_style
from saes import made_up, write_npz

FIGURES = {
    "layers", "mse", "mse_histogram", "mse_by_grade", "meaning", "distances", "explained_variance", "delta_loss",
    "substitution", "ablation", "parts", "folds", "gates", "l0", "persistence", "paths",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write three layers with hostile labels, their run, and a language model of the same width with texts."""
    home = tmp_path_factory.mktemp("home")
    for layer in (0, 1, 2):
        folder = write_npz(home / "saes" / f"layer_{layer}", made_up(24, WIDTH, seed=layer))
        features = [{"feature": i, "tokens": ["$x^2", "<script>\x1b[31m", f"w{i}"]} for i in range(20)]
        (folder / "labels.json").write_text(json.dumps({"features": features}))
    sm.match_layers(sm.load_layers(home / "saes"), home / "run")
    write_language_model(home / "model")
    (home / "texts.txt").write_text("\n\n".join(documents()))
    return home


@pytest.fixture
def undrawn(monkeypatch):
    """Draw no figures, as where matplotlib is not installed: they take most of the time of the command."""
    without = lambda name: None if name == "matplotlib" else find_spec(name)
    monkeypatch.setattr("saematch.cli.evaluate.find_spec", without)


def test_everything_at_once_and_again(run, capsys):
    command = ["evaluate", str(run / "run"), "--model", str(run / "model"), "--texts", str(run / "texts.txt")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "layers" in shown.splitlines()[0]
    assert {"0 -> 1", "1 -> 2"} <= {line[:6] for line in shown.splitlines()}
    assert "not there, since no evaluation of SAEs with another L0 was given (--compare): figure l0" in shown
    assert shown.index("Written to") < shown.index("not there")
    assert "was not measured" not in shown  # the table is named already
    assert re.search(r"^0 -> 1( +[0-9.e-]+)+ +[0-9.]+% ", shown, re.MULTILINE)
    for name in shown.splitlines()[0].split("  ")[1:]:  # every column is explained below the table
        assert f"{name.strip()}: " in " ".join(shown.split())
    out = run / "run" / "evaluation"
    drawn = {path.stem for path in (out / "figures").glob("*.png")}
    assert drawn == {path.stem for path in (out / "figures").glob("*.svg")} == FIGURES - {"l0"}
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    assert main([*command, "--json", "--compare", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == before
    assert f"{said['tables'][0]}.csv" in before
    assert said["summary"][0]["layers"] == "0 -> 1"
    assert (out / "figures" / "l0.png").is_file()
    assert b"<script>\x1b" not in (out / "figures" / "paths.svg").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_log_says_what_is_measured_and_how_long_it_will_take(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("saematch.cli.terminal._PAUSES", (0.01,))
    command = ["evaluate", str(run / "run"), "-o", str(tmp_path / "out")]
    assert main([*command, "--model", str(run / "model"), "--texts", str(run / "texts.txt")]) == 0
    lines = capsys.readouterr().err.splitlines()
    cost = re.escape(
        "23 measurements of 2 pairs of layers; in the language model, for each pair: substitution, at most 70 forward "
        "passes over half of 130 tokens, and ablation of 200 features. All of this takes about "
    )
    assert any(re.fullmatch(rf"{cost}\d.*\.", line) for line in lines[:-1])
    steps = [re.fullmatch(r"(\d+) of (\d+): (.*) \((\d.*) so far(?:, about (\d.*) left)?\)", line) for line in lines]
    steps = [step for step in steps if step]
    numbers = [int(step[1]) for step in steps]
    assert numbers == sorted(numbers)
    assert {step[2] for step in steps} == {steps[-1][1]}  # as many as were announced
    assert any(step[3] == "activations of layers 0 and 1" for step in steps)
    assert steps[-1][5]
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_every_column_is_explained(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--explain"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in ("mse.csv: ", "nearest_cosine", "EV own", "delta_loss.csv: ", "number of the source layer"):
        assert word in shown


@pytest.mark.usefixtures("undrawn")
def test_a_judge_that_refuses_ends_with_3_and_says_why(run, capsys, tmp_path):
    given = ["evaluate", str(run / "run"), "-o", str(tmp_path / "out"), "--judge-model", "m", "--judged", "3"]
    with Endpoint(lambda _: (403, "not today")) as endpoint:
        assert main([*given, "--judge", endpoint.address]) == 3
    shown = capsys.readouterr().out
    assert "not today" in shown
    assert "The same command resumes the evaluation" in shown
    with Endpoint(lambda _: "SAME") as endpoint:
        assert main([*given, "--judge", endpoint.address, "--quiet"]) == 0
        assert len(endpoint.asked) <= 12
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--model", "{run}/model"], "--model needs --texts"),
        (["--texts", "{run}/texts.txt"], "--texts is of no use without --model"),
        (["--document-length", "9"], "--document-length is of no use without --activations"),
        (["--judge", "http://127.0.0.1:9"], "--judge needs --judge-model"),
        (["--activations", "{run}/nowhere"], "no such folder"),
        (["--model", "x", "--activations", "y"], "not allowed with argument"),
        (["--human", "{run}/texts.txt"], "no grades can be read"),
        (["--explanations", "{run}/texts.txt"], "not lines of JSON"),
        (["--inputs", "{run}/model"], "no SAE in a known format"),
        (["--compare", "{run}/model"], "explained_variance.csv: cannot be read"),
        (["--device", "abacus"], "abacus"),
        (["--hook", "hook_z", "--model", "{run}/model", "--texts", "{run}/texts.txt"], "is not on the residual stream"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, capsys, tmp_path, arguments, match):
    given = [argument.format(run=run) for argument in arguments]
    try:
        code = main(["evaluate", str(run / "run"), "-o", str(tmp_path / "out"), *given])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "not a run of saematch" in capsys.readouterr().err
    assert main(["evaluate", "memory://somewhere"]) == 2


def test_without_matplotlib_or_pyarrow_there_are_tables_all_the_same(run, capsys, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr("saematch.analysis.tables.find_spec", lambda _: None)
    assert main(["evaluate", str(run / "run"), "-o", str(tmp_path)]) == 0
    assert "matplotlib is not installed: pip install 'saematch[evaluate]'" in capsys.readouterr().out
    assert (tmp_path / "mse.csv").is_file()
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.usefixtures("undrawn")
def test_saes_that_were_moved_are_given(run, tmp_path, capsys):
    moved = shutil.copytree(run / "saes", tmp_path / "moved")
    assert main(["evaluate", str(run / "run"), "-o", str(tmp_path / "out"), "--inputs", str(moved), "--quiet"]) == 0
    (moved / "layer_1" / "params.npz").write_bytes((moved / "layer_2" / "params.npz").read_bytes())
    assert main(["evaluate", str(run / "run"), "-o", str(tmp_path / "new"), "--inputs", str(moved), "--quiet"]) == 2
    assert "has changed" in capsys.readouterr().err


def test_figures_of_a_world_without_labels(tmp_path):
    world = World()
    chain = sm.match_layers({0: world.a, 1: world.b})
    source = StoredActivations(world.write_activations(tmp_path / "activations"))
    left = draw_all(evaluate(chain, tmp_path / "out", activations=source), chain)
    assert set(left) == {
        "mse_by_grade", "meaning", "delta_loss", "substitution", "ablation", "l0", "distances", "paths",
    }  # fmt: skip
    images = [path.read_bytes() for path in (tmp_path / "out" / "figures").glob("*.png")]
    assert len(images) == len(FIGURES) - len(left)
    assert all(np.frombuffer(image[16:24], ">u4").min() > 300 for image in images)  # pixels


def test_every_line_of_a_figure_has_its_own_colour_and_a_place_in_the_legend(tmp_path):
    """The colours count as in print, where equal markers do not help."""
    assert len({line_style(number)["color"] for number in range(60)}) == 60
    world = World()
    chain = sm.match_layers({0: world.a, 1: world.b})
    source = StoredActivations(world.write_activations(tmp_path / "activations"))
    tables = evaluate(chain, tmp_path / "out", activations=source).tables
    most = 0
    for name, draw in _figures(tables, chain, []).items():
        try:
            figure = draw()
        except FigureSkipped:
            continue
        panels = figure.axes
        written = [
            text.get_text() for legend in figure.legends + [panel.get_legend() for panel in panels] if legend
            for text in legend.get_texts()
        ]  # fmt: skip
        for panel in panels:
            handles, labels = panel.get_legend_handles_labels()
            colours = [handle[0].get_color() if isinstance(handle, tuple) else handle.get_edgecolor()
                       if hasattr(handle, "get_edgecolor") else handle.get_color() for handle in handles]  # fmt: skip
            assert len(set(map(str, colours))) == len(labels), name
            assert set(labels) <= set(written), name
            most = max(most, len(labels))
    assert most > 10  # more lines than there are markers
    # What is drawn of one method is what the table says of it.
    (random,) = [
        line for line in _figures(tables, chain, [])["mse"]().axes[0].containers if line.get_label() == "random"
    ]
    rows = tables["mse"].where(method="random", part=tables["mse"].rows[0]["part"])
    np.testing.assert_allclose(random[0].get_ydata(), [np.mean([row["mse"] for row in rows])])
