"""The doors for one pair: match two SAEs, assign rows to rows, certify anybody's permutation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from saematch.assignment import Round, solve
from saematch.backend import choose_device, free_memory
from saematch.cost import BLOCK_BYTES, PairCost, Rows, squared_distances
from saematch.errors import MatchError
from saematch.features import PARTS, check_parts, feature_rows
from saematch.matching import Matching, NotCertified, check_permutation
from saematch.sae import SAE, Scale

LARGEST = 1e150  # squares of what is larger leave float64
CERTIFY_MEMORY = 2**28
Fold = Scale | tuple[Scale, Scale]


def match(
    a: SAE,
    b: SAE,
    *,
    parts: Sequence[str] = PARTS,
    weights: Mapping[str, float] | None = None,
    fold: Fold = "threshold",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """The cheapest one-to-one matching of the features of two SAEs, proved optimal (SAE Match, arXiv 2410.07656).

    The cost of a pair is the squared distance of its folded weights, summed over the parts, in float64.

    Args:
        a: the source, with `F` features on activations of width `d`.
        b: the target, of the same sizes.
        parts: any of "encoder", "bias", "decoder".
        weights: factor of each part's squared distance; 1 unless given.
        fold: what each feature is scaled by, see `SAE.fold`; a pair gives A's and B's own.
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
    solver = Solver(max_rounds, time_limit, memory, device, strict, progress)
    return solver.run(Comparison.checked(parts, weights, fold).problem(a, b))


def assign(
    x: Any,
    y: Any,
    *,
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
    return Solver(max_rounds, time_limit, memory, device, strict, progress).run(_problem_of_rows(x, y))


def certify(
    a: Any,
    b: Any,
    perm: Any,
    *,
    parts: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    fold: Fold | None = None,
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
        MatchError: if `perm` is no complete permutation, or as `match` and `assign` do.
        NotCertified: under `strict`, if it is not optimal.
    """
    if isinstance(a, SAE) and isinstance(b, SAE):
        comparison = Comparison.checked(
            PARTS if parts is None else parts, weights, "threshold" if fold is None else fold
        )
        problem = comparison.problem(a, b)
    elif isinstance(a, SAE) or isinstance(b, SAE):
        raise MatchError("certify takes two SAEs or two matrices of feature rows, not one of each")
    elif parts is not None or weights is not None or fold is not None:
        raise MatchError("parts, weights and fold apply to SAEs; feature rows are compared as they are")
    else:
        problem = _problem_of_rows(a, b)
    checked = check_permutation(perm, len(problem.x), len(problem.y))
    if bool((checked < 0).any()):
        i = int((checked < 0).nonzero()[0])
        raise MatchError(f"perm[{i}] is -1: only a complete permutation can be certified")
    memory = CERTIFY_MEMORY if memory is None else memory
    return Solver(max_rounds, time_limit, memory, device, strict, progress).run(problem, checked)


@dataclass(frozen=True)
class Problem:
    """Rows to be matched, `x (F_A, K)` and `y (F_B, K)`, checked; `options` says how they came about."""

    x: Rows
    y: Rows
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What of two SAEs is compared: parts, their weights, and the fold of the source and of the target."""

    parts: tuple[str, ...]
    weights: dict[str, float]
    folds: tuple[Scale, Scale]

    @classmethod
    def checked(cls, parts: Sequence[str], weights: Mapping[str, float] | None, fold: Fold) -> Comparison:
        """Raises `MatchError` for parts or weights that make no sense."""
        is_pair = isinstance(fold, tuple) and len(fold) == 2 and not any(isinstance(one, int | float) for one in fold)
        folds = cast(tuple[Scale, Scale], fold if is_pair else (fold, fold))
        return cls(*check_parts(parts, weights), folds)

    def rows(self, sae: SAE, side: int = 0) -> Rows:
        """Feature rows of the source (side 0) or the target (side 1)."""
        return feature_rows(sae, self.parts, self.weights, self.folds[side])

    def problem(self, a: SAE, b: SAE) -> Problem:
        """The rows of both sides. Raises `MatchError` if they cannot be compared."""
        check_comparable(a, b)
        return Problem(self.rows(a, 0), self.rows(b, 1), self.record())

    def record(self) -> dict[str, Any]:
        """For JSON; a scale of the caller's own is recorded as "own"."""
        names = [fold if isinstance(fold, str) else "own" for fold in self.folds]
        return {"parts": list(self.parts), "weights": self.weights, "fold": names[0] if names[0] == names[1] else names}


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
        if self.max_rounds is not None and self.max_rounds < 1:
            raise MatchError(f"max_rounds is {self.max_rounds}; at least one round is needed for an answer")
        if self.time_limit is not None and not self.time_limit > 0:
            raise MatchError(f"time_limit is {self.time_limit}; give seconds above 0, or none")
        if self.memory is not None and self.memory < BLOCK_BYTES:
            raise MatchError(f"memory is {self.memory} bytes; one block of products alone needs {BLOCK_BYTES}")

    def run(self, problem: Problem, perm: Tensor | None = None) -> Matching:
        """The optimum with its proof, or `perm` graded by it. Raises `NotCertified` under `strict`."""
        began = time.perf_counter()
        device, _ = choose_device(self.device)
        cost = PairCost(problem.x, problem.y, device, memory=free_memory() // 2 if self.memory is None else self.memory)
        solution = solve(
            cost, start=None if perm is None else perm.numpy(), max_rounds=self.max_rounds, time_limit=self.time_limit,
            progress=self.progress,
        )  # fmt: skip
        permutation = solution.permutation if perm is None else perm.numpy()
        certificate = solution.grade(cost, permutation)
        if certificate.certified:
            status = "optimal"
        elif solution.stopped_by is not None:
            status = solution.stopped_by
        else:
            status = "suboptimal" if solution.grade(cost, solution.permutation).certified else "unproved"
        matching = Matching(
            torch.from_numpy(permutation),
            torch.from_numpy(squared_distances(problem.x, problem.y, permutation)),
            target_features=len(problem.y),
            prices=torch.from_numpy(cost.column_constant + solution.prices / cost.scale),
            certificate=certificate,
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


def check_comparable(a: SAE, b: SAE) -> None:
    """Raise `MatchError` unless both SAEs have the same width and number of features."""
    _check_sizes((a.F, a.d, a.source), (b.F, b.d, b.source), "d")


def _problem_of_rows(x: Any, y: Any) -> Problem:
    x, y = _checked_rows(x, "the first matrix"), _checked_rows(y, "the second matrix")
    _check_sizes((*x.shape, "the first matrix"), (*y.shape, "the second matrix"), "K")
    return Problem(x, y)


def _checked_rows(given: Any, name: str) -> Rows:
    """Rows on the CPU, in float32 or float64 as they are, else upcast."""
    if isinstance(given, Tensor):
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
    if max(float(rows.max(initial=0)), -float(rows.min(initial=0))) > LARGEST:
        raise MatchError(f"{name} holds values above {LARGEST:g}, whose squares overflow; scale both matrices down")
    return np.ascontiguousarray(rows)


def _check_sizes(source: tuple[int, int, str], target: tuple[int, int, str], width: str) -> None:
    if source[1] != target[1]:
        raise MatchError(
            f"{source[2]} has {width} = {source[1]} and {target[2]} has {width} = {target[1]}: they do not live in one "
            "space and cannot be compared"
        )
    if source[0] != target[0]:
        raise MatchError(
            f"{source[2]} has {source[0]} features and {target[2]} has {target[0]}: matching different numbers of "
            "features is not supported yet; choose SAEs of the same width"
        )
