import threading
import time

import pytest

import saematch as sm
from saematch.matching.problem import Comparison
from saematch.matching.solver import Solver
from saematch.resources import BLOCK_BYTES
from saematch.runs import pipeline, row_cache, work
from saematch.runs.inputs import read_input
from saematch.runs.pipeline import match_pairs
from saematch.runs.plan import plan_pairs
from saematch.runs.records import Outcome
from saematch.runs.work import Work, memory_needed
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


def outcomes(work, pairs):
    return {event.pair: event for event in match_pairs(work, pairs) if isinstance(event, Outcome)}


def test_adjacent_layers_are_read_once_and_at_most_three_are_held(model, held):
    pairs = plan_pairs(model)
    found = outcomes(work_on(model), pairs)
    assert sorted(held["read"]) == list(range(6))
    assert held["most"] <= 3
    for (a, b), outcome in found.items():
        assert outcome.matching.perm.tolist() == sm.match(model[a], model[b]).perm.tolist()


@pytest.mark.parametrize("pairs", ["all", "0-1,2-3,4-5", "0-5,1-4,2-3"])
def test_any_plan_holds_at_most_three_layers(model, held, pairs):
    planned = plan_pairs(model, None, pairs)
    assert set(outcomes(work_on(model), planned)) == set(planned)
    assert held["most"] <= 3
    assert len(held["read"]) <= (len(planned) + 2 if pairs == "all" else 2 * len(planned))


def test_two_pairs_are_in_work_at_once(model, monkeypatch):
    together = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(pipeline, "_match", lambda work, cache, pair, notify: (together.wait(), pair)[1])
    assert len(list(match_pairs(work_on(model), plan_pairs(model)[:4]))) == 4


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
    monkeypatch.setattr(Comparison, "rows", lambda comparison, sae, side=0: [].__getitem__(MemoryError()))
    monkeypatch.setattr(row_cache, "read_input", lambda handle: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in outcomes(work_on(model), [(0, 1)])[0, 1].record["failure"]


def test_a_defect_is_not_taken_for_a_failure(model, monkeypatch):
    monkeypatch.setattr(row_cache, "read_input", lambda handle: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(match_pairs(work_on(model), plan_pairs(model)))


def test_whoever_stops_asking_stops_the_work(model):
    news = match_pairs(work_on(model), plan_pairs(model))
    next(news)
    news.close()
    deadline = time.monotonic() + 30
    while at_work() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not at_work()


def at_work():
    return any(thread.name == pipeline._THREAD for thread in threading.enumerate())


def test_memory_counts_three_saes_two_pairs_and_a_block_of_products_for_each(model):
    pairs = plan_pairs(model)
    nothing = memory_needed(work_on(model), [])
    assert nothing == work._FIXED_BYTES
    rows = 40 * 17
    lane = (4 + 1) * 2 * rows + work._BYTES_PER_FEATURE * 80 + BLOCK_BYTES
    read = 8 * (40 * 16 + 40 + 40 + 8)  # made up in float64
    assert memory_needed(work_on(model), pairs) == nothing + 3 * 8 * rows + 2 * read + 2 * lane
    assert memory_needed(work_on(model), pairs[:1]) == nothing + 2 * 8 * rows + 2 * read + lane
