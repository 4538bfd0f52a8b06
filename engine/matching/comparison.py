"""How the SAEs of pairs are compared: what is taken of each SAE, and the problem that two of them make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

from typing_extensions import override

from saematch.cost import checked_max_cost
from saematch.errors import MatchError, memory_for
from saematch.matching.problem import LARGEST_SQUARE, Problem, RowProblem, check_metric, check_widths, search_bytes
from saematch.numeric.numbers import real_number
from saematch.numeric.rows import Rows
from saematch.options import ActivityMetric, Metric, Part, Side
from saematch.sae.autoencoder import SAE, Scale
from saematch.sae.features import PARTS, as_targets, check_parts, direction_rows, folded_rows
from saematch.sae.spaces import check_spaces

Fold = Scale | tuple[Scale, Scale]
Features = TypeVar("Features")


class Comparing(ABC, Generic[Features]):
    """How two SAEs are compared, which is the same for all pairs of a run.

    Attributes:
        metric: the cost of a pair, see `match`.
        parts: the parts of the weights that are compared; none if activations are.
        max_cost: the most expensive pair, or None, see `Problem`.
    """

    metric: Metric | ActivityMetric
    parts: tuple[Part, ...]
    max_cost: float | None

    def check_side(self, sae: SAE, side: Side) -> None:
        """Raise `MatchError` if an SAE, of which only the header may be known, cannot be compared with any."""

    def check(self, a: SAE, b: SAE) -> None:
        """Raise `MatchError` if two SAEs, of which only headers may be known, cannot be compared in this way."""

    @abstractmethod
    def bytes_of_features(self, sae: SAE) -> int:
        """Estimate the memory that the features of an SAE take."""

    @abstractmethod
    def search_bytes(self, a: SAE, b: SAE) -> int:
        """Estimate the memory of the search, without that of the features."""

    @abstractmethod
    def features(self, sae: SAE, side: Side, layer: int) -> Features:
        """Return what is compared of the SAE of a layer, on one side of a pair."""

    @abstractmethod
    def problem_of(self, x: Features, y: Features, remake: Callable[[], Problem] | None = None) -> Problem:
        """Return the problem of the features of two SAEs. Raises `MatchError` if they cannot be compared."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return the comparison for JSON."""

    def options(self) -> dict[str, Any]:
        """Return the comparison as options of `match_layers`."""
        return self.record()


class FeatureRows(NamedTuple):
    """The feature rows of an SAE `(F, K)`, its name for messages, and its width."""

    rows: Rows
    source: str
    d: int


@dataclass(frozen=True)
class Comparison(Comparing[FeatureRows]):
    """How two SAEs are compared by their weights.

    Attributes:
        parts: the parts of the weights that are compared.
        weights: the factor of the squared distance of each part.
        folds: the scale of the features of the source, and of the target, see `SAE.scale`; "none" for cosines, which no
            fold changes.
        max_cost: the most expensive pair, or None, see `Problem`.
        metric: the cost of a pair, see `match`.
    """

    parts: tuple[Part, ...]
    weights: dict[Part, float]
    folds: tuple[Scale, Scale]
    max_cost: float | None
    metric: Metric = "squared_distance"

    @classmethod
    def checked(
        cls,
        parts: Sequence[Part] | None = None,
        weights: Mapping[Part, float] | None = None,
        fold: Fold = "threshold",
        max_cost: float | None = None,
        metric: Metric | ActivityMetric = "squared_distance",
    ) -> Comparison:
        """Make a comparison from the arguments of a caller. Raises `MatchError` for options that are not valid."""
        metric = check_metric(metric)
        if metric != "squared_distance":
            fold = "none"
            if parts is not None and "bias" in parts:
                raise MatchError(f"metric {metric!r}: a bias is one number and has no direction; leave it out of parts")
        if parts is None:
            parts = PARTS if metric == "squared_distance" else ("encoder", "decoder")
        is_pair = isinstance(fold, tuple) and len(fold) == 2 and all(real_number(one) is None for one in fold)
        folds = cast(tuple[Scale, Scale], fold if is_pair else (fold, fold))
        return cls(*check_parts(parts, weights), folds, checked_max_cost(max_cost, LARGEST_SQUARE), metric)

    @override
    def check_side(self, sae: SAE, side: Side) -> None:
        """Raise `MatchError` if an SAE, of which only the header may be known, cannot be folded."""
        sae.check_fold(str(self.folds[side]))

    @override
    def check(self, a: SAE, b: SAE) -> None:
        """Raise `MatchError` if two SAEs, of which only headers may be known, cannot be compared in this way."""
        check_widths(a.d, a.source, b.d, b.source, "d")
        check_spaces(a, b, self.parts)

    @override
    def bytes_of_features(self, sae: SAE) -> int:
        """Return the memory that the feature rows of an SAE take: its weights, float16 and bfloat16 as float32."""
        return self.width(sae) * sae.F * max(4, *(tensor.itemsize for tensor in sae.tensors().values()))

    @override
    def search_bytes(self, a: SAE, b: SAE) -> int:
        """Estimate the memory of the search, without that of the feature rows."""
        return search_bytes(a.F + b.F, self.width(a) * a.F + self.width(b) * b.F)

    def width(self, sae: SAE) -> int:
        """Return K, the number of columns of the feature rows."""
        return sum(self._widths(sae)) + (0 if self.metric == "squared_distance" else 2)

    def _widths(self, sae: SAE) -> list[int]:
        return [1 if part == "bias" else sae.d for part in self.parts]

    @override
    def features(self, sae: SAE, side: Side, layer: int = 0) -> FeatureRows:
        """Return the feature rows of an SAE on one side of a pair."""
        with memory_for(f"the feature rows of {sae.source}"):
            if self.metric == "squared_distance":
                rows = folded_rows(sae, self.parts, self.weights, self.folds[side])
            else:
                rows = folded_rows(sae, self.parts, None, "none")
                rows = direction_rows(rows, self._widths(sae), list(self.weights.values()))
        return FeatureRows(rows, sae.source, sae.d)

    def problem(self, a: SAE, b: SAE, remake: Callable[[], Problem] | None = None) -> RowProblem:
        """Return the problem of two SAEs. Raises `MatchError` if the SAEs cannot be compared."""
        self.check(a, b)
        return self.problem_of(self.features(a, Side.SOURCE), self.features(b, Side.TARGET), remake)

    @override
    def problem_of(self, x: FeatureRows, y: FeatureRows, remake: Callable[[], Problem] | None = None) -> RowProblem:
        """Return the problem of the feature rows of two SAEs. Raises `MatchError` if their widths differ."""
        check_widths(x.d, x.source, y.d, y.source, "d")
        targets = y.rows if self.metric == "squared_distance" else as_targets(y.rows)
        decoder_columns = x.d if "decoder" in self.parts else 0
        return RowProblem(x.rows, targets, self.max_cost, self.record(), remake, decoder_columns, self.metric)

    @override
    def record(self) -> dict[str, Any]:
        """Return the comparison for JSON. A scale that is an array of the caller is recorded as "own"."""
        names = [fold if isinstance(fold, str) else "own" for fold in self.folds]
        fold = names[0] if names[0] == names[1] else names
        record = {"parts": list(self.parts), "weights": self.weights, "fold": fold, "max_cost": self.max_cost}
        return record if self.metric == "squared_distance" else {**record, "metric": self.metric}
