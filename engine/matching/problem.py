"""The problem to be solved: costs of all pairs, from feature rows, from two SAEs, or from a given matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from saematch.cost import Cost, DistanceCost, MatrixCost, checked_max_cost, squared_distances
from saematch.errors import MatchError
from saematch.matching.backend import Backend
from saematch.numeric.arrays import dense_array
from saematch.numeric.cosines import row_cosines
from saematch.numeric.rounding import UNIT_64, Floats, Indices, gamma
from saematch.numeric.rows import Rows
from saematch.options import ActivityMetric, Metric, names
from saematch.resources import BLOCK_BYTES
from saematch.sae.features import as_targets, direction_rows, without_direction

LARGEST, SMALLEST = 1e140, 1e-140  # limits of the largest entry: its square stays in the range of float64
LARGEST_SQUARE = 1e299  # a limit of max_cost: the sum over all features stays in the range of float64
MOST_COLUMNS = 2**20  # with more columns, the error bound of float32 products says nothing
_BYTES_PER_FEATURE = 5_000  # of the candidate lists, edges and prices of a pair, for each feature of both sides
_WHOLE = 2**53  # all whole numbers up to this one are float64 numbers


class Problem(ABC):
    """Source features that are to be matched with target features.

    Attributes:
        max_cost: None if all features of the smaller side must be matched. Otherwise a feature stays unmatched rather
            than being part of a pair that costs more, see `saematch.cost.unmatched`.
        options: how the problem was made from the inputs, for the record of a matching.
        remake: a function that makes the problem again, for margins, so that a matching does not keep its rows in
            memory; None if the problem itself may be kept.
    """

    max_cost: float | None
    options: dict[str, Any]
    remake: Callable[[], Problem] | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""

    @property
    @abstractmethod
    def evaluation_error(self) -> float:
        """A bound for the relative rounding error of `pair_cost`."""

    @property
    def cost_error(self) -> float:
        """A bound for what costs that are sums over many tokens are wrong by, beyond `evaluation_error`."""
        return 0.0

    @property
    @abstractmethod
    def search_bytes(self) -> int:
        """An estimate of the memory that the search takes, besides the problem itself."""

    @abstractmethod
    def cost(self, backend: Backend) -> Cost:
        """Return the costs of all pairs, whose passes run on the given backend."""

    @property
    def stats(self) -> dict[str, Any]:
        """Remarks on the features, as a part of `Matching.stats`."""
        return {}

    @abstractmethod
    def pair_cost(self, permutation: Indices) -> Floats:
        """Return the cost of each pair in float64, `(F_A,)`; 0.0 where `permutation` is -1."""

    def cosine(self, permutation: Indices) -> Floats | None:  # noqa: ARG002 (for subclasses)
        """Return the cosine of the decoder rows of each pair, `(F_A,)`; None if they are not known."""
        return None


@dataclass(frozen=True)
class RowProblem(Problem):
    """A problem of rows `x (F_A, K)` and `y (F_B, K)`: the cost of a pair is the squared distance of its rows.

    The last `decoder_columns` columns of weights are the decoder rows of two SAEs, scaled, whose cosines are those of
    the decoder rows themselves. Under a `metric` other than the squared distance, `x` and `y` are `direction_rows`.
    Raises `MatchError` for rows whose squared distances leave the range of float64.
    """

    x: Rows
    y: Rows
    max_cost: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    remake: Callable[[], Problem] | None = None
    decoder_columns: int = 0
    metric: Metric = "squared_distance"

    def __post_init__(self) -> None:
        if self.x.width > MOST_COLUMNS:
            raise MatchError(f"rows have {self.x.width} columns; at most {MOST_COLUMNS} can be handled")
        # A norm is between the largest entry of a row and sqrt(K) times that, so that few problems need a closer look.
        square = max(float(rows.square.max(initial=0.0)) for rows in (self.x, self.y))
        if MOST_COLUMNS * SMALLEST**2 < square < LARGEST**2:
            return
        sizes = [self.x.largest_entry(), self.y.largest_entry()]
        if not all(size <= LARGEST for size in sizes):  # NaN fails this too
            raise MatchError(
                f"feature rows reach {max(sizes):g}; their squares leave float64 above {LARGEST:g}: choose smaller "
                "weights or another fold"
            )
        if 0 < max(sizes) < SMALLEST:
            raise MatchError(
                f"feature rows stay below {max(sizes):g}; their squares vanish in float64 below {SMALLEST:g}: choose "
                "larger weights or another fold"
            )

    @classmethod
    def checked(
        cls, x: Any, y: Any, max_cost: float | None, metric: Metric | ActivityMetric = "squared_distance"
    ) -> RowProblem:
        """Make a problem from the arguments of a caller.

        Raises `MatchError` unless `x` and `y` are finite matrices of one width, and `max_cost` and `metric` are valid.
        """
        metric = check_metric(metric)
        x, y = _rows(x, "the first matrix"), _rows(y, "the second matrix")
        check_widths(x.width, "the first matrix", y.width, "the second matrix", "K")
        max_cost = checked_max_cost(max_cost, LARGEST_SQUARE)
        options: dict[str, Any] = {"max_cost": max_cost}
        if metric != "squared_distance":
            x, y = (direction_rows(rows, [rows.width], [1.0]) for rows in (x, y))
            y = as_targets(y)
            options["metric"] = metric
        return cls(x, y, max_cost, options, metric=metric)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.y)

    @property
    @override
    def evaluation_error(self) -> float:
        return gamma(self.x.width + 8, UNIT_64)

    @property
    @override
    def search_bytes(self) -> int:
        return search_bytes(sum(self.shape), self.x.size + self.y.size)

    @override
    def cost(self, backend: Backend) -> Cost:
        return DistanceCost(
            self.x,
            self.y,
            backend.device,
            precision=backend.precision,
            backend=backend.name,
            up_to_sign=self.up_to_sign,
        )

    @override
    def pair_cost(self, permutation: Indices) -> Floats:
        return squared_distances(self.x, self.y, permutation, self.up_to_sign)

    @property
    def up_to_sign(self) -> bool:
        """Whether a row may be compared with the negative of another row."""
        return self.metric == "absolute_cosine"

    @property
    @override
    def stats(self) -> dict[str, Any]:
        if self.metric == "squared_distance":
            return {}
        return {"without_direction": [without_direction(self.x), without_direction(self.y)]}

    @override
    def cosine(self, permutation: Indices) -> Floats | None:
        if not self.decoder_columns:
            return None
        end = self.x.width - (0 if self.metric == "squared_distance" else 2)
        return row_cosines(self.x, self.y, permutation, slice(end - self.decoder_columns, end))


@dataclass(frozen=True)
class MatrixProblem(Problem):
    """A problem whose costs are given as a `matrix (F_A, F_B)`, of any sign; inf forbids a pair.

    Raises `MatchError` for NaN, -inf, and numbers whose sums leave the range of float64.
    """

    matrix: NDArray[Any]
    max_cost: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse(np.isnan(self.matrix) | (self.matrix == -np.inf), "cost holds", "NaN or -inf (inf forbids a pair)")
        largest = min(LARGEST, float(np.finfo(self.matrix.dtype).max))
        _refuse(np.isfinite(self.matrix) & (np.abs(self.matrix) > largest), "cost holds", f"beyond {LARGEST:g} in size")

    @classmethod
    def checked(cls, cost: Any, max_cost: float | None) -> MatrixProblem:
        """Make a problem from the arguments of a caller. Raises `MatchError` unless `cost` is a matrix of numbers."""
        matrix = _matrix(cost, "cost", "(sources, targets)")
        max_cost = checked_max_cost(max_cost, LARGEST)
        return cls(matrix, max_cost, {"max_cost": max_cost})

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    @override
    def evaluation_error(self) -> float:
        return 2 * UNIT_64

    @property
    @override
    def search_bytes(self) -> int:
        return search_bytes(sum(self.shape)) + 16 * self.matrix.size

    @override
    def cost(self, backend: Backend) -> Cost:
        return MatrixCost(self.matrix)

    @override
    def pair_cost(self, permutation: Indices) -> Floats:
        rows = np.nonzero(permutation >= 0)[0]
        out = np.zeros(len(permutation))
        out[rows] = self.matrix[rows, permutation[rows]]
        return out


def search_bytes(features: int, entries: int = 0) -> int:
    """Estimate the memory that the search takes: lists, edges and prices, the operands of passes, and a tile.

    Args:
        features: the number of features of both sides.
        entries: the number of entries of the rows of both sides, which passes hold in float32 and in int8.
    """
    return _BYTES_PER_FEATURE * features + (4 + 1) * entries + BLOCK_BYTES


def check_metric(metric: Any) -> Metric:
    """Return a metric of weights or rows. Raises `MatchError` unless it is one."""
    if metric in names(ActivityMetric):
        raise MatchError(
            f"metric {metric!r} compares codes, not weights or rows: give activations= of both SAEs, or make both "
            "sides saematch.activations.Codes"
        )
    if metric not in names(Metric):
        known = ", ".join(names(Metric) + names(ActivityMetric))
        raise MatchError(f"metric is {metric!r}; choose one of {known}")
    return cast(Metric, metric)


def check_widths(width: int, source: str, other: int, target: str, letter: str) -> None:
    """Raise `MatchError` unless both sides have the same width."""
    if width != other:
        raise MatchError(
            f"{source} has {letter} = {width} and {target} has {letter} = {other}: they do not live in one space and "
            f"cannot be compared{' without a map from one to the other, see SAE.mapped' if letter == 'd' else ''}"
        )


def _rows(given: Any, name: str) -> Rows:
    matrix = _matrix(given, name, "(features, K), one row per feature")
    rows = Rows.of(matrix)
    if not np.isfinite(rows.square).all():  # by NaN, infinite numbers, or squares that leave float64
        _refuse(~np.isfinite(matrix), f"{name} holds", "NaN or infinite")
    return rows


def _matrix(given: Any, name: str, expected: str) -> NDArray[Any]:
    """Return a matrix on the CPU: float32 and float64 are kept, other number types become float64."""
    given = dense_array(given, name, expected)
    if given.dtype.kind not in "fiu":
        raise MatchError(f"{name} holds {given.dtype}; expected numbers of numpy's own real types, like float64")
    if given.ndim != 2:
        raise MatchError(f"{name} has shape {given.shape}; expected {expected}")
    if given.dtype.kind in "iu" and given.dtype.itemsize == 8:
        _refuse((given > _WHOLE) | (given < -_WHOLE), f"{name} holds", f"beyond {_WHOLE}, where float64 rounds them")
    with np.errstate(over="ignore"):
        matrix = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    if given.dtype.kind == "f" and given.dtype.itemsize > matrix.dtype.itemsize:
        _refuse((matrix != given) & ~np.isnan(given), f"{name} holds", "rounded by float64; convert it first")
    return np.ascontiguousarray(matrix)


def _refuse(bad: NDArray[np.bool_], what: str, which: str) -> None:
    """Raise `MatchError` if any entry is bad, with the number of such entries and the place of the first one."""
    if bad.any():
        i, k = np.argwhere(bad)[0]
        raise MatchError(f"{what} {bad.sum()} values that are {which}, the first at row {i}, column {k}")
