"""The problem of two SAEs that are compared by their activations on the same tokens, or of two tables of codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from saematch.activations import Codes, Similarities, check_activity_metric
from saematch.activations.layers import LayerCodes, from_record
from saematch.cost import CodesCost, Cost, checked_max_cost, pair_costs
from saematch.errors import MatchError, memory_for
from saematch.matching.backend import Backend
from saematch.matching.comparison import Comparing
from saematch.matching.problem import LARGEST_SQUARE, Problem, search_bytes
from saematch.numeric.arrays import ArrayLike
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import UNIT_64, Floats, Indices
from saematch.numeric.rows import Rows
from saematch.options import ActivityMetric, Part, Side
from saematch.sae.autoencoder import SAE
from saematch.sae.features import folded_rows
from saematch.storage.folders import local_path
from saematch.storage.reading import mapped_array

Activations = ArrayLike | Codes | str | os.PathLike[str]  # what `codes_of` takes
_BYTES_PER_ENTRY = 12  # of the column and the value of a similarity
_ACTIVE = 100  # features a token, and tokens, for estimates if they are not known
_TOKENS = 100_000


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


class CodedSAE(NamedTuple):
    """The codes of an SAE, which are compared, and its decoder rows for cosines."""

    codes: Codes
    decoder: Rows


@dataclass(frozen=True)
class ActivityComparison(Comparing[CodedSAE]):
    """How the SAEs of a run are compared by their activations. They may be of any width.

    Attributes:
        metric: the similarity.
        layers: the codes of the SAE of every layer.
        max_cost: the most expensive pair, or None, see `Problem`.
        parts: no parts of weights are compared.
    """

    metric: ActivityMetric
    layers: LayerCodes
    max_cost: float | None = None
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any], layers: Sequence[int]) -> ActivityComparison:
        """Return the comparison that a run has recorded. Raises `MatchError` if its activations have changed."""
        metric = check_activity_metric(record["metric"])
        return cls(metric, from_record(record["activations"], layers), record["max_cost"])

    @override
    def bytes_of_features(self, sae: SAE) -> int:
        """Estimate the memory that the codes of an SAE take, by token and by feature, with `_ACTIVE` for each token."""
        return 2 * 8 * (sae.k or _ACTIVE) * self._tokens + 4 * sae.F * sae.d

    @override
    def search_bytes(self, a: SAE, b: SAE) -> int:
        """Estimate the memory of the search, without that of the codes."""
        together = self._tokens * (a.k or _ACTIVE) * (b.k or _ACTIVE)
        return search_bytes(a.F + b.F) + _BYTES_PER_ENTRY * min(a.F * b.F, together)

    @property
    def _tokens(self) -> int:
        return int(self.layers.record().get("tokens", _TOKENS))

    @override
    def features(self, sae: SAE, side: Side, layer: int) -> CodedSAE:
        """Return the codes and the decoder rows of the SAE of a layer on one side of a pair."""
        return CodedSAE(self.layers.codes(sae, layer, side), folded_rows(sae, ["decoder"], fold="none"))

    @override
    def problem_of(self, x: CodedSAE, y: CodedSAE, remake: Callable[[], Problem] | None = None) -> CodesProblem:
        """Return the problem of the features of two SAEs."""
        decoders = (x.decoder, y.decoder) if x.decoder.width == y.decoder.width else None
        return CodesProblem.checked(x.codes, y.codes, self.metric, self.max_cost, remake, decoders)

    @override
    def record(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        nothing = {"parts": [], "weights": {}, "fold": "none"}
        return {**nothing, "max_cost": self.max_cost, "metric": self.metric, "activations": self.layers.record()}

    @override
    def options(self) -> dict[str, Any]:
        return {"metric": self.metric, "activations": self.layers, "max_cost": self.max_cost}


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
    given.check_features(sae)
    return given
