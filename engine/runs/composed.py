"""Matchings that follow from others, whose costs are computed when they are first read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saematch.matching.result import Matching
from saematch.options import Status


class ComposedMatching(Matching):
    """A matching that follows from the matchings between the layers on the way.

    `measure` computes `pair_cost` from the SAEs of both layers, which need not be there before it is read. A pickle
    holds the costs, and is a `Matching` like any other.
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
        super().__init__(perm, torch.empty(0), target_features=target_features, status=status, options=options)
        del self.__dict__["pair_cost"]  # the property takes its place
        self.__dict__["_measure"] = measure

    @cached_property
    def pair_cost(self) -> Tensor:
        """float64 `(F_A,)`: the direct cost of each pair, 0.0 without a partner."""
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
