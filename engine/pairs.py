"""The doors for one pair: match two SAEs, assign rows to rows, certify anybody's permutation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from saematch.assignment import Round, solve
from saematch.backend import choose_device, free_memory
from saematch.cost import BLOCK_BYTES, UNIT_64, DistanceCost, Rows, gamma, squared_distances
from saematch.errors import MatchError
from saematch.features import PARTS, check_parts, feature_rows
from saematch.matching import Matching, NotCertified, check_permutation
from saematch.sae import SAE, Scale

LARGEST, SMALLEST = 1e140, 1e-140  # of the largest entry: squares stay in float64's range
MOST_COLUMNS = 2**20  # the bound for float32 products loses its meaning beyond
CERTIFY_MEMORY = 2**28
Fold = Scale | tuple[Scale, Scale]


def match(
    a: SAE,
    b: SAE,
    *,
    parts: Sequence[str] = PARTS,
    weights: Mapping[str, float] | None = None,
    fold: Fold = "threshold",
    max_cost: float | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """The cheapest one-to-one matching of the features of two SAEs, proved optimal (SAE Match, arXiv 2410.07656).

    The cost of a pair is the squared distance of its folded weights, summed over the parts, in float64. Where one SAE
    has fewer features, all of them are matched. With `max_cost` a feature of either side may stay without a partner:
    what is minimised is then the cost of the pairs plus max_cost / 2 for every feature left out, so that no pair dearer
    than `max_cost` is made.

    Args:
        a: the source, with `F` features on activations of width `d`.
        b: the target, on activations of the same width.
        parts: any of "encoder", "bias", "decoder".
        weights: factor of each part's squared distance; 1 unless given.
        fold: what each feature is scaled by, see `SAE.fold`; a pair gives A's and B's own.
        max_cost: the dearest pair to be made; None matches the whole smaller side.
        max_rounds: stop after so many passes over all pairs, with the best matching so far and its true gap.
        time_limit: the same after so many seconds, at the end of the pass that is running then.
        memory: bytes for the products of all pairs, which are kept if they fit and made again in each pass if not; half
            of what is free unless given. The answer is the same.
        device: where the passes run; a CUDA GPU if there is one, else the CPU.
        strict: raise `NotCertified` instead of returning a matching that is not proved optimal.
        progress: called after each pass over all pairs.

    Raises:
        MatchError: for SAEs that cannot be compared, or options that make no sense.
        NotCertified: under `strict`.
    """
    for sae in (a, b):
        if not isinstance(sae, SAE):
            raise MatchError(f"match takes two SAEs, got {type(sae).__name__}; saematch.load reads one")
    solver = Solver(max_rounds, time_limit, memory, device, strict, progress)
    return solver.run(Comparison.checked(parts, weights, fold, max_cost).problem(a, b))


def assign(
    x: Any,
    y: Any,
    *,
    max_cost: float | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """`match` on plain rows `x (F_A, K)` and `y (F_B, K)`: numpy or torch, any device and number type, left untouched.

    Raises:
        MatchError: for rows that are not finite, not two-dimensional, or of different shapes.
        NotCertified: under `strict`.
    """
    return Solver(max_rounds, time_limit, memory, device, strict, progress).run(_problem_of_rows(x, y, max_cost))


def certify(
    a: Any,
    b: Any,
    perm: Any,
    *,
    parts: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    fold: Fold | None = None,
    max_cost: float | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """Anybody's permutation, graded: certified if it is optimal, else with its true excess over the optimum as `gap`.

    `a` and `b` are SAEs, with the options of `match`, or feature rows as in `assign`. The optimum is found and proved
    on the way, in memory that does not grow with the number of pairs: 256 MB for their products unless `memory` says
    otherwise.

    Raises:
        MatchError: if `perm` is no permutation, or not complete without `max_cost`, or as `match` and `assign` do.
        NotCertified: under `strict`, if it is not optimal.
    """
    if isinstance(a, SAE) and isinstance(b, SAE):
        comparison = Comparison.checked(
            PARTS if parts is None else parts, weights, "threshold" if fold is None else fold, max_cost
        )
        problem = comparison.problem(a, b)
    elif isinstance(a, SAE) or isinstance(b, SAE):
        raise MatchError("certify takes two SAEs or two matrices of feature rows, not one of each")
    elif parts is not None or weights is not None or fold is not None:
        raise MatchError("parts, weights and fold apply to SAEs; feature rows are compared as they are")
    else:
        problem = _problem_of_rows(a, b, max_cost)
    checked = check_permutation(perm, len(problem.x), len(problem.y))
    matched, smaller = int((checked >= 0).sum()), min(len(problem.x), len(problem.y))
    if max_cost is None and matched < smaller:
        raise MatchError(
            f"perm matches {matched} of {smaller} features; without max_cost, -1 is for what cannot have a partner"
        )
    memory = CERTIFY_MEMORY if memory is None else memory
    return Solver(max_rounds, time_limit, memory, device, strict, progress).run(problem, checked)


@dataclass(frozen=True)
class Problem:
    """Rows to be matched, `x (F_A, K)` and `y (F_B, K)`, checked; `options` says how they came about.

    Without `max_cost` the smaller side is fully matched; with it, a feature stays free rather than take part in a pair
    that costs more. Raises `MatchError` for a `max_cost` or rows that no float64 arithmetic can handle.
    """

    x: Rows
    y: Rows
    max_cost: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_cost is not None and not (
            isinstance(self.max_cost, float | int) and math.isfinite(self.max_cost) and self.max_cost >= 0
        ):
            raise MatchError(f"max_cost is {self.max_cost}; give a finite squared distance, 0 or more, or none")
        if self.x.shape[1] > MOST_COLUMNS:
            raise MatchError(f"rows have {self.x.shape[1]} columns; at most {MOST_COLUMNS} can be handled")
        sizes = [max(float(rows.max(initial=0)), -float(rows.min(initial=0))) for rows in (self.x, self.y)]
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

    def staying_free(self) -> tuple[float, float]:
        """What it costs to leave a source, or a target, without a partner; infinite where it must have one."""
        if self.max_cost is not None:
            return self.max_cost / 2, self.max_cost / 2
        sources, targets = len(self.x), len(self.y)
        return (0.0 if sources > targets else math.inf), (0.0 if targets > sources else math.inf)


@dataclass(frozen=True)
class Comparison:
    """What of two SAEs is compared: parts, their weights, and the fold of the source and of the target."""

    parts: tuple[str, ...]
    weights: dict[str, float]
    folds: tuple[Scale, Scale]
    max_cost: float | None

    @classmethod
    def checked(
        cls, parts: Sequence[str], weights: Mapping[str, float] | None, fold: Fold, max_cost: float | None = None
    ) -> Comparison:
        """Raises `MatchError` for parts or weights that make no sense."""
        is_pair = isinstance(fold, tuple) and len(fold) == 2 and not any(isinstance(one, int | float) for one in fold)
        folds = cast(tuple[Scale, Scale], fold if is_pair else (fold, fold))
        return cls(*check_parts(parts, weights), folds, max_cost)

    def rows(self, sae: SAE, side: int = 0) -> Rows:
        """Feature rows of the source (side 0) or the target (side 1)."""
        return feature_rows(sae, self.parts, self.weights, self.folds[side])

    def problem(self, a: SAE, b: SAE) -> Problem:
        """The rows of both sides. Raises `MatchError` if they cannot be compared."""
        check_widths(a.d, a.source, b.d, b.source, "d")
        return Problem(self.rows(a, 0), self.rows(b, 1), self.max_cost, self.record())

    def record(self) -> dict[str, Any]:
        """For JSON; a scale of the caller's own is recorded as "own"."""
        names = [fold if isinstance(fold, str) else "own" for fold in self.folds]
        fold = names[0] if names[0] == names[1] else names
        return {"parts": list(self.parts), "weights": self.weights, "fold": fold, "max_cost": self.max_cost}


