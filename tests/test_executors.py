"""Pairs that are matched in other processes: on several devices, by executors of Python, and on a Ray cluster."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import torch

import saematch as sm
from saematch.runs import executors
from saes import made_up, write_npz

pytestmark = pytest.mark.through_passes

PAIRS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for layer in range(PAIRS + 1):
        write_npz(folder / f"layer_{layer}", made_up(F=300, d=16, seed=layer))
    return sm.load_layers(folder)


@pytest.fixture(scope="module")
def local(model):
    return sm.match_layers(model)


def assert_same(chain, local):
    assert (set(chain), chain.failures) == (set(local), {})
    for pair, matching in chain.items():
        assert torch.equal(matching.perm, local[pair].perm)
        assert matching.cost == local[pair].cost
        assert matching.certified


def test_a_worker_for_each_device(model, local, tmp_path):
    news = []
    assert_same(sm.match_layers(model, device=["cpu", "cpu"], progress=news.append), local)
    assert sum(one.stage == "done" for one in news) == PAIRS
    assert {"start", "reading", "pass", "done"} == {one.stage for one in news}
    assert_same(sm.match_layers(model, tmp_path / "run", device=("cpu", "cpu")), local)
    assert_same(sm.Chain.load(tmp_path / "run"), local)


def test_a_worker_that_dies_costs_the_pairs_it_had_not_finished(model, local, monkeypatch):
    started = []
    start = executors._CONTEXT.Process.start
    monkeypatch.setattr(executors._CONTEXT.Process, "start", lambda process: (start(process), started.append(process)))

    def kill_first(news):
        if news.stage == "reading" and news.pair == (0, 1):
            os.kill(started[0].pid, signal.SIGKILL)

    chain = sm.match_layers(model, device=["cpu", "cpu"], progress=kill_first)
    assert set(chain) | set(chain.failures) == set(local)
    assert set(chain) >= {(2, 3), (3, 4), (4, 5)}
    assert (0, 1) in chain.failures or (1, 2) in chain.failures
    assert all("the worker on cpu ended with exit code -9" in reason for reason in chain.failures.values())


def test_a_bad_device_is_refused_before_any_process_starts(model, monkeypatch):
    monkeypatch.setattr(executors._CONTEXT.Process, "start", lambda process: pytest.fail("a process was started"))
    with pytest.raises(sm.MatchError, match="abacus"):
        sm.match_layers(model, device=["cpu", "abacus"])
    with pytest.raises(sm.MatchError, match="give one device or several"):
        sm.match_layers(model, device=[])
    with pytest.raises(sm.MatchError, match="several without an executor"):
        sm.match_layers(model, device=["cpu", "cpu"], executor="ray")


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_of_the_standard_interface(model, local, tmp_path, kind):
    pool = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, get_context("spawn"))
    with pool as executor:
        assert_same(sm.match_layers(model, executor=executor), local)
        assert_same(sm.match_layers(model, tmp_path / "run", executor=executor), local)
    assert_same(sm.Chain.load(tmp_path / "run"), local)


def test_a_worker_writes_where_it_sees_the_run_and_sends_back_what_it_does_not(model, local, tmp_path, monkeypatch):
    written = []
    add = executors.RunFolder.add
    monkeypatch.setattr(
        executors.RunFolder, "add", lambda run, one: (written.append(one.matching is not None), add(run, one))
    )
    with ThreadPoolExecutor(1) as executor:
        sm.match_layers(model, tmp_path / "shared", pairs="0-1", executor=executor)
    assert written == [True, False]  # by the worker; then the caller takes note of it
    written.clear()
    monkeypatch.setattr(
        executors, "run_task", lambda work, pair, where, id: run_task(work, pair, "/not/mounted/here", id)
    )
    with ThreadPoolExecutor(1) as executor:
        chain = sm.match_layers(model, tmp_path / "own", pairs="0-1", executor=executor)
    assert written == [True]
    assert torch.equal(chain[0, 1].perm, local[0, 1].perm)


run_task = executors.run_task


def test_a_task_that_is_lost_costs_its_pair(model):
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        executor.submit(os.getpid).result()
        worker = next(iter(executor._processes.values()))
        threading.Timer(0.0, worker.kill).start()
        chain = sm.match_layers(model, executor=executor, progress=lambda news: None)
    assert chain.failures
    assert all("BrokenProcessPool" in reason for reason in chain.failures.values())


def test_a_pool_that_forks_is_refused_before_anything_is_touched(model, tmp_path):
    run = tmp_path / "run"
    sm.match_layers(model, run)
    with (
        ProcessPoolExecutor(1, get_context("fork")) as executor,
        pytest.raises(sm.MatchError, match="only the locks that they hold; give ProcessPoolExecutor"),
    ):
        sm.match_layers(model, executor=executor)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with (
        ProcessPoolExecutor(1, get_context("fork")) as executor,
        pytest.raises(sm.MatchError, match="forks this process"),
    ):
        sm.match_layers(model, run, overwrite=True, executor=executor)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_margins_of_what_came_from_another_process_notice_that_inputs_changed():
    saes = {layer: made_up(seed=layer) for layer in (0, 1)}
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        chain = sm.match_layers(saes, executor=executor)
    saes[1].W_dec.mul_(3)
    with pytest.raises(sm.MatchError, match="have changed since they were matched"):
        _ = chain[0, 1].margins().bound


def test_an_executor_that_is_none_is_refused(model):
    with pytest.raises(sm.MatchError, match="executor is 'dask'; give \"ray\" or"):
        sm.match_layers(model, executor="dask")


@pytest.fixture(scope="module")
def cluster():
    """Start two Ray nodes on this machine, to which the process of the driver does not belong."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    if before is None:
        del os.environ["RAY_ADDRESS"]
    ray.shutdown()
    cluster.shutdown()


def test_ray_gives_the_same_answers(cluster, model, local, tmp_path):
    assert_same(sm.match_layers(model, executor="ray"), local)
    assert_same(sm.match_layers(model, tmp_path / "run", executor="ray"), local)
    assert sm.Chain.load(tmp_path / "run").complete


def test_ray_repeats_what_a_killed_worker_or_a_lost_node_was_doing(cluster, tmp_path):
    for layer in range(7):
        write_npz(tmp_path / "model" / f"layer_{layer}", made_up(F=3000, d=64, seed=layer))
    model = sm.load_layers(tmp_path / "model")
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    events = []

    def disturb(news):
        if news.stage == "done" and not events:
            events.append(_kill_a_worker())
        elif news.stage == "done" and len(events) == 1:
            cluster.remove_node(node, allow_graceful=False)
            events.append("node")

    chain = sm.match_layers(model, tmp_path / "run", executor="ray", progress=disturb)
    assert len(events) == 2
    assert events[0] is not None
    assert (chain.complete, chain.certified) == (True, True)
    for pair in list(chain)[:2]:
        assert torch.equal(chain[pair].perm, sm.match(model[pair[0]], model[pair[1]]).perm)


def _kill_a_worker():
    """Kill the worker of Ray that is matching a pair. Return None if there is no such worker within ten seconds.

    It is a worker of this process: tests of another clone may run at the same time.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    busy = file.read().startswith(b"ray::run_task")
                ours = busy and os.getpid() in _ancestors(int(pid))
            except OSError:
                continue
            if ours:
                os.kill(int(pid), signal.SIGKILL)
                return int(pid)
        time.sleep(0.001)
    return None


def _ancestors(pid):
    """Yield the processes above a process."""
    while pid > 1:
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
        yield pid
