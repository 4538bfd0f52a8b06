"""The margins of a matching, found from its inputs when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from saematch.assignment import TOLERANCE, MarginSearch, solve
from saematch.cost import UnmatchedCost
from saematch.errors import MatchError
from saematch.matching.problem import Problem
from saematch.numeric.arrays import dense_array
from saematch.numeric.rounding import Floats, numpy_warnings

if TYPE_CHECKING:
    from saematch.matching.result import Matching
    from saematch.matching.solver import Solver


@dataclass(frozen=True, eq=False)
class Margins:
    """How firmly each source feature is matched: what its cost may rise by before another matching wins.

    For a feature without a partner it is what staying so may rise by.

    Attributes:
        bound: float64 `(F_A,)`: proved lower bounds for the margins.
        tied: bool `(F_A,)`: the features that could have another partner at the same cost, within rounding.
    """

    bound: Tensor
    tied: Tensor
    _search: MarginSearch = field(repr=False)

    def exact(self, features: Sequence[int] | Tensor) -> Tensor:
        """float64: the margins themselves of source features, listed or masked; a search each. Raises `MatchError`.

        Where pairs are forbidden, one that only a matching of fewer pairs could replace is given as at least.
        """
        count = len(self.bound)
        given = dense_array(features, "features", "the indices of features, or a mask of all source features")
        if given.dtype == bool and given.shape == (count,):
            given = given.nonzero()[0]
        if given.dtype.kind not in "iu" and given.size:
            raise MatchError(f"features are {given.dtype}; give their indices, or a mask of all source features")
        indices = given.ravel().astype(np.int64)
        outside = indices[(indices < 0) | (indices >= count)]
        if len(outside):
            raise MatchError(f"feature {outside[0]} is not among the {count} source features")
        return torch.from_numpy(self._search.exact(indices))


@dataclass(frozen=True, eq=False)
class MarginFinder:
    """What finds the margins of a matching: how to make its problem again, the solver, and the prices that prove it.

    `prices` are reduced ones, in units of the cost; None where they are not known, as for a matching from a file, which
    is then proved again first.
    """

    make_problem: Callable[[], Problem]
    solver: Solver
    prices: Floats | None = None

    @numpy_warnings
    def find(self, matching: Matching) -> Margins:
        """The margins of all features. Raises `MatchError` if the inputs have changed since they were matched."""
        problem = self.make_problem()
        if not np.array_equal(problem.pair_cost(matching.perm.numpy()), matching.pair_cost.numpy()):
            raise MatchError("the inputs have changed since they were matched: margins are those of the old ones")
        if self.prices is None:
            return self.solver.run(problem, matching.perm).margins()
        search = self._search(problem, matching, self.prices)
        if search.short > TOLERANCE * matching.gain and not self.solver.is_optimum(problem, matching.perm.numpy()):
            raise MatchError(
                "the matching is no optimum of the inputs as they are now: they have changed since they were matched"
            )
        return Margins(torch.from_numpy(search.bound), torch.from_numpy(search.tied), search)

    def _search(self, problem: Problem, matching: Matching, prices: Floats) -> MarginSearch:
        perm, cost = matching.perm.numpy(), self.solver.make_cost(problem)
        unmatched = UnmatchedCost(cost, problem.max_cost).for_margins()
        if unmatched.costs != matching.unmatched_cost:  # then the prices are those of another problem
            prices = cost.retry_if_out_of_memory(lambda: solve(cost, unmatched, start=perm)).prices / cost.scale
        return cost.retry_if_out_of_memory(lambda: MarginSearch(cost, unmatched, perm, prices * cost.scale))
