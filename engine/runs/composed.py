"""Matchings that are composed of others. Their costs are computed when they are first read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saematch.matching.result import Matching
from saematch.options import Status


class ComposedMatching(Matching):
    """A matching that is composed of the matchings between successive layers.

    `measure` computes `pair_cost` from the SAEs of both layers, which are needed only when `pair_cost` is read. A
    pickle of it has the costs, and is loaded as a `Matching`.
    """

    def __init__(
        self,
        perm: Tensor,
        measure: Callable[[], Tensor],
        *,
        target_features: int,
        status: Status,
        options: dict[str, Any],
    ) -> None:
        super().__init__(
            perm, torch.empty(0, device="cpu"), target_features=target_features, status=status, options=options
        )
        del self.__dict__["pair_cost"]  # the property takes its place
        self.__dict__["_measure"] = measure

    @cached_property
    def pair_cost(self) -> Tensor:
        """float64 `(F_A,)`: the cost of each pair between the two layers themselves; 0.0 if a feature is unmatched."""
        cost: Tensor = self.__dict__["_measure"]()
        return cost

    @override
    def inverse(self) -> Matching:
        return ComposedMatching(
            self._inverse_perm(),
            self._inverse_pair_cost,
            target_features=len(self.perm),
            status=self.status,
            options=self.options,
        )


def identity(features: int) -> Matching:
    """Return the matching of a layer with itself: each feature is matched with itself at no cost."""
    perm, pair_cost = torch.from_numpy(np.arange(features)), torch.from_numpy(np.zeros(features))
    return Matching(perm, pair_cost, target_features=features)


def compose(matchings: Iterable[Matching], measure: Callable[[Tensor], Tensor]) -> Matching:
    """Compose the matchings between successive layers, of which there are at least two.

    Args:
        matchings: the matchings, in order; only two are held at a time.
        measure: a function of the composed permutation that computes `pair_cost`, when it is first read.
    """
    matchings = iter(matchings)
    last = next(matchings)
    perm = last.perm
    for last in matchings:
        # A feature that is unmatched in one of the layers stays unmatched in all later ones.
        perm = torch.where(perm >= 0, last.perm[perm.clamp(min=0)], -1)
    partners = perm[perm >= 0]
    return ComposedMatching(
        perm,
        partial(measure, perm),
        target_features=last.target_features,
        status="unproved" if len(np.unique(partners)) == len(partners) else "many_to_one",
        options=last.options,
    )
