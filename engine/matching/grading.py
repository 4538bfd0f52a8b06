"""The answer for one problem: a matching with the proof of how far it is from the optimum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from saematch.assignment import Certificate, Solution
from saematch.cost import Cost, Unmatched, UnmatchedCost
from saematch.matching.margins import MarginFinder
from saematch.matching.problem import Problem
from saematch.matching.result import Matching
from saematch.numeric.rounding import UNIT_64, Indices
from saematch.options import Status


@dataclass(frozen=True)
class Grader:
    """Grade permutations of one problem by the prices of its solution.

    Attributes:
        problem: the problem.
        cost: the costs of all its pairs.
        policy: the rules for the unmatched costs of the problem.
        unmatched: the unmatched costs under which `solution` was computed.
        solution: the optimum of the problem, or the best matching when a limit stopped the search, with its prices.
        stats: what the search did, for the user.
        finder: the finder of the margins of the matching.
    """

    problem: Problem
    cost: Cost
    policy: UnmatchedCost
    unmatched: Unmatched
    solution: Solution
    stats: dict[str, Any]
    finder: MarginFinder

    def grade(self, permutation: Indices) -> Matching:
        """Return a matching that the problem allows, with what the prices prove about it."""
        solution, own = self.solution, self.solution.permutation
        best = solution.certificate
        assert best is not None
        certificate = best if permutation is own else solution.grade(self.cost, self.unmatched, permutation)
        status = self._status(certificate, best)

        # Under a clamped max_cost, the certificate lacks a part of the gap. The status stays: a matching that leaves
        # more features unmatched than the optimum is above it by a wide margin under the clamped max_cost, too.
        more = self.policy.gap_of_clamp(self.unmatched, permutation, own if best.certified else None)
        if more != 0:
            gap = certificate.gap + more
            rounding_error = certificate.rounding_error + (4 * UNIT_64 * gap if more > 0 else 0.0)
            certificate = replace(certificate, gap=gap, rounding_error=rounding_error)

        # Prices of C: those of M, in units of the cost, and what was left out of them.
        prices = self.cost.column_constant + self.unmatched.price_shift + solution.prices / self.cost.scale
        return Matching(
            torch.from_numpy(permutation),
            torch.from_numpy(self.cost.costs_of(permutation)),
            target_features=self.problem.shape[1],
            cosine=self._cosine(permutation),
            prices=torch.from_numpy(prices),
            unmatched_cost=self.unmatched.costs,
            random_cost=self._random_cost(permutation),
            certificate=certificate,
            # The objective is a float64 sum of float64 costs: its rounding counts in the lower bound as well.
            evaluation_error=self.problem.evaluation_error,
            cost_error=self.problem.cost_error,
            status=status,
            options=self.problem.options,
            stats=self.stats,
            margin_finder=self.finder,
        )

    def compare(self, permutation: Indices) -> Matching:
        """Return the answer of a baseline that the problem does not allow, compared with the bound for all matchings.

        Its gap may be negative: such an answer may cost less than the optimum.
        """
        # The cost of the answer, next to that of the best matching.
        best = self.grade(self.solution.permutation)
        answer = Matching(
            torch.from_numpy(permutation),
            torch.from_numpy(self.cost.costs_of(permutation)),
            target_features=self.problem.shape[1],
            cosine=self._cosine(permutation),
            options=self.problem.options,
        )
        # The bound for all matchings gives a gap, which is no proof of an optimum.
        one_to_one = len(np.unique(permutation[permutation >= 0])) == (permutation >= 0).sum()
        rounding = self.problem.evaluation_error * (abs(answer.objective) + abs(best.objective))
        rounding += self.problem.cost_error * (answer.matched + best.matched)
        gap = answer.objective - best.objective + best.gap
        return Matching(
            answer.perm,
            answer.pair_cost,
            target_features=self.problem.shape[1],
            cosine=answer.cosine,
            prices=best.prices,
            unmatched_cost=best.unmatched_cost,
            random_cost=self._random_cost(permutation),
            certificate=Certificate(gap, best.rounding_error + rounding, best.gain, False),
            status="incomplete" if one_to_one else "many_to_one",
            options=self.problem.options,
            stats=self.stats,
        )

    def _status(self, certificate: Certificate, best: Certificate) -> Status:
        """Return the status of a matching, from its certificate and that of the best matching that is known."""
        if certificate.certified:
            return "optimal"
        if self.solution.stopped_by is not None:
            return self.solution.stopped_by
        # Rounding alone may put one of two equal matchings above the other.
        worse = certificate.gap - certificate.rounding_error > best.gap + best.rounding_error
        return "suboptimal" if worse else "unproved"

    def _cosine(self, permutation: Indices) -> torch.Tensor | None:
        cosine = self.problem.cosine(permutation)
        return None if cosine is None else torch.from_numpy(cosine)

    def _random_cost(self, permutation: Indices) -> float:
        """Return the cost of as many random pairs, on average."""
        return int((permutation >= 0).sum()) * self.cost.mean_cost
