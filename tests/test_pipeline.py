import threading
import time
from types import SimpleNamespace

import pytest
import torch

import saematch as sm
from saematch.matching import backend
from saematch.matching.backend import Backend
from saematch.matching.comparison import Comparison
from saematch.matching.problem import search_bytes
from saematch.matching.solver import Solver
from saematch.runs import estimate, pipeline, row_cache, work
from saematch.runs.inputs import read_input
from saematch.runs.pipeline import match_pairs
from saematch.runs.plan import plan_pairs
from saematch.runs.records import Outcome
from saematch.runs.work import Work, memory_needed, pairs_at_once, saes_at_once
from saematch.sources import as_layers
from saes import made_up

pytestmark = pytest.mark.through_passes

COMPARISON = Comparison.checked(("encoder", "bias", "decoder"), None, "threshold", None)


def work_on(layers, against=None, **options):
    return Work(
        as_layers(layers), None if against is None else as_layers(against), COMPARISON, Solver(**options).checked()
    )


@pytest.fixture
def model():
    return {layer: made_up(F=40, seed=layer) for layer in range(6)}


@pytest.fixture
def held(monkeypatch):
    """Return the layers that are read, and the largest number of them that is in memory at any time."""
    counts = {"most": 0, "read": []}
    read = row_cache.RowCache._read

    def counted(cache, key):
        counts["read"].append(key.layer)
        counts["most"] = max(counts["most"], len(cache._layers))
        time.sleep(0.01)
        return read(cache, key)

    monkeypatch.setattr(row_cache.RowCache, "_read", counted)
    return counts


def outcomes(work, pairs, number=2):
    return {event.pair: event for event in match_pairs(work, pairs, number) if isinstance(event, Outcome)}


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_adjacent_layers_are_read_once_and_one_more_is_held_than_pairs_are_in_work(model, held, number):
    pairs, before = plan_pairs(model), torch.get_num_threads()
    found = outcomes(work_on(model), pairs, number)
    assert sorted(held["read"]) == list(range(6))
    assert held["most"] <= number + 1
    assert torch.get_num_threads() == before
    for (a, b), outcome in found.items():
        assert outcome.matching.perm.tolist() == sm.match(model[a], model[b]).perm.tolist()


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(("pairs", "shared"), [("all", True), ("0-1,2-3,4-5", False), ("0-5,1-4,2-3", False)])
def test_any_plan_holds_at_most_the_layers_of_successive_pairs(model, held, number, pairs, shared):
    planned, work = plan_pairs(model, None, pairs), work_on(model)
    assert set(outcomes(work, planned, number)) == set(planned)
    assert held["most"] <= saes_at_once(work, planned, number)
    assert saes_at_once(work, planned, number) == (number + 1 if shared else 2 * number)
    assert len(held["read"]) <= (len(planned) + number if shared else 2 * len(planned))


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("pairs", ["adjacent", "0-1,2-3,4-5"])
def test_as_many_pairs_as_asked_for_are_in_work_at_once(model, monkeypatch, number, pairs):
    together = threading.Barrier(number, timeout=30)
    monkeypatch.setattr(pipeline, "_match", lambda work, cache, pair, notify: (together.wait(), pair)[1])
    planned = plan_pairs(model, None, pairs)[: 3 if number == 3 else 2]
    assert len(list(match_pairs(work_on(model), planned, number))) == len(planned)


@pytest.mark.parametrize(("of_process", "number", "expected"), [(2, 2, 2), (16, 5, 7), (16, 1, 16), (3, 2, 3)])
def test_pairs_in_work_have_twice_their_share_of_the_threads(model, monkeypatch, of_process, number, expected):
    used = []
    monkeypatch.setattr(pipeline, "threads", lambda: of_process)
    monkeypatch.setattr(pipeline, "_match", lambda *_: used.append(torch.get_num_threads()))
    list(match_pairs(work_on(model), plan_pairs(model)[:5], number))
    assert used == [expected] * 5


