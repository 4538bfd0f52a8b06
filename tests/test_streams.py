"""Output that cannot be written, or cannot be encoded, never ends a command in a traceback."""

import json
import os
import pty
import shlex
import subprocess
import sys

import pytest

import saematch as sm
from saematch.cli.main import main
from saematch.cli.terminal import status_line
from saes import write_model

pytestmark = pytest.mark.through_passes

SAEMATCH = f"{sys.executable} -m saematch"
FULL = "saematch: output: No space left on device\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rün")  # a letter that ASCII lacks
    sm.match_layers(sm.load_layers(write_model(folder / "model", layers=(3, 4))), folder / "run")
    return folder / "run"


def shell(command, **environment):
    """Run the program in a process of its own, which is quick only if it needs no torch."""
    command = f"set -o pipefail; {command}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, timeout=120, env={**os.environ, **environment}
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    return done


@pytest.mark.parametrize("command", ["--help", "layers --help", "--version", "env --json"])
def test_a_full_device_is_said_in_a_line(command):
    done = shell(f"{SAEMATCH} {command} > /dev/full")
    assert (done.returncode, done.stderr.decode()) == (2, FULL)


@pytest.mark.parametrize("command", ["--help", "path {run} --layer 3 --feature 1 --json"])
def test_a_reader_that_has_left_ends_it_without_a_word(run, command):
    done = shell(f"{SAEMATCH} {command.format(run=run)} | true")
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.parametrize(
    ("redirected", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        ("2> /dev/full", 0),
        ("> /dev/full 2>&1", 2),
        ("> /dev/full 2>&-", 2),
    ],
)
def test_streams_that_are_closed_lead_nowhere(redirected, code):
    done = shell(f"{SAEMATCH} --version {redirected}")
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_file_does_not_take_the_place_of_a_closed_stream(run, tmp_path):
    done = shell(f"{SAEMATCH} export {run} -o {tmp_path}/new.csv >&- 2>&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "new.csv").read_text().startswith("source,target,feature,")
    assert "written" not in (tmp_path / "new.csv").read_text()


@pytest.mark.parametrize("redirected", ["2>&-", "2> /dev/full", "> /dev/full 2>&1", ">&- 2>&-"])
def test_a_complaint_that_cannot_be_written_leaves_its_exit_code(redirected):
    done = shell(f"{SAEMATCH} frobnicate {redirected}")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_an_error_of_a_command_that_cannot_be_written_leaves_its_exit_code(tmp_path):
    done = shell(f"{SAEMATCH} path {tmp_path} --layer 1 --feature 1 > /dev/full 2>&1")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda environment: next(iter(environment.values())),
)
def test_letters_that_an_encoding_lacks_are_escaped(environment):
    done = shell(f"{SAEMATCH} 'ŋ\x1b\udcff'", **environment)  # one that encodings lack, a control, half of a letter
    assert done.returncode == 2
    assert b"invalid choice: '" in done.stderr
    assert b"\x1b" not in done.stderr


def test_arguments_cannot_steer_the_terminal(capsys):
    with pytest.raises(SystemExit):
        main(["info", "a", "\x1b[2J", "\u202e"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: ·[2J ·; see saematch info --help\n")


def test_a_terminal_that_knows_only_ascii_shows_progress(run, tmp_path):
    ours, theirs = pty.openpty()
    command = [*shlex.split(SAEMATCH), "layers", run.parent / "model", "-o", tmp_path / "rün"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # it has ended
        pass
    os.close(ours)
    assert process.wait() == 0, shown
    assert b"pairs" in shown
    assert rb"r\xfcn" in shown


def test_a_status_line_is_on_stderr_alone_and_steers_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with status_line() as show:
        show("pass 1 \x1b[2J" + "x" * 500)
        print("answer")  # noqa: T201
    shown = capsys.readouterr()
    assert shown.out == "answer\n"
    assert "pass 1 ·[2Jx" in shown.err
    assert "x" * 200 not in shown.err  # one line, however narrow the terminal


def test_a_log_that_cannot_be_written_is_named(run, tmp_path, capfd):
    layers = ["layers", str(run.parent / "model"), "-o", str(tmp_path / "run"), "--quiet", "--log-json"]
    for log, why in (
        ("/dev/full", "No space left"),
        (tmp_path / "no" / "log", "No such file"),
        (tmp_path, "directory"),
    ):
        assert main([*layers, str(log)]) == 2
        error = capfd.readouterr().err
        assert error.startswith(f"saematch: {log}: cannot be written (")
        assert why in error
    assert main([*layers, str(tmp_path / "log")]) == 0
    assert {"start", "done"} <= {json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()}
