"""The problem of two SAEs that are compared by their activations on the same tokens, or of two tables of codes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from saematch.activations import Codes, Similarities, check_activity_metric
from saematch.cost import (
    CodesCost,
    Cost,
    DistanceCost,
    MixedCost,
    checked_max_cost,
    mixed_costs,
    pair_costs,
    squared_distances,
)
from saematch.errors import MatchError, memory_for
from saematch.matching.backend import Backend
from saematch.matching.problem import LARGEST_SQUARE, Problem, search_bytes
from saematch.numeric.arrays import ArrayLike
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import UNIT_64, Floats, Indices
from saematch.numeric.rows import Rows
from saematch.numeric.scratch import bytes_in_memory
from saematch.options import ActivityMetric
from saematch.sae.autoencoder import SAE
from saematch.sae.features import as_targets
from saematch.storage.folders import local_path
from saematch.storage.reading import mapped_array

Activations = ArrayLike | Codes | str | os.PathLike[str]  # what `codes_of` takes
_BYTES_PER_ENTRY = 12  # of the column and the value of a similarity


@dataclass(frozen=True)
class Weighing:
    """The rows of both SAEs for `MixedCost`, and the factor of 1 - similarity in the cost.

    Attributes:
        x: the direction rows of the source, scaled by their share, with the background in the last column.
        y: those of the target.
        factor: the factor of 1 - similarity.
    """

    x: Rows
    y: Rows
    factor: float

    @classmethod
    def of(cls, x: Rows, y: Rows, share: float, similarities: Similarities) -> Weighing:
        """Scale direction rows to a share of the cost, and add the background of the similarities."""
        largest = 2.0 if similarities.metric == "correlation" else 1.0
        factor = (1.0 - share) / largest
        scaled, root = math.sqrt(share / 2.0), math.sqrt(factor / 2.0)
        return cls(
            x.times(scaled).with_column(root * similarities.row_factor),
            as_targets(y).times(scaled).with_column(-root * similarities.column_factor),
            factor,
        )

    def cost(self, similarities: Similarities, backend: Backend) -> MixedCost:
        """Return the costs. Their passes run on the CPU, whatever the backend."""
        precision = backend.precision if backend.name == "torch" else "float32"
        distances = DistanceCost(self.x, self.y, torch.device("cpu"), precision=precision)
        return MixedCost(distances, similarities, self.factor)


@dataclass(frozen=True)
class CodesProblem(Problem):
    """A problem whose costs are 1 - similarity of the codes of two SAEs on the same tokens, see `Similarities`.

    Attributes:
        decoders: the decoder rows of both SAEs, for their cosines; None if they are not known, or not in one space.
        weighing: the weights that count as well; None if only activations do.
    """

    similarities: Similarities
    max_cost: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    remake: Callable[[], Problem] | None = None
    decoders: tuple[Rows, Rows] | None = None
    weighing: Weighing | None = None

    @classmethod
    def checked(
        cls,
        a: Codes,
        b: Codes,
        metric: ActivityMetric,
        max_cost: float | None = None,
        remake: Callable[[], Problem] | None = None,
        decoders: tuple[Rows, Rows] | None = None,
        weights: tuple[Rows, Rows, float] | None = None,
    ) -> CodesProblem:
        """Make a problem from the codes of the same tokens.

        With `weights`, the direction rows of both SAEs and their share w, the cost of a pair is w times that of the
        weights, (1 - cosine) / 2, and 1 - w times that of the activations, (1 - similarity) / 2 for a correlation.

        Raises `MatchError` for codes of different numbers of tokens, and for options that are not valid.
        """
        metric = check_activity_metric(metric)
        max_cost = checked_max_cost(max_cost, LARGEST_SQUARE)
        with memory_for(f"the similarities of {a.F:,} x {b.F:,} features"):
            similarities = Similarities.of(metric, a, b)
        options = {"metric": metric, "max_cost": max_cost, "tokens": len(a)}
        weighing = None
        if weights is not None:
            options["weights_share"] = weights[2]
            weighing = Weighing.of(*weights, similarities)
        return cls(similarities, max_cost, options, remake, decoders, weighing)

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
        own = self.similarities.error + 4 * UNIT_64
        return own if self.weighing is None else own * self.weighing.factor + 32 * UNIT_64

    @property
    @override
    def search_bytes(self) -> int:
        rows = 0 if self.weighing is None else self.weighing.x.size + self.weighing.y.size
        return search_bytes(sum(self.shape), rows) + bytes_of_entries(len(self.similarities.entries.values))

    @override
    def cost(self, backend: Backend) -> Cost:
        if self.weighing is None:
            return CodesCost(self.similarities)
        return self.weighing.cost(self.similarities, backend)

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
        partners = permutation[rows]
        if self.weighing is None:
            costs[rows] = pair_costs(self.similarities, rows, partners)
        else:
            distances = squared_distances(self.weighing.x, self.weighing.y, permutation)[rows]
            costs[rows] = mixed_costs(distances, self.similarities, self.weighing.factor, rows, partners)
        return costs

    @override
    def cosine(self, permutation: Indices) -> Floats | None:
        return None if self.decoders is None else row_cosines(*self.decoders, permutation)


def bytes_of_entries(pairs: int) -> int:
    """Return the memory that similarities of this many pairs take: more than a share of it is kept in a file."""
    return min(_BYTES_PER_ENTRY * pairs, bytes_in_memory())


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
        if not path.is_file():
            what = "is a folder; name a file in it" if path.is_dir() else "no such file"
            raise MatchError(f"{path}: {what}")
        given = Codes.load(path) if Path(path).suffix == ".safetensors" else mapped_array(path, 2, "f")
    if not isinstance(given, Codes):
        return Codes.encode(sae, given)
    given.check_features(sae)
    return given