def test_the_pairs_in_work_are_as_many_as_threads_and_memory_allow(model, monkeypatch):
    job, pairs = work_on(model), plan_pairs(model)
    room = {number: memory_needed(job, pairs, number) / backend._SHARE + 1 for number in range(1, 6)}

    def given(threads, memory, devices=1):
        monkeypatch.setattr(work, "threads", lambda: threads)
        monkeypatch.setattr(backend, "available_memory", lambda: memory)
        return pairs_at_once(job, pairs, devices)

    assert [given(threads, 10**12) for threads in (1, 2, 3, 16)] == [2, 2, 3, 5]
    assert [given(16, room[number]) for number in room] == [1, 2, 3, 4, 5]
    assert [given(16, 0), given(16, room[4] - 2)] == [1, 3]
    assert [given(8, 10**12, devices=2), given(8, 2 * room[3], devices=2)] == [4, 3]
    # On a GPU, each pair in work needs memory of the GPU too.
    monkeypatch.setattr(work, "choose_backend", lambda *_: Backend("triton", torch.device("cuda"), "int8", ""))
    for total, expected in ((1, 1), (20 * 2**30, 3), (200 * 2**30, 5)):
        properties = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, properties=properties: properties)
        assert given(16, 10**12) == expected


def test_equal_layers_of_two_sets_are_two_saes(model):
    other = {layer: made_up(F=50, seed=100 + layer) for layer in range(3)}
    for (a, b), outcome in outcomes(work_on(model, other), plan_pairs(model, other)).items():
        assert outcome.matching.perm.tolist() == sm.match(model[a], other[b]).perm.tolist()


def test_a_layer_that_cannot_be_read_costs_its_pairs_and_is_tried_once(model, monkeypatch):
    tried = []

    def read(handle):
        if handle.layer == 2:
            tried.append(handle.layer)
            raise OSError(5, "Input/output error", "layer_2")
        return read_input(handle)

    monkeypatch.setattr(row_cache, "read_input", read)
    found = outcomes(work_on(model), plan_pairs(model))
    assert {pair for pair, outcome in found.items() if outcome.matching is None} == {(1, 2), (2, 3)}
    assert found[1, 2].record == {"source": 1, "target": 2, "failure": "layer_2: Input/output error"}
    assert tried == [2]


def test_want_of_memory_costs_a_pair(model, monkeypatch):
    monkeypatch.setattr(Comparison, "features", lambda comparison, sae, side, layer: [].__getitem__(MemoryError()))
    monkeypatch.setattr(row_cache, "read_input", lambda handle: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in outcomes(work_on(model), [(0, 1)])[0, 1].record["failure"]


def test_a_defect_is_not_taken_for_a_failure(model, monkeypatch):
    monkeypatch.setattr(row_cache, "read_input", lambda handle: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(match_pairs(work_on(model), plan_pairs(model), 2))


def test_whoever_stops_asking_stops_the_work(model):
    news = match_pairs(work_on(model), plan_pairs(model), 2)
    next(news)
    news.close()
    deadline = time.monotonic() + 30
    while at_work() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not at_work()


def at_work():
    return any(thread.name == pipeline._THREAD for thread in threading.enumerate())


def test_memory_counts_the_saes_and_the_files_and_a_block_of_products_of_the_pairs_in_work(model):
    pairs, job = plan_pairs(model), work_on(model)
    nothing = memory_needed(job, [], 1)
    assert nothing == work._FIXED_BYTES
    rows = 40 * 17
    read = 8 * (40 * 16 + 40 + 40 + 8)  # made up in float64
    for number in (1, 2, 4):
        of_rows, of_pairs = (number + 1) * 8 * rows, number * (read + search_bytes(80, 2 * rows))
        assert memory_needed(job, pairs, number) == nothing + of_rows + of_pairs
    disjoint = plan_pairs(model, None, "0-1,2-3,4-5")
    assert memory_needed(job, disjoint, 2) - memory_needed(job, pairs, 2) == 8 * rows


@pytest.mark.through_passes(False)
@pytest.mark.parametrize("values", [2**24, 2**14])
def test_the_trial_of_a_large_run_makes_passes(monkeypatch, values):
    """Only passes take a time that grows with the number of pairs, and a problem of few pairs is solved without any."""
    found, run = [], Solver.run
    monkeypatch.setattr(Solver, "run", lambda solver, problem: found.append(run(solver, problem)) or found[-1])
    monkeypatch.setattr(estimate, "_VALUES", values)
    large = work_on({layer: made_up(F=2400, seed=layer) for layer in range(2)})
    assert estimate.seconds_needed(large, plan_pairs(large.sources)) > 0
    assert len(found) == 2
    assert all("passes" in one.stats["stages"] for one in found)
    assert len(found[0].perm) == 2400  # narrow rows: as many as there are, or else what each row takes is scaled too
