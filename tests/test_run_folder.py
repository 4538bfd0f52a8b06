"""Runs that are stopped, refused or killed, or whose disk is full."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open

import saematch as sm
from saematch.cli.main import main
from saematch.runs.folder import RunFolder
from saematch.runs.locks import lock_run
from saematch.storage.folders import folder_at
from saes import made_up, write_model, write_npz


def program(*arguments):
    return [sys.executable, "-m", "saematch", *map(str, arguments)]


def isolated():
    """Run a shell with mounts of its own."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return command


def answers(run):
    return {file.name: file.read_bytes() for file in (run / "pairs").glob("*.safetensors")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for layer in range(12):
        write_npz(folder / f"layer_{layer}", made_up(F=500, d=32, seed=layer))
    return folder


def test_killed_at_any_moment_a_run_resumes_to_the_same_bytes(model, tmp_path):
    undisturbed = sm.match_layers(sm.load_layers(model), tmp_path / "whole")
    assert len(undisturbed) == 11
    moments = random.Random(0)
    killed = 0
    for number in range(20):  # a busy machine may let a run come to its end between two kills: then there is another
        run = tmp_path / f"run{number}"
        killed += kill_until_it_ends(run, model, moments)
        assert answers(run) == answers(tmp_path / "whole")
        assert [path.name for path in run.rglob(".*") if not path.name.startswith(".lock")] == []
        if killed >= 3:
            break
    assert killed >= 3


def kill_until_it_ends(run, model, moments):
    """Start a run repeatedly, and kill it at some moment after each pair. Return how often it was killed."""
    killed, finished = 0, {}
    while True:
        process = subprocess.Popen(program("layers", model, "-o", run, "--quiet"), stderr=subprocess.PIPE)
        while len(list((run / "pairs").glob("*.json"))) <= len(finished) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        _, errors = process.communicate()
        assert errors == b""
        now = {path.name: path.stat().st_mtime_ns for path in (run / "pairs").glob("*.json")}
        assert now == now | finished  # no pair was done again
        assert sm.Chain.load(run).certified  # readable at any moment
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL
        killed, finished = killed + 1, now


def test_the_second_writer_is_refused_and_told_who_the_first_is(model, tmp_path):
    run = tmp_path / "run"
    with lock_run(run):
        done = subprocess.run(program("layers", model, "-o", run), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
        with pytest.raises(sm.MatchError, match="is writing it; wait for it"):
            sm.match_layers(sm.load_layers(model), run, pairs="0-1", shard=(1, 2))
    assert sm.match_layers(sm.load_layers(model), run, pairs="0-1").complete


def test_shards_write_together_but_not_the_same_one_nor_next_to_a_whole_run(model, tmp_path):
    layers = sm.load_layers(model)
    run = tmp_path / "run"
    with lock_run(run, (1, 2)):
        with pytest.raises(sm.MatchError, match="shard 1/2: process"):
            sm.match_layers(layers, run, pairs="0-1,5-6", shard=(1, 2))
        with pytest.raises(sm.MatchError, match="is writing it"):
            sm.match_layers(layers, run, pairs="0-1,5-6")
        second = sm.match_layers(layers, run, pairs="0-1,5-6", shard=(2, 2))
        assert list(second) == [(5, 6)]
        assert not second.complete
    assert sm.match_layers(layers, run, pairs="0-1,5-6", shard=(1, 2)).complete
    for options in ({"out": None}, {"out": run, "overwrite": True}):
        with pytest.raises(sm.MatchError, match="a shard is part of a run folder"):
            sm.match_layers(layers, shard=(1, 2), **options)


def test_the_lock_of_a_process_that_was_killed_has_no_owner(tmp_path):
    code = f"from saematch.runs.locks import lock_run\nwith lock_run({str(tmp_path)!r}): print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(sm.MatchError, match=f"process {process.pid} on"), lock_run(tmp_path):
        pass
    process.kill()
    process.communicate()
    with lock_run(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_full_disk_is_a_clear_error_and_leaves_earlier_pairs_intact(model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=48k none {disk} && {{ {' '.join(program('layers', model, '-o', disk / 'run'))};"
    script += f" code=$?; cp -r {disk}/run {tmp_path}/kept; exit $code; }}"
    done = subprocess.run([*isolated(), script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    whole = sm.match_layers(sm.load_layers(model), tmp_path / "whole")
    chain = sm.Chain.load(tmp_path / "kept")
    assert 1 <= len(chain) < len(whole)
    for pair, matching in chain.items():
        assert torch.equal(matching.perm, whole[pair].perm)
    assert sm.match_layers(sm.load_layers(model), tmp_path / "kept").complete  # with space, it resumes
    assert answers(tmp_path / "kept") == answers(tmp_path / "whole")


def test_a_read_only_disk_is_a_clear_error(model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    sm.match_layers(sm.load_layers(model), disk / "run", pairs="0-1")
    command = " ".join(program("layers", model, "--pairs", "0-1,1-2", "-o"))
    script = f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk} && {{ {command} {disk}/new; "
    script += f"{command} {disk}/run; }}"
    done = subprocess.run([*isolated(), script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert f"{disk}/new: cannot be written" in first
    assert f"{disk}/run" in second
    assert "cannot be written" in second
    assert sm.Chain.load(disk / "run").complete


def test_damaged_records_are_named(tmp_path):
    sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run")
    path = tmp_path / "run" / "pairs" / "3-4.json"
    for content in ("{", "[]", '{"source": 4, "target": 5}'):
        path.write_text(content)
        with pytest.raises(sm.MatchError, match=r"3-4\.json|run\.json"):
            sm.Chain.load(tmp_path / "run")


def test_a_run_of_an_earlier_version_opens_and_resumes_under_its_own_record(tmp_path):
    layers, run = sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run"
    sm.match_layers(layers, run)
    record = json.loads((run / "run.json").read_text())
    record["options"] |= {"memory": 2**33, "precision": "tf32x3"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "pairs" / "4-5.json").unlink()
    assert list(sm.Chain.load(run)) == [(3, 4), (5, 11)]
    assert sm.match_layers(layers, run).complete
    assert json.loads((run / "run.json").read_text()) == record
    with pytest.raises(sm.MatchError, match=r'holds another run: fold was "threshold", is "none"\.'):
        sm.match_layers(layers, run, fold="none")
    record["options"]["precision"] = "float32"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(sm.MatchError, match=r'holds another run: precision was "float32", is "auto"\.'):
        sm.match_layers(layers, run)


def test_records_that_lack_something_are_named_with_it(tmp_path):
    sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run")
    for name, paths in {
        "run.json": [
            ["id"],
            ["source"],
            ["against"],
            ["options"],
            ["options", "fold"],
            ["options", "precision"],
            ["pairs"],
        ],
        "pairs/3-4.json": [
            ["inputs"],
            ["inputs", 1],
            ["inputs", 0, "F"],
            ["inputs", 1, "sha256"],
            ["gap"],
            ["seconds"],
        ],
    }.items():
        file = tmp_path / "run" / name
        content = file.read_text()
        for path in paths:
            record = json.loads(content)
            holder = record
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
            file.write_text(json.dumps(record))
            lacks = "it has 1 inputs" if path[-1] == 1 else f"{path[-1]} is missing"
            with pytest.raises(sm.MatchError, match=rf"{name}: not the record of (a run|that pair): {lacks}"):
                sm.Chain.load(tmp_path / "run")
        file.write_text(content)
    for pairs in ([[3, 3]], [[4, 3]], [[3]], [3], [{}], [[3, True]], [["3", "4"]]):
        record = json.loads((tmp_path / "run" / "run.json").read_text()) | {"pairs": pairs}
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        with pytest.raises(sm.MatchError, match=r"run\.json: its pairs do not lead from each layer to a later one"):
            sm.Chain.load(tmp_path / "run")


def test_a_path_reads_no_whole_matching_and_a_composition_keeps_none(tmp_path, monkeypatch):
    sm.match_layers(sm.load_layers(write_model(tmp_path / "model")), tmp_path / "run")
    chain = sm.Chain.load(tmp_path / "run")
    by_hand = {pair: sm.Chain.load(tmp_path / "run")[pair] for pair in chain}
    with monkeypatch.context() as patched:
        patched.setattr(sm.Matching, "load", lambda path: pytest.fail("a path needs a row of it"))
        path = chain.path(3, 7)
    assert [step.feature for step in path[1:]] == [
        int(by_hand[3, 4].perm[7]),
        int(by_hand[4, 5].perm[path[1].feature]),
        int(by_hand[5, 11].perm[path[2].feature]),
    ]
    assert chain.compose(3, 11).perm.tolist() == by_hand[5, 11].perm[by_hand[4, 5].perm[by_hand[3, 4].perm]].tolist()
    assert len(chain._results._cache) == 0


def test_with_all_pairs_paths_lead_from_layer_to_layer(tmp_path):
    model = sm.load_layers(write_model(tmp_path / "model"))
    chain = sm.match_layers(model, tmp_path / "run", pairs="all")
    assert len(chain) == 6
    assert [step.layer for step in chain.path(3, 0)] == [3, 4, 5, 11]
    composed = chain[5, 11].perm[chain[4, 5].perm[chain[3, 4].perm]]
    assert chain.compose(3, 11).perm.tolist() == composed.tolist()
    assert chain[3, 11].certified
    assert chain.steps() == [(3, 4), (4, 5), (5, 11)]
    assert chain.shape((3, 11)) == (12, 12)
    assert (
        sm.Chain.load(tmp_path / "run").planned == chain.planned == [(3, 4), (3, 5), (3, 11), (4, 11), (4, 5), (5, 11)]
    )


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_run_in_a_store_is_that_of_a_disk(tmp_path, scheme):
    model = sm.load_layers(write_model(tmp_path / "model"))
    url = f"{scheme}://{tmp_path}/store"
    stored = sm.match_layers(model, url, pairs="3-4")
    local = sm.match_layers(model, tmp_path / "run", pairs="3-4")
    assert folder_at(url).read("pairs/3-4.safetensors") == (tmp_path / "run" / "pairs" / "3-4.safetensors").read_bytes()
    again = sm.Chain.load(url)
    assert again.path(3, 5) == local.path(3, 5)
    assert again.complete
    assert stored.folder == url.removeprefix("file://")
    with pytest.raises(sm.MatchError, match="holds another run"):
        sm.match_layers(model, url)
    assert sm.match_layers(model, url, overwrite=True).complete
    assert RunFolder.open(url).planned == [(3, 4), (4, 5), (5, 11)]


def test_a_store_that_cannot_be_reached_is_named(tmp_path):
    model = sm.load_layers(write_model(tmp_path / "model"))
    with pytest.raises(sm.MatchError, match="nowhere://x: cannot be reached"):
        sm.match_layers(model, "nowhere://x")
    with pytest.raises(sm.MatchError, match="not a run of saematch"):
        sm.Chain.load("memory://nothing/here")


def test_an_answer_that_is_gone_cut_short_or_damaged_is_made_again(model, tmp_path):
    layers = sm.load_layers(model)
    sm.match_layers(layers, tmp_path / "run", pairs="0-1,1-2,2-3")
    before = answers(tmp_path / "run")
    (tmp_path / "run" / "pairs" / "0-1.safetensors").unlink()
    cut = tmp_path / "run" / "pairs" / "1-2.safetensors"
    cut.write_bytes(cut.read_bytes()[:-5])
    damaged = tmp_path / "run" / "pairs" / "2-3.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])  # another price, as good as any
    chain = sm.Chain.load(tmp_path / "run")
    with pytest.raises(sm.MatchError, match=r"2-3.safetensors: damaged: .*; the same `saematch layers` command"):
        chain.arrays((2, 3))
    news = []
    assert sm.match_layers(layers, tmp_path / "run", pairs="0-1,1-2,2-3", progress=news.append).complete
    assert sorted(one.pair for one in news if one.stage == "done") == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]  # two are in work at once
    assert answers(tmp_path / "run") == before


def test_a_partner_that_cannot_be_is_no_step_of_a_path(tmp_path):
    layers = sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2)))
    sm.match_layers(layers, tmp_path / "run")
    file = tmp_path / "run" / "pairs" / "1-2.safetensors"
    content = bytearray(file.read_bytes())
    with safe_open(file, "np") as held:
        perm = held.get_tensor("perm")
    at = content.index(perm.tobytes())
    content[at : at + 8] = (2**40).to_bytes(8, "little")
    file.write_bytes(content)
    with pytest.raises(sm.MatchError, match="damaged: feature 0 has the partner 1099511627776; the same"):
        sm.Chain.load(tmp_path / "run").path(1, 0)


def test_a_forked_child_does_not_hold_the_lock_of_a_parent_that_is_gone(tmp_path):
    code = f"""
import os, time
from saematch.runs.locks import lock_run
with lock_run({str(tmp_path)!r}):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        with lock_run(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_file_url_is_a_folder_with_its_lock(model, tmp_path):
    with lock_run(tmp_path / "run"), pytest.raises(sm.MatchError, match="is writing it"):
        sm.match_layers(sm.load_layers(model), f"file://{tmp_path}/run", pairs="0-1")


@pytest.mark.parametrize("begun", [None, "run.json", "pairs/*.json"])
def test_interrupted_at_any_moment_it_says_so_in_a_line(model, tmp_path, begun):
    command = program("layers", model, "-o", tmp_path / "run", "--quiet", "--device", "cpu,cpu")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(0.3)
    while begun and not list((tmp_path / "run").glob(begun)) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:  # it was done before
        assert errors == ""
    elif "interrupted" in errors:
        assert process.returncode == 130
        assert errors.count("\n") == 1
    else:  # before the program had begun, while Python itself was starting
        assert begun is None


def test_a_matching_that_is_missing_is_matched_again_as_the_message_says(tmp_path, capsys):
    layers = sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2, 3)))
    run = tmp_path / "run"
    sm.match_layers(layers, run)
    file = run / "pairs" / "1-2.safetensors"
    whole = file.read_bytes()
    commands = (
        ["path", str(run), "--layer", "1", "--feature", "0"],
        ["report", str(run)],
        ["export", str(run), "-o", str(tmp_path / "x.csv")],
    )
    for content in (None, whole[:-1]):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        for command in commands:
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"{file}: " in said
            assert "the same `saematch layers` command, or the same call of match_layers, computes it again" in said
    assert main(["layers", str(tmp_path / "saes"), "-o", str(run), "--quiet"]) == 0
    assert file.read_bytes() == whole
    for command in commands:
        assert main(command) == 0
