"""The margins of a matching, computed from its inputs when they are asked for."""

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
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Floats, numpy_warnings

if TYPE_CHECKING:
    from saematch.matching.result import Matching
    from saematch.matching.solver import Solver


@dataclass(frozen=True, eq=False)
class Margins:
    """The margins of a certified matching: how much the cost of a pair may rise before another matching is cheaper.

    The margin of a source feature is the least that any matching without its pair costs more. For an unmatched feature,
    it is the least that any matching costs more in which the feature has a partner. A margin is in units of the cost.
    It is inf if there is no such matching. `Matching.margins` returns this object.

    Margins are computed exactly from the start for SAEs of up to 2,048 features. For larger SAEs, the 256 lowest ones
    are, and every other feature has a lower bound that is not below any of these 256. (Only if that would take very
    long, fewer are exact.)

    Attributes:
        bound: float64 `(F_A,)`: a proved lower bound for the margin of each source feature.
        is_exact: bool `(F_A,)`: whether `bound` is the margin itself, within the rounding of float64.
        tied: bool `(F_A,)`: whether the margin is 0 within rounding, so that the feature could have another partner at
            the same cost.
    """

    bound: Tensor
    is_exact: Tensor
    tied: Tensor
    _search: MarginSearch = field(repr=False)

    def __repr__(self) -> str:
        lowest = f", lowest {self.bound.min():.4g}" if len(self.bound) else ""
        exact, tied = int(self.is_exact.sum()), int(self.tied.sum())
        return f"Margins({len(self.bound)} features, {exact} exact, {tied} tied{lowest})"

    def lowest(self, count: int) -> Tensor:
        """Return the source features with the lowest margins, the lowest first.

        Their margins are computed exactly, and so are all margins that might be lower.

        Args:
            count: how many features; all of them if there are fewer.

        Returns:
            int64, the indices of the features.

        Raises:
            MatchError: if `count` is not a whole number from 0 on.

        Examples:
            >>> import saematch as sm
            >>> margins = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]]).margins()
            >>> margins.lowest(1)
            tensor([1])
            >>> margins.exact(margins.lowest(2)).round(decimals=9)
            tensor([7., 8.], dtype=torch.float64)
        """
        checked = checked_count(count, 0, f"count is {count!r:.40}; give the number of features, 0 or more")
        return torch.from_numpy(self._search.lowest(checked))

    def exact(self, features: Sequence[int] | Tensor) -> Tensor:
        """Return the margins of some source features themselves, by one shortest path each.

        If pairs are forbidden and every other matching has fewer pairs, the value is a lower bound. The margins of some
        hundred features take seconds; those of all features of a pair of 16,384 take minutes and 5 GB.

        Args:
            features: the indices of source features, or a mask `(F_A,)` of bools.

        Returns:
            float64, one margin per feature.

        Raises:
            MatchError: for features that do not exist.

        Examples:
            >>> import saematch as sm
            >>> margins = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]]).margins()
            >>> margins.exact([1, 0]).round(decimals=9)
            tensor([7., 8.], dtype=torch.float64)
            >>> margins.exact(margins.bound < 7.2).round(decimals=9)
            tensor([7.], dtype=torch.float64)
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
    """The means to compute the margins of a matching.

    Attributes:
        make_problem: makes the problem again that the matching solves.
        solver: the solver, whose device and backend are used.
        prices: the reduced prices that prove the matching, in units of the cost; None if they are not known, as for a
            matching from a file. Then the matching is proved again first.
    """

    make_problem: Callable[[], Problem]
    solver: Solver
    prices: Floats | None = None

    @numpy_warnings
    def find(self, matching: Matching) -> Margins:
        """Return the margins. Raises `MatchError` if the inputs have changed since they were matched."""
        problem = self.make_problem()
        if not np.array_equal(problem.pair_cost(matching.perm.numpy()), matching.pair_cost.numpy()):
            raise MatchError("the inputs have changed since they were matched, so their margins are not known")
        if self.prices is None:
            return self.solver.run(problem, matching.perm).margins()
        search = self._search(problem, matching, self.prices)
        # Costs may have changed of pairs that are not in the matching. Then another matching is cheaper, by more than
        # the tolerance of a certificate.
        if search.short > TOLERANCE * matching.gain and not self.solver.is_optimum(problem, matching.perm.numpy()):
            raise MatchError(
                "the matching is not an optimum of the inputs as they are now: they have changed since they were "
                "matched"
            )
        bound, is_exact, tied = (torch.from_numpy(each) for each in (search.bound, search.is_exact, search.tied))
        return Margins(bound, is_exact, tied, search)

    def _search(self, problem: Problem, matching: Matching, prices: Floats) -> MarginSearch:
        perm, cost = matching.perm.numpy(), self.solver.make_cost(problem)
        unmatched = UnmatchedCost(cost, problem.max_cost).for_margins()
        # Margins may need other unmatched costs than the search. Then the prices are those of another problem.
        if unmatched.costs != matching.unmatched_cost:
            prices = cost.retry_if_out_of_memory(lambda: solve(cost, unmatched, start=perm)).prices / cost.scale
        return cost.retry_if_out_of_memory(lambda: MarginSearch(cost, unmatched, perm, prices * cost.scale))