@dataclass(frozen=True)
class Solver:
    """How a problem is solved: limits, device, and what becomes of an answer that is not proved."""

    max_rounds: int | None = None
    time_limit: float | None = None
    memory: int | None = None
    device: str | torch.device | None = None
    strict: bool = False
    progress: Callable[[Round], None] | None = None

    def __post_init__(self) -> None:
        if self.max_rounds is not None and not (isinstance(self.max_rounds, int) and self.max_rounds >= 1):
            raise MatchError(f"max_rounds is {self.max_rounds!r}; give a whole number, at least 1, or none")
        if self.time_limit is not None and not (isinstance(self.time_limit, float | int) and self.time_limit > 0):
            raise MatchError(f"time_limit is {self.time_limit!r}; give seconds above 0, or none")
        if self.memory is not None and not (isinstance(self.memory, int) and self.memory >= BLOCK_BYTES):
            raise MatchError(f"memory is {self.memory!r}; give bytes, at least {BLOCK_BYTES} for one block of products")

    def run(self, problem: Problem, perm: Tensor | None = None) -> Matching:
        """The optimum with its proof, or `perm` graded by it. Raises `NotCertified` under `strict`."""
        began = time.perf_counter()
        device, _ = choose_device(self.device)
        cost = DistanceCost(
            problem.x, problem.y, device, memory=free_memory() // 2 if self.memory is None else self.memory
        )
        free = cost.free(*problem.staying_free())
        solution = solve(
            cost, free, start=None if perm is None else perm.numpy(), max_rounds=self.max_rounds,
            time_limit=self.time_limit, progress=self.progress,
        )  # fmt: skip
        permutation = solution.permutation if perm is None else perm.numpy()
        certificate = solution.grade(cost, free, permutation)
        if certificate.certified:
            status = "optimal"
        elif solution.stopped_by is not None:
            status = solution.stopped_by
        else:
            status = "suboptimal" if solution.grade(cost, free, solution.permutation).certified else "unproved"
        # The objective is a float64 sum of float64 squares: in the lower bound its own rounding counts as well.
        evaluation = gamma(problem.x.shape[1] + 8, UNIT_64)
        matching = Matching(
            torch.from_numpy(permutation),
            torch.from_numpy(squared_distances(problem.x, problem.y, permutation)),
            target_features=len(problem.y),
            prices=torch.from_numpy(cost.column_constant + solution.prices / cost.scale),
            certificate=certificate,
            evaluation_error=evaluation,
            status=status,
            options=problem.options,
            stats={
                "backend": "torch",
                "device": str(device),
                "costs": "stored" if cost.stored else "matrix-free",
                "precision": "float32 chooses, float64 proves",
                "rounds": solution.rounds,
                "edges": solution.edges,
                "seconds": time.perf_counter() - began,
                "stages": dict(solution.seconds),
            },
        )
        if self.strict:
            require_certified(matching)
        return matching


