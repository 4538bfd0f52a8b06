"""The solution of one problem, and the grading of a given permutation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saematch.assignment import BASELINES, Round, Solution, solve
from saematch.cost import Cost, UnmatchedCost
from saematch.errors import MatchError, refuse_out_of_memory
from saematch.matching.backend import choose_backend
from saematch.matching.grading import Grader
from saematch.matching.margins import MarginFinder
from saematch.matching.problem import Problem
from saematch.matching.result import Matching, NotCertified
from saematch.numeric.numbers import checked_count, checked_number
from saematch.numeric.rounding import Indices, numpy_warnings
from saematch.numeric.threads import torch_threads
from saematch.options import BackendName, Method, PrecisionName, names
from saematch.text import first_line


@dataclass(frozen=True)
class Solver:
    """How problems are solved: the method and its limits, and what runs the passes.

    The fields are the options of `saematch.match`. `checked` returns a solver whose options are valid.
    """

    method: Method = "optimal"
    max_rounds: int | None = None
    time_limit: float | None = None
    device: str | torch.device | None = None
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    strict: bool = False
    progress: Callable[[Round], None] | None = None

    def checked(self) -> Solver:
        """Return the same solver with plain numbers, whatever number types a caller gave: they are written to JSON.

        Raises `MatchError` for an option that is not valid, and for a backend that cannot run.

        >>> Solver(max_rounds=0).checked()
        Traceback (most recent call last):
        saematch.errors.MatchError: max_rounds is 0; give a whole number, at least 1, or none
        """
        max_rounds, time_limit = self.max_rounds, self.time_limit
        choose_backend(self.backend, self.device, self.precision)
        if self.method not in names(Method):
            raise MatchError(f"method is {self.method!r}; choose one of {', '.join(names(Method))}")
        if max_rounds is not None:
            wrong = f"max_rounds is {max_rounds!r}; give a whole number, at least 1, or none"
            max_rounds = checked_count(max_rounds, 1, wrong)
        if time_limit is not None:
            wrong = f"time_limit is {time_limit!r}; give seconds above 0, or none"
            time_limit = checked_number(time_limit, 0, sys.float_info.max, wrong, above=True)
        return replace(self, max_rounds=max_rounds, time_limit=time_limit)

    @torch_threads()
    @numpy_warnings
    def run(self, problem: Problem, perm: Tensor | None = None) -> Matching:
        """Return the matching of the method, or `perm`, with the proof of how far it is from the optimum.

        Raises:
            NotCertified: under `strict`, if the matching is not proved optimal.
            MatchError: if there is no matching that the problem allows, or the memory of a GPU is too small.
            NotEnoughMemory: if the memory of this process is too small.
        """
        began, size = time.perf_counter(), "{:,} x {:,} features".format(*problem.shape)
        try:
            cost = self.make_cost(problem)
            matching = cost.retry_if_out_of_memory(lambda: self._run(problem, cost, perm, began))
        except torch.OutOfMemoryError as error:
            raise MatchError(
                f"not enough memory on {self.device or 'the GPU'} for {size}: {first_line(error)}; match smaller SAEs, "
                'or give device="cpu"'
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

        # The permutation to be graded, if it is not the optimum: the caller's, or that of a baseline.
        given = None if perm is None else perm.numpy()
        if given is None and self.method != "optimal":
            given = BASELINES[self.method](cost, unmatched)
        graded_by = None if given is None else policy.for_grading(given, unmatched)
        if graded_by is not None:
            unmatched = graded_by

        # The optimum, whose prices prove the bound.
        solution = solve(
            cost,
            unmatched,
            start=None if graded_by is None else given,
            max_rounds=self.max_rounds,
            time_limit=self.time_limit,
            progress=self.progress,
        )
        finder = MarginFinder(problem.remake or (lambda: problem), self, solution.prices / cost.scale)
        stats = _stats(cost, solution, time.perf_counter() - began) | problem.stats
        grader = Grader(problem, cost, policy, unmatched, solution, stats, finder)

        if given is None:
            return grader.grade(solution.permutation)
        return grader.compare(given) if graded_by is None else grader.grade(given)

    @torch_threads()
    @numpy_warnings
    def nearest(self, problem: Problem) -> Indices:
        """Return the cheapest target feature of every source feature, without a bound for one-to-one matchings.

        Several source features may have the same target feature. Among equal costs, the lowest number wins.
        """
        cost = self.make_cost(problem)
        unmatched = UnmatchedCost(cost, problem.max_cost).for_search()
        return cost.retry_if_out_of_memory(lambda: BASELINES["nearest"](cost, unmatched))

    @numpy_warnings
    def is_optimum(self, problem: Problem, perm: Indices) -> bool:
        """Return whether a permutation is proved to be the optimum of a problem.

        This decides where margins meet pairs that float64 cannot tell from the pairs of the matching.
        """
        cost = self.make_cost(problem)
        unmatched = UnmatchedCost(cost, problem.max_cost).for_search()
        return solve(cost, unmatched, start=perm).grade(cost, unmatched, perm).certified

    def make_cost(self, problem: Problem) -> Cost:
        """Return the costs of all pairs on the chosen backend."""
        backend = choose_backend(self.backend, self.device, self.precision)
        cost = problem.cost(backend)
        if self.backend == "triton" and cost.backend == "torch":
            raise MatchError(
                'backend "triton" is for rows: costs that are given or by activations are searched on the CPU'
            )
        return cost


def require_certified(matching: Matching) -> None:
    """Raise `NotCertified`, with the matching, unless it is proved optimal."""
    if not matching.certified:
        raise NotCertified(
            f"not proved optimal ({matching.status}): gap {matching.gap:.3g} and rounding "
            f"{matching.rounding_error:.3g} of a gain of {matching.gain:.3g}; the matching is in .matching",
            matching,
        )


def _stats(cost: Cost, solution: Solution, seconds: float) -> dict[str, Any]:
    """Return what the search did, for the user."""
    # If all pairs were in the graph, no pass has chosen among them.
    by_pass = solution.edges < math.prod(cost.shape)
    return {
        "backend": cost.backend,
        "device": str(cost.device),
        "precision": cost.precision if by_pass else "float64",
        "largest_residual": cost.largest_residual if by_pass else 0.0,
        "exact_pairs": cost.exact_pairs,
        "products": cost.looked_at / max(1, math.prod(cost.shape)),
        "rounds": solution.rounds,
        "edges": solution.edges,
        "seconds": seconds,
        "stages": dict(solution.seconds),
    }
