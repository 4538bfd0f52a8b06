"""The problem of two SAEs that are compared by their activations on the same tokens, or of two tables of codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from saematch.activations import Codes, Similarities, check_activity_metric
from saematch.cost import CodesCost, Cost, checked_max_cost, pair_costs
from saematch.errors import MatchError, memory_for
from saematch.matching.backend import Backend
from saematch.matching.problem import LARGEST_SQUARE, Problem, search_bytes
from saematch.numeric.arrays import ArrayLike
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import UNIT_64, Floats, Indices
from saematch.numeric.rows import Rows
from saematch.options import ActivityMetric
from saematch.sae.autoencoder import SAE
from saematch.sae.features import folded_rows
from saematch.storage.folders import local_path
from saematch.storage.reading import mapped_array

Activations = ArrayLike | Codes | str | os.PathLike[str]  # what `codes_of` takes
_BYTES_PER_ENTRY = 12  # of the column and the value of a similarity


@dataclass(frozen=True)
class CodesProblem(Problem):
    """A problem whose costs are 1 - similarity of the codes of two SAEs on the same tokens, see `Similarities`.

    Attributes:
        decoders: the decoder rows of both SAEs, for their cosines; None if they are not known, or not in one space.
    """

    similarities: Similarities
    max_cost: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    remake: Callable[[], Problem] | None = None
    decoders: tuple[Rows, Rows] | None = None

    @classmethod
    def checked(
        cls,
        a: Codes,
        b: Codes,
        metric: ActivityMetric,
        max_cost: float | None = None,
        remake: Callable[[], Problem] | None = None,
        decoders: tuple[Rows, Rows] | None = None,
    ) -> CodesProblem:
        """Make a problem from the codes of the same tokens.

        Raises `MatchError` for codes of different numbers of tokens, and for options that are not valid.
        """
        metric = check_activity_metric(metric)
        max_cost = checked_max_cost(max_cost, LARGEST_SQUARE)
        with memory_for(f"the similarities of {a.F:,} x {b.F:,} features"):
            similarities = Similarities.of(metric, a, b)
        options = {"metric": metric, "max_cost": max_cost, "tokens": len(a)}
        return cls(similarities, max_cost, options, remake, decoders)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.similarities.shape

    @property
    @override
    def evaluation_error(self) -> float:
        return 2 * UNIT_64

    @property
    @override
    def cost_error(self) -> float:
        return self.similarities.error + 4 * UNIT_64

    @property
    @override
    def search_bytes(self) -> int:
        return search_bytes(sum(self.shape)) + _BYTES_PER_ENTRY * len(self.similarities.entries.values)

    @override
    def cost(self, backend: Backend) -> Cost:
        return CodesCost(self.similarities)

    @property
    @override
    def stats(self) -> dict[str, Any]:
        times = self.similarities.times_active
        return {
            "tokens": self.similarities.tokens,
            "never_active": [int((one == 0).sum()) for one in times],
            "active_together": len(self.similarities.entries.values),
        }

    @override
    def pair_cost(self, permutation: Indices) -> Floats:
        rows, costs = np.nonzero(permutation >= 0)[0], np.zeros(len(permutation))
        costs[rows] = pair_costs(self.similarities, rows, permutation[rows])
        return costs

    @override
    def cosine(self, permutation: Indices) -> Floats | None:
        return None if self.decoders is None else row_cosines(*self.decoders, permutation)


def problem_of_activations(
    a: SAE, b: SAE, metric: ActivityMetric, activations: Any, max_cost: float | None
) -> CodesProblem:
    """Return the problem of two SAEs by their codes.

    Args:
        a: the source SAE.
        b: the target SAE.
        metric: the similarity.
        activations: what each SAE is given, on the same tokens; see `codes_of`.
        max_cost: see `match`.

    Raises:
        MatchError: unless the activations are those of both SAEs.
    """
    metric = check_activity_metric(metric)
    if not isinstance(activations, list | tuple) or len(activations) != 2:
        raise MatchError(
            f"metric {metric!r} needs activations=(of the source, of the target): the hidden states (tokens, d) that "
            "each SAE reads on the same tokens, or Codes"
        )
    sides = [codes_of(sae, given) for sae, given in zip((a, b), activations, strict=True)]
    decoders = (folded_rows(a, ["decoder"], fold="none"), folded_rows(b, ["decoder"], fold="none"))

    def make() -> CodesProblem:
        return CodesProblem.checked(sides[0], sides[1], metric, max_cost, make, decoders if a.d == b.d else None)

    return make()


def codes_of(sae: SAE, given: Any) -> Codes:
    """Return the codes of an SAE.

    Args:
        sae: the SAE.
        given: its `Codes`, hidden states `(N, d)` as an array or a tensor, or the path of either: a file that
            `Codes.save` wrote, or a `.npy` file.

    Raises:
        MatchError: if the codes are of another number of features, or the hidden states are not for this SAE.
    """
    if isinstance(given, str | os.PathLike):
        path = local_path(given)
        given = Codes.load(path) if Path(path).suffix == ".safetensors" else mapped_array(path, 2, "f")
    if not isinstance(given, Codes):
        return Codes.encode(sae, given)
    if given.F != sae.F:
        raise MatchError(f"{given.source} is of {given.F:,} features, and {sae.source} has {sae.F:,}")
    return given
