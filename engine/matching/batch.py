"""Problems of rows or costs from the arguments of a caller, one or many at once, and the solution of many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from saematch.activations import Codes, check_activity_metric
from saematch.errors import MatchError
from saematch.matching.backend import choose_backend, searches_at_once
from saematch.matching.by_codes import CodesProblem
from saematch.matching.problem import MatrixProblem, Problem, RowProblem
from saematch.matching.result import Matching, NotCertified
from saematch.matching.solver import Solver
from saematch.numeric.threads import ThreadPool, threads
from saematch.options import ActivityMetric, Metric, names

_PROBLEM = 2**20  # nanoseconds that a problem takes at least
Matrices = Sequence[Tensor] | Sequence[NDArray[Any]] | Sequence[Sequence[Sequence[float]]]


def plain_problem(x: Any, y: Any, cost: Any, max_cost: float | None, metric: Metric | ActivityMetric | None) -> Problem:
    """Make the problem of two matrices of rows, of the codes of two SAEs, or of a matrix of costs.

    Raises `MatchError` unless it has one.
    """
    if (x is None) != (y is None) or (x is None) == (cost is None):
        raise MatchError("give two matrices of feature rows, or one matrix as cost=")
    if isinstance(x, Codes) or isinstance(y, Codes):
        if not (isinstance(x, Codes) and isinstance(y, Codes)):
            raise MatchError("one side is Codes and the other is not; make both saematch.activations.Codes")
        if metric is None:
            raise MatchError(f"say how codes are compared: metric= is one of {', '.join(names(ActivityMetric))}")
        return CodesProblem.checked(x, y, check_activity_metric(metric), max_cost)
    if cost is None:
        return RowProblem.checked(x, y, max_cost, metric or "squared_distance")
    if metric is not None:
        raise MatchError("metric is for rows: costs that are given are taken as they are")
    return MatrixProblem.checked(cost, max_cost)


def is_batch(given: Any) -> bool:
    """Whether `given` is a list or tuple of matrices, judged by the first. A list of rows is one matrix.

    >>> is_batch([[[1.0, 2.0]], [[3.0, 4.0]]]), is_batch([[1.0, 2.0]])
    (True, False)
    """
    if not isinstance(given, list | tuple) or not given:
        return False
    first: Any = given[0]
    if not isinstance(first, list | tuple):
        return getattr(first, "ndim", 0) == 2
    return bool(first) and (isinstance(first[0], list | tuple) or getattr(first[0], "ndim", 0) == 1)


def problems_of(
    x: Any, y: Any, cost: Any, max_cost: float | None, metric: Metric | ActivityMetric | None
) -> list[Problem]:
    """Make the problems of lists of matrices. Raises `MatchError`, which names a problem that is not valid."""
    given = {name: matrices for name, matrices in {"x": x, "y": y, "cost": cost}.items() if matrices is not None}
    for name, matrices in given.items():
        if not isinstance(matrices, list | tuple):
            raise MatchError(f"{name} is one {type(matrices).__name__}, and the other side is a list; give two lists")
    lengths = {name: len(matrices) for name, matrices in given.items()}
    if len(set(lengths.values())) > 1:
        found = " and ".join(f"{length} in {name}" for name, length in lengths.items())
        raise MatchError(f"as many matrices are needed on both sides, got {found}")
    problems = []
    for number in range(max(lengths.values())):
        with _naming(number):
            one, other, costs = (None if matrices is None else matrices[number] for matrices in (x, y, cost))
            problems.append(plain_problem(one, other, costs, max_cost, metric))
    return problems


def solve_all(problems: Sequence[Problem], solver: Solver) -> list[Matching]:
    """Solve problems at the same time, as many as threads and memory allow, which share the threads.

    Raises what `Solver.run` raises for the first problem that fails, with its number.
    """

    def solve(number: int, problem: Problem) -> Matching:
        with _naming(number):
            return solver.run(problem)

    largest = max(problem.search_bytes for problem in problems)
    device = choose_backend(solver.backend, solver.device, solver.precision).device
    most = searches_at_once(min(threads(), len(problems)), lambda number: number * largest, device)
    with ThreadPool(_PROBLEM * len(problems), most) as pool:
        jobs = (partial(solve, number, problem) for number, problem in enumerate(problems))
        return pool.run(jobs, torch_threads=threads() // pool.size)


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Add the number of a problem to the message of a `MatchError`."""
    try:
        yield
    except NotCertified as error:
        raise NotCertified(f"problem {number}: {error}", error.matching) from error
    except MatchError as error:
        raise MatchError(f"problem {number}: {error}") from error
