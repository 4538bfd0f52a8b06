"""How a problem is solved, and how an answer is graded."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saematch.assignment import BASELINES, Certificate, Round, Solution, solve
from saematch.cost import BLOCK_BYTES, Cost, Unmatched, UnmatchedCost
from saematch.errors import MatchError, refuse_out_of_memory
from saematch.matching.backend import choose_backend, free_memory
from saematch.matching.margins import MarginFinder
from saematch.matching.problem import Problem
from saematch.matching.result import Matching, NotCertified
from saematch.numeric.numbers import checked_count, checked_number
from saematch.numeric.rounding import UNIT_64, Indices, numpy_warnings
from saematch.numeric.threads import torch_threads
from saematch.options import BackendName, Method, PrecisionName, Status, names
from saematch.text import first_line


@dataclass(frozen=True)
class Solver:
    """Method, limits, what runs the passes, and what becomes of an answer that is not proved."""

    method: Method = "optimal"
    max_rounds: int | None = None
    time_limit: float | None = None
    memory: int | None = None
    device: str | torch.device | None = None
    backend: BackendName = "auto"
    precision: PrecisionName = "ieee"
    strict: bool = False
    progress: Callable[[Round], None] | None = None

    def __post_init__(self) -> None:
        choose_backend(self.backend, self.device, self.precision)
        if self.method not in names(Method):
            raise MatchError(f"method is {self.method!r}; choose one of {', '.join(names(Method))}")
        # Plain numbers, whatever was given: they are written down.
        if self.max_rounds is not None:
            wrong = f"max_rounds is {self.max_rounds!r}; give a whole number, at least 1, or none"
            object.__setattr__(self, "max_rounds", checked_count(self.max_rounds, 1, wrong))
        if self.time_limit is not None:
            wrong = f"time_limit is {self.time_limit!r}; give seconds above 0, or none"
            object.__setattr__(
                self, "time_limit", checked_number(self.time_limit, 0, sys.float_info.max, wrong, above=True)
            )
        if self.memory is not None:
            wrong = f"memory is {self.memory!r}; give bytes, at least {BLOCK_BYTES} for one block of products"
            object.__setattr__(self, "memory", checked_count(self.memory, BLOCK_BYTES, wrong))

    @torch_threads()
    @numpy_warnings
    def run(self, problem: Problem, perm: Tensor | None = None) -> Matching:
        """The answer of the method, or `perm`, with the proof of how far it is from the optimum.

        Raises `NotCertified` under `strict`, `MatchError` if there is no matching that the problem allows, or a GPU has
        too little memory, and `MemoryError` if this process has.
        """
        began, size = time.perf_counter(), "{:,} x {:,} features".format(*problem.shape)
        try:
            cost = self.make_cost(problem)
            matching = cost.retry_if_out_of_memory(lambda: self._run(problem, cost, perm, began))
        except torch.OutOfMemoryError as error:
            raise MatchError(
                f"not enough memory on {self.device or 'the GPU'} for {size}: {first_line(error)}; give a smaller "
                'memory, or device="cpu"'
            ) from error
        except Exception as error:
            refuse_out_of_memory(error, size)
            raise
        if self.strict:
            require_certified(matching)
        return matching

    def _run(self, problem: Problem, cost: Cost, perm: Tensor | None, began: float) -> Matching:
        policy = UnmatchedCost(cost, problem.max_cost)
        unmatched = policy.for_search()
        given = None if perm is None else perm.numpy()
        if given is None and self.method != "optimal":
            given = BASELINES[self.method](cost, unmatched)
        graded_by = None if given is None else policy.for_grading(given, unmatched)
        if graded_by is not None:
            unmatched = graded_by
        solution = solve(
            cost,
            unmatched,
            start=None if graded_by is None else given,
            max_rounds=self.max_rounds,
            time_limit=self.time_limit,
            progress=self.progress,
        )
        stats = {
            "backend": cost.backend,
            "device": str(cost.device),
            "costs": cost.form,
            # Where all pairs were in the graph, no pass has chosen among them.
            "precision": "float64" if solution.edges == math.prod(problem.shape) else cost.precision,
            "rounds": solution.rounds,
            "edges": solution.edges,
            "seconds": time.perf_counter() - began,
            "stages": dict(solution.seconds),
        }
        finder = MarginFinder(problem.remake or (lambda: problem), self, solution.prices / cost.scale)
        graded = partial(_graded, problem, cost, policy, unmatched, solution, stats=stats, finder=finder)
        if given is not None and graded_by is None:
            return _beside(problem, cost, graded(solution.permutation), given, stats)
        return graded(solution.permutation if given is None else given)

    @numpy_warnings
    def is_optimum(self, problem: Problem, perm: Indices) -> bool:
        """Whether a matching is the optimum, where margins meet pairs that float64 cannot tell from its own."""
        cost = self.make_cost(problem)
        unmatched = UnmatchedCost(cost, problem.max_cost).for_search()
        return solve(cost, unmatched, start=perm).grade(cost, unmatched, perm).certified

    def make_cost(self, problem: Problem) -> Cost:
        """The costs of all pairs on the chosen backend, within the memory that there is."""
        backend = choose_backend(self.backend, self.device, self.precision)
        cost = problem.cost(backend, free_memory(backend.device) // 2 if self.memory is None else self.memory)
        if self.backend == "triton" and cost.backend == "torch":
            raise MatchError('backend "triton" is for rows: costs of your own are looked at where they lie, on the CPU')
        return cost


def require_certified(matching: Matching) -> None:
    """Raise `NotCertified`, with the matching, unless it is proved optimal."""
    if not matching.certified:
        raise NotCertified(
            f"not proved optimal ({matching.status}): gap {matching.gap:.3g} and rounding "
            f"{matching.rounding_error:.3g} of a gain of {matching.gain:.3g}; the matching is in .matching",
            matching,
        )


def _graded(
    problem: Problem,
    cost: Cost,
    policy: UnmatchedCost,
    unmatched: Unmatched,
    solution: Solution,
    permutation: Indices,
    stats: dict[str, Any],
    finder: MarginFinder,
) -> Matching:
    """A matching that the problem allows, with what the prices prove about it."""
    certificate = solution.grade(cost, unmatched, permutation)
    own = permutation is solution.permutation
    best = certificate if own else solution.grade(cost, unmatched, solution.permutation)
    if certificate.certified:
        status: Status = "optimal"
    elif solution.stopped_by is not None:
        status = solution.stopped_by
    else:
        worse = certificate.gap - certificate.rounding_error > best.gap + best.rounding_error
        status = "suboptimal" if best.certified or worse else "unproved"
    more = policy.gap_of_clamp(unmatched, permutation, solution.permutation if best.certified else None)
    gap = certificate.gap + more
    rounding_error = certificate.rounding_error + (4 * UNIT_64 * gap if more > 0 else 0.0)
    certificate = replace(certificate, gap=gap, rounding_error=rounding_error)
    return Matching(
        torch.from_numpy(permutation),
        torch.from_numpy(problem.pair_cost(permutation)),
        target_features=problem.shape[1],
        prices=torch.from_numpy(cost.column_constant + unmatched.price_shift + solution.prices / cost.scale),
        unmatched_cost=unmatched.costs,
        random_cost=_random_cost(cost, permutation),
        certificate=certificate,
        # The objective is a float64 sum of float64 costs: in the lower bound its own rounding counts as well.
        evaluation_error=problem.evaluation_error,
        status=status,
        options=problem.options,
        stats=stats,
        margin_finder=finder,
    )


def _random_cost(cost: Cost, permutation: Indices) -> float:
    return int((permutation >= 0).sum()) * cost.mean_cost


def _beside(problem: Problem, cost: Cost, best: Matching, permutation: Indices, stats: dict[str, Any]) -> Matching:
    """An answer that is no matching as asked for, beside the bound for all that are: its gap may be negative."""
    answer = Matching(
        torch.from_numpy(permutation),
        torch.from_numpy(problem.pair_cost(permutation)),
        target_features=problem.shape[1],
        options=problem.options,
    )
    one_to_one = len(np.unique(permutation[permutation >= 0])) == (permutation >= 0).sum()
    rounding = problem.evaluation_error * (abs(answer.objective) + abs(best.objective))
    return Matching(
        answer.perm,
        answer.pair_cost,
        target_features=problem.shape[1],
        prices=best.prices,
        unmatched_cost=best.unmatched_cost,
        random_cost=_random_cost(cost, permutation),
        certificate=Certificate(
            answer.objective - best.objective + best.gap, best.rounding_error + rounding, best.gain, False
        ),
        status="incomplete" if one_to_one else "many_to_one",
        options=problem.options,
        stats=stats,
    )
