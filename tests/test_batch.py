"""Many problems at once: each is solved as if it was alone, and an error names its problem."""

import threading
import time

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saematch as sm
from saematch.matching import backend, batch
from saematch.matching.solver import Solver
from saematch.numeric import threads

pytestmark = pytest.mark.through_passes

R = np.random.default_rng(5)
XS = [R.standard_normal((n, 6)) for n in (30, 700, 50, 900, 1)]
YS = [R.standard_normal((n, 6)) for n in (40, 700, 50, 800, 1)]
COSTS = [R.standard_normal(shape) for shape in ((20, 30), (600, 600), (3, 2))]


@pytest.fixture(params=[1, 2, 8])
def of_threads(request, monkeypatch):
    monkeypatch.setattr(threads, "processors", lambda: request.param)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_same(found, alone):
    assert (found.cost, found.gap, found.rounding_error) == (alone.cost, alone.gap, alone.rounding_error)
    assert found.certified
    for name in ("perm", "pair_cost", "prices"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name


@pytest.mark.parametrize("made", [list, tuple, lambda given: [torch.from_numpy(one) for one in given]])
def test_each_matching_is_that_of_its_problem_alone(of_threads, made):
    for found, x, y in zip(sm.assign(made(XS), made(YS)), XS, YS, strict=True):
        assert_same(found, sm.assign(x, y))
        squares = ((x[:, None] - y) ** 2).sum(axis=2)
        assert found.cost == pytest.approx(squares[linear_sum_assignment(squares)].sum(), rel=1e-12)
    for found, cost in zip(sm.assign(cost=made(COSTS)), COSTS, strict=True):
        assert_same(found, sm.assign(cost=cost))
        assert found.cost == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-12)
    assert torch.get_num_threads() == of_threads


def test_options_are_those_of_every_problem():
    options = {"metric": "cosine", "max_cost": 0.5, "method": "greedy"}
    for found, x, y in zip(sm.assign(XS, YS, **options), XS, YS, strict=True):
        alone = sm.assign(x, y, **options)
        assert (found.perm.tolist(), found.status, found.options) == (alone.perm.tolist(), alone.status, alone.options)
    rounds = []
    sm.assign(XS[:3], YS[:3], progress=rounds.append)
    assert len(rounds) == sum(sm.assign(x, y).stats["rounds"] for x, y in zip(XS[:3], YS[:3], strict=True))


def test_lists_of_lists_are_matrices_and_lists_of_these_are_problems():
    rows = [[0.0, 0.0], [3.0, 0.0]]
    assert sm.assign(rows, [[3.0, 1.0], [0.0, 0.0]]).perm.tolist() == [1, 0]
    assert sm.assign([np.array(row) for row in rows], tuple(map(torch.tensor, rows))).perm.tolist() == [0, 1]
    assert [m.perm.tolist() for m in sm.assign(cost=[[[4.0, 1.0], [2.0, 3.0]], [[5.0]]])] == [[1, 0], [0]]
    assert [m.perm.tolist() for m in sm.assign(cost=([np.array([4.0, 1.0])], [[2.0, 1.0]]))] == [[1], [1]]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: sm.assign(XS, [*YS[:3], YS[3][:, :5], YS[4]]), "^problem 3: the first matrix has K = 6 and"),
        (lambda: sm.assign(cost=[*COSTS, [[np.nan]]]), "^problem 3: cost holds 1 values that are NaN"),
        (lambda: sm.assign(cost=[COSTS[0], COSTS[0][0]]), r"^problem 1: cost has shape \(30,\)"),
        (lambda: sm.assign(cost=[COSTS[0], [[1.0, np.inf], [1.0, np.inf]]]), "^problem 1: .*cannot .*matched"),
        (lambda: sm.assign(XS, YS[:4]), "as many matrices are needed on both sides, got 5 in x and 4 in y"),
        (lambda: sm.assign(XS, YS[0]), "^y is one ndarray, and the other side is a list; give two lists"),
        (lambda: sm.assign(XS[0], YS), "^x is one ndarray, and the other side is a list"),
        (lambda: sm.assign(XS), "^problem 0: give two matrices of feature rows, or one matrix as cost="),
        (lambda: sm.assign(cost=COSTS, metric="cosine"), "metric is for rows"),
        (lambda: sm.assign(cost=np.zeros((2, 3, 3))), r"^cost has shape \(2, 3, 3\)"),
    ],
)
def test_errors_name_the_problem(ask, message):
    with pytest.raises(sm.MatchError, match=message):
        ask()


def test_strict_raises_for_the_first_problem_without_proof():
    with pytest.raises(sm.NotCertified, match=r"^problem 1: not proved optimal") as caught:
        sm.assign(XS[:4], YS[:4], max_rounds=1, strict=True)
    assert caught.value.matching.perm.shape == (700,)


@pytest.mark.parametrize("of_threads", [4], indirect=True)
@pytest.mark.parametrize(("fitting", "expected"), [(0, 1), (1, 1), (3, 3), (99, 4)])
@pytest.mark.usefixtures("of_threads")
def test_as_many_problems_are_solved_at_once_as_threads_and_memory_allow(monkeypatch, fitting, expected):
    running, most, lock = set(), set(), threading.Lock()
    run = Solver.run

    def counted(solver, problem):
        with lock:
            running.add(threading.get_ident())
            most.add(len(running))
        time.sleep(0.05)
        with lock:
            running.remove(threading.get_ident())
        return run(solver, problem)

    monkeypatch.setattr(Solver, "run", counted)
    largest = max(batch.plain_problem(None, None, cost, None, None).search_bytes for cost in COSTS)
    monkeypatch.setattr(backend, "available_memory", lambda: fitting * largest / backend._SHARE + 1)
    sm.assign(cost=COSTS * 3)
    assert max(most) == expected