def require_certified(matching: Matching) -> None:
    """Raise `NotCertified`, with the matching, unless it is proved optimal."""
    if not matching.certified:
        raise NotCertified(
            f"not proved optimal ({matching.status}): gap {matching.gap:.3g} and rounding {matching.error:.3g} of a "
            f"scale of {matching.scale:.3g}; the matching is in .matching",
            matching,
        )


def _problem_of_rows(x: Any, y: Any, max_cost: float | None) -> Problem:
    x, y = _checked_rows(x, "the first matrix"), _checked_rows(y, "the second matrix")
    check_widths(x.shape[1], "the first matrix", y.shape[1], "the second matrix", "K")
    return Problem(x, y, max_cost, {"max_cost": max_cost})


def _checked_rows(given: Any, name: str) -> Rows:
    """Rows on the CPU, in float32 or float64 as they are, else upcast."""
    if isinstance(given, Tensor):
        if given.layout != torch.strided or given.is_complex() or given.dtype == torch.bool:
            raise MatchError(f"{name} is a {given.dtype} tensor ({given.layout}); expected a dense one of real numbers")
        tensor = given.detach().cpu()
        rows = (tensor if tensor.dtype == torch.float32 else tensor.double()).numpy()
    else:
        rows = np.asarray(given)
        if rows.dtype.kind not in "fiu":
            raise MatchError(f"{name} holds {rows.dtype}; expected numbers")
        rows = rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)
    if rows.ndim != 2:
        raise MatchError(f"{name} has shape {rows.shape}; expected (features, K), one feature a row")
    bad = ~np.isfinite(rows)
    if bad.any():
        i, k = np.argwhere(bad)[0]
        raise MatchError(f"{name} holds {bad.sum()} values that are NaN or infinite, the first at row {i}, column {k}")
    return np.ascontiguousarray(rows)


def check_widths(width: int, source: str, other: int, target: str, letter: str) -> None:
    """Raise `MatchError` unless both sides have the same width."""
    if width != other:
        raise MatchError(
            f"{source} has {letter} = {width} and {target} has {letter} = {other}: they do not live in one space and "
            "cannot be compared"
        )
