import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import saematch as sm
from saematch.cli import estimates
from saematch.cli.main import main
from saematch.cli.terminal import Status
from saes import made_up, write_model, write_npz


def program(*arguments, cwd=None):
    """Run the program in a process of its own, which takes seconds, most of them for imports."""
    command = [sys.executable, "-m", "saematch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


def saematch(*arguments, cwd="."):
    """Run the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def parsed(done, code=0):
    """Return the one JSON object on stdout, which must have no other text."""
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def assert_refused(done, *words):
    """Assert exit code 2, one line with the words on stderr, and nothing on stdout."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = saematch("layers", model, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_demo_matches_the_sample_and_shows_labelled_paths(tmp_path):
    done = program("demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for expected in ("8 -> 9", "12 -> 13", "certified", "of random", "Module, Frozen, Macro", "saematch-demo"):
        assert expected in done.stdout
    assert done.stdout.count("  yes\n") == 5
    assert sm.Chain.load(tmp_path / "saematch-demo").certified
    assert saematch("demo", cwd=tmp_path).returncode == 0  # again, over its own folder


def test_info_lists_what_is_there(model, tmp_path):
    done = saematch("info", "sample")
    assert done.returncode == 0
    assert "jumprelu" in done.stdout
    content = parsed(saematch("info", model, "--json"))
    assert [row["layer"] for row in content["layers"]] == [3, 4, 5, 11]
    assert content["layers"][0] | {"path": ""} == {
        "layer": 3,
        "F": 12,
        "d": 8,
        "activation": "jumprelu",
        "l0": None,
        "dtype": "float32",
        "bytes": 896,
        "format": "gemma_scope",
        "path": "",
        "notes": [],
    }
    assert content["warnings"] == ["layers 5 and 11: the layers between them are missing"]
    for l0, layer in ((59, 1), (141, 2)):
        write_npz(tmp_path / f"layer_{layer}" / f"average_l0_{l0}", made_up(d=11 + layer))
    warnings = saematch("info", tmp_path).stdout
    assert "L0 differs more than 1.5-fold (59 and 141)" in warnings
    assert "activations of different width, cannot be compared" in warnings


def test_match_and_verify(model, tmp_path):
    a, b, out = model / "layer_03", model / "layer_04", tmp_path / "m.safetensors"
    content = parsed(saematch("match", a, b, "-o", out, "--fold", "decoder_norm", "--parts", "decoder", "--json"))
    matching = sm.Matching.load(out)
    assert content["perm"] == matching.perm.tolist()
    assert content["certified"] is True
    assert set(content) >= {
        "perm",
        "pair_cost",
        "prices",
        "cost",
        "objective",
        "lower_bound",
        "gap",
        "rounding_error",
        "certified",
        "status",
    }
    assert_refused(saematch("match", a, b, "-o", out), str(out), "--overwrite")
    verified = parsed(saematch("verify", a, b, out, "--json"))  # with the options that the file records
    assert (verified["status"], verified["cost"]) == ("optimal", content["cost"])
    assert "Optimal, and proved so." in saematch("verify", a, b, out).stdout
    assert saematch("match", a, b, "-o", out, "--overwrite").returncode == 0
    assert {"unmatched_cost", "random_cost", "proof_gap"} <= set(content)
    assert saematch("match", a, b).stdout.splitlines()[2].startswith("12 ")
    few = sm.match(sm.load(a), sm.load(b), max_cost=0.5 * float(matching.pair_cost.median()))
    shown = saematch("match", a, b, "--max-cost", few.options["max_cost"]).stdout.splitlines()[2]
    assert shown.startswith(f"{int((few.perm >= 0).sum())} of 12 ")


def test_verify_gives_the_excess_of_a_worse_permutation(model, tmp_path):
    np.save(tmp_path / "identity.npy", np.arange(12))
    done = saematch("verify", model / "layer_03", model / "layer_04", tmp_path / "identity.npy")
    assert done.returncode == 3
    best = sm.match(sm.load(model / "layer_03"), sm.load(model / "layer_04"))
    identity = sm.certify(sm.load(model / "layer_03"), sm.load(model / "layer_04"), np.arange(12))
    assert identity.gap == pytest.approx(identity.cost - best.cost, rel=1e-9)
    assert f"Not optimal: {identity.gap:,.6g}" in done.stdout
    content = parsed(saematch("verify", model / "layer_03", model / "layer_04", tmp_path / "identity.npy", "--json"), 3)
    assert content["status"] == "suboptimal"


def test_layers_and_path(run, model, tmp_path):
    content = parsed(saematch("layers", model, "-o", tmp_path / "run", "--json"))
    assert (content["layers"], content["certified"]) == ([3, 4, 5, 11], True)
    assert [(pair["source"], pair["target"]) for pair in content["pairs"]] == [(3, 4), (4, 5), (5, 11)]
    path = parsed(saematch("path", run, "--layer", 3, "--feature", 7, "--json"))["path"]
    assert [(step["layer"], step["feature"]) for step in path] == [step[:2] for step in sm.Chain.load(run).path(3, 7)]
    lines = saematch("path", run, "--layer", 11, "--feature", path[-1]["feature"]).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["3", "4", "5", "11"]
    assert lines[5].startswith("11 *")
    again = saematch("layers", model, "-o", run)
    assert (again.returncode, again.stderr) == (0, "")
    assert "3 pairs of layers, finished before." in again.stdout
    assert_refused(
        saematch("layers", model, "-o", run, "--fold", "none"), 'fold was "threshold", is "none"', "--overwr"
    )


def test_a_run_with_a_layer_that_cannot_be_read_has_exit_code_3_and_a_summary(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "layer_11" / "params.npz").write_bytes(b"PK")
    done = saematch("layers", tmp_path / "model", "-o", tmp_path / "run")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.count("  yes\n") == 2
    assert "no matching of layers 5 and 11: " in done.stdout
    assert "layer_11/params.npz: cannot be read" in done.stdout
    assert "The same command tries these pairs again" in done.stdout
    shutil.copy(model / "layer_11" / "params.npz", tmp_path / "model" / "layer_11")
    again = parsed(saematch("layers", tmp_path / "model", "-o", tmp_path / "run", "--json"))
    assert (again["complete"], again["failures"], len(again["pairs"])) == (True, [], 3)


def test_pairs_and_shards_from_the_command_line(model, tmp_path):
    run = tmp_path / "run"
    listed = ("layers", model, "-o", run, "--pairs", "3-11,4-5", "--quiet")
    done = saematch(*listed, "--shard", "1/2", "--log-json", tmp_path / "log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(sm.Chain.load(run)) == [(3, 11)]
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "pass"] == ["start", "reading", "done"]
    assert (events[-1]["source"], events[-1]["target"], events[-1]["certified"]) == (3, 11, True)
    assert saematch(*listed, "--shard", "2/2").returncode == 0
    assert sm.Chain.load(run).complete
    assert_refused(saematch(*listed, "--shard", "3/2"), "shard 3/2: give i/n")
    assert_refused(saematch("layers", model, "-o", tmp_path / "x", "--pairs", "3-4,5"), "pairs is '3-4,5'")


def test_a_dry_run_states_memory_and_time_and_a_log_says_how_far_a_run_is(model, tmp_path, monkeypatch):
    planned = parsed(saematch("layers", model, "--dry-run", "--json"))
    assert planned["pairs"] == [[3, 4], [4, 5], [5, 11]]
    assert planned["bytes"] > 0
    assert 0 < planned["seconds"] < 60
    assert "about " in saematch("layers", model, "--dry-run").stdout
    limited = parsed(saematch("layers", model, "--dry-run", "--time-limit", 1e-6, "--json"))
    assert limited["seconds"] <= 3e-6 * 1.01
    monkeypatch.setattr("saematch.cli.terminal._PAUSES", (0.001,))
    for layer in range(4):
        write_npz(tmp_path / "large" / f"layer_{layer}", made_up(F=600, d=64, seed=layer))
    log = saematch("layers", tmp_path / "large", "-o", tmp_path / "run").stderr
    assert re.search(r"^[12] of 3 pairs of layers \(\d+ s so far, about \d+ s left\)$", log, re.MULTILINE)


def test_one_set_of_saes_against_another(model, tmp_path):
    write_model(tmp_path / "other", layers=(4, 5, 6), F=15)
    content = parsed(saematch("layers", model, "--against", tmp_path / "other", "-o", tmp_path / "run", "--json"))
    assert [(pair["source"], pair["target"]) for pair in content["pairs"]] == [(4, 4), (5, 5)]
    chain = sm.Chain.load(tmp_path / "run")
    direct = sm.match(sm.load(model / "layer_04"), sm.load(tmp_path / "other" / "layer_04"))
    assert chain[4, 4].perm.tolist() == direct.perm.tolist()
    assert_refused(saematch("path", tmp_path / "run", "--layer", 4, "--feature", 1), "from one set of SAEs to another")


def test_unfinished_proof_has_exit_code_3(tmp_path):
    for layer in (1, 2):
        write_npz(tmp_path / f"layer_{layer}", made_up(F=2100, seed=layer))
    done = saematch("match", tmp_path / "layer_1", tmp_path / "layer_2", "--max-rounds", 1)
    assert done.returncode == 3
    assert "NO (round_limit)" in done.stdout
    assert saematch("layers", tmp_path, "-o", tmp_path / "run", "--max-rounds", 1).returncode == 3


def test_env_says_what_runs_and_why():
    content = parsed(saematch("env", "--json"))
    assert content["versions"]["saematch"] == sm.__version__
    assert content["device"] in ("cpu", "cuda")
    assert content["precision"] in ("int8", "float32")
    assert content["reason"]
    assert "Passes over all pairs run on" in saematch("env").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["frobnicate"], ["frobnicate", "--help"]),
        (["layers", "sample"], ["-o RUN"]),
        (["match", "nowhere", "sample"], ["nowhere: no such file or folder"]),
        (["match", "sample", "sample"], ["6 SAEs in it, name one of them"]),
        (["info", "."], ["no SAE in a known format"]),
        (["path", ".", "--layer", "1", "--feature", "2"], ["not a run of saematch"]),
        (["path", ".", "--layer", "1", "--feature", "x"], ["--feature", "invalid int"]),
        (["layers", "sample", "-o", "r", "--fold", "sqrt"], ["fold 'sqrt' is not known"]),
        (["layers", "sample", "-o", "r", "--weights", "bias"], ["--weights"]),
        (["layers", "sample", "-o", "r", "--weights", "bias=-1"], ["weight of bias is -1"]),
        (["layers", "sample", "-o", "r", "--device", "abacus"], ["abacus"]),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    assert_refused(saematch(*arguments, cwd=tmp_path), *words)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folder(model, tmp_path):
    tmp_path.chmod(0o500)
    assert_refused(saematch("layers", model, "-o", tmp_path / "run"), "cannot be written")


def test_interrupted_run_exits_with_130_and_keeps_what_is_finished(tmp_path):
    for layer in range(30):
        write_npz(tmp_path / "model" / f"layer_{layer}", made_up(F=1500, d=64, seed=layer))
    command = [sys.executable, "-m", "saematch", "layers", str(tmp_path / "model"), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("pairs/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n")) == (130, 1)
    chain = sm.Chain.load(tmp_path / "run")
    assert chain.certified
    assert 1 <= len(chain) < 29
    assert not list((tmp_path / "run" / "pairs").glob(".*"))


def test_output_is_checked_before_any_work(model, tmp_path):
    a, b = model / "layer_03", model / "layer_04"
    for output, word in (
        (tmp_path / "missing" / "m.safetensors", "cannot be written"),
        (tmp_path, "cannot be written"),
        (a / "params.npz", "a matching is a .safetensors file"),
    ):
        assert_refused(saematch("match", a, b, "-o", output, "--overwrite"), word)


def test_demo_does_not_replace_another_run(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert_refused(saematch("demo", "-o", tmp_path), "holds other files")
    before = (run / "run.json").read_bytes()
    assert_refused(saematch("demo", "-o", run), "holds a run that is not of the sample")
    assert (run / "run.json").read_bytes() == before


def test_a_reader_that_leaves_early_does_not_make_it_look_finished(model, tmp_path):
    command = f"{sys.executable} -m saematch layers {model} -o {tmp_path / 'run'}"
    script = f"set -o pipefail; {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    complete = (tmp_path / "run" / "run.json").exists() and sm.Chain.load(tmp_path / "run").complete
    assert done.stderr == ""
    assert done.returncode == 3 or complete


def test_a_path_through_an_incomplete_run_says_so(run, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    for pair in ("4-5", "5-11"):
        (stopped / "pairs" / f"{pair}.json").unlink()
    done = saematch("path", stopped, "--layer", 3, "--feature", 7)
    assert done.returncode == 3
    assert "The run is not complete" in done.stdout
    assert parsed(saematch("path", stopped, "--layer", 3, "--feature", 7, "--json"), 3)["complete"] is False


def test_info_lists_the_good_next_to_the_damaged(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "layer_04" / "params.npz").write_bytes(b"PK")
    content = parsed(saematch("info", tmp_path / "model", "--json"), 3)
    assert [row["layer"] for row in content["layers"]] == [3, 5, 11]
    assert "layer_04" in content["warnings"][0]


def test_features_left_out_from_the_command_line(model, tmp_path):
    a, b = model / "layer_03", model / "layer_04"
    content = parsed(saematch("match", a, b, "--max-cost", 10, "--json"))
    expected = sm.match(sm.load(a), sm.load(b), max_cost=10.0)
    assert content["perm"] == expected.perm.tolist()
    assert -1 in content["perm"]
    assert content["options"]["max_cost"] == 10


def test_labels_cannot_steer_the_terminal(tmp_path):
    write_model(tmp_path / "model")
    tokens = {"features": [{"feature": i, "tokens": ["\x1b[2Jgone"]} for i in range(12)]}
    (tmp_path / "model" / "layer_03" / "labels.json").write_text(json.dumps(tokens))
    assert saematch("layers", tmp_path / "model", "-o", tmp_path / "run").returncode == 0
    shown = saematch("path", tmp_path / "run", "--layer", 3, "--feature", 1).stdout
    assert "gone" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("--shard", "a/b", "'a/b' is not like 2/8"),
        ("--weights", "encoder", "'encoder' is not like encoder=1,decoder=2"),
        ("--time-limit", "inf", "give seconds above 0"),
        ("--max-cost", "nan", "max_cost is nan"),
        ("--max-cost", "-1", "max_cost is -1.0"),
        ("--executor", "foo", "executor is 'foo'; give \"ray\""),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, capsys, option, value, match):
    try:
        code = main(["layers", "sample", "-o", str(tmp_path / "run"), option, value])
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert code == 2
    assert match in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_quiet_runs_say_what_failed_and_a_shard_answers_for_its_own_part(tmp_path, capsys):
    model = write_model(tmp_path / "model", (1, 2, 3, 4))
    file = model / "layer_01" / "params.npz"
    file.write_bytes(file.read_bytes()[:-100])
    run = str(tmp_path / "run")
    assert main(["layers", str(model), "-o", run, "--quiet", "--shard", "1/3"]) == 3
    assert "no matching of layers 1 and 2" in capsys.readouterr().err
    assert main(["layers", str(model), "-o", run, "--quiet", "--shard", "2/3"]) == 0
    assert capsys.readouterr().err == ""


def test_one_long_matching_says_how_long_it_will_take(tmp_path, monkeypatch):
    """The status of `match` and `verify` has an estimate of the rest, if the problem is large enough to make one."""
    said, sides = (
        [],
        [str(write_npz(tmp_path / name, made_up(F=800, d=64, seed=seed))) for seed, name in enumerate("ab")],
    )
    monkeypatch.setattr(Status, "__call__", lambda status, text, left=None: said.append((text, left)))
    matching = str(tmp_path / "m.safetensors")
    for worth in (2**37, 0):
        monkeypatch.setattr(estimates, "_WORTH", worth)
        assert main(["match", *sides, "-o", matching, "--overwrite"]) == 0
        assert main(["verify", *sides, matching]) == 0
    texts = [(text, left is not None and left > 0) for text, left in said if text != "reading the SAEs"]
    assert ("matching", False) in texts
    assert ("matching", True) in texts
    assert ("looking for a better matching", True) in texts


def test_margins_of_a_path_are_counted(run, monkeypatch):
    said = []
    monkeypatch.setattr(Status, "share", lambda status, text, done: said.append((text, done)))
    path = sm.Chain.load(run).path(3, 1)
    assert len(path) > 2
    assert main(["path", str(run), "--layer", "3", "--feature", "1", "--margins"]) == 0
    assert said == [(f"margin {n + 1} of {len(path) - 1}", n / (len(path) - 1)) for n in range(len(path) - 1)]
