"""The doors for one pair: match two SAEs, assign rows to rows or by costs, certify anybody's permutation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from saematch.assignment import Round
from saematch.errors import MatchError
from saematch.matching.backend import choose_device, memory_for_products
from saematch.matching.permutation import check_permutation
from saematch.matching.problem import Comparison, Fold, MatrixProblem, Problem, RowProblem
from saematch.matching.result import Matching
from saematch.matching.solver import Solver
from saematch.options import BackendName, Method, Part, PrecisionName
from saematch.sae.autoencoder import SAE
from saematch.sae.features import PARTS

CERTIFY_MEMORY = 2**28


def match(
    a: SAE,
    b: SAE,
    *,
    parts: Sequence[Part] = PARTS,
    weights: Mapping[Part, float] | None = None,
    fold: Fold = "threshold",
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "ieee",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """The cheapest one-to-one matching of the features of two SAEs, proved optimal (SAE Match, arXiv 2410.07656).

    The cost of a pair is the squared distance of its folded weights, summed over the parts, in float64. Where one SAE
    has fewer features, all of them are matched. With `max_cost` a feature of either side may stay without a partner:
    what is minimised is then the cost of the pairs plus max_cost / 2 for every feature left out, so that no pair dearer
    than `max_cost` is made. The matching holds on to both SAEs, for its margins; one from a file or a pickle does not.

    Args:
        a: the source, with `F` features on activations of width `d`.
        b: the target, on activations of the same width.
        parts: any of "encoder", "bias", "decoder".
        weights: factor of each part's squared distance; 1 unless given.
        fold: what each feature is scaled by, see `SAE.fold`; a pair gives A's and B's own.
        max_cost: the dearest pair to be made; None matches the whole smaller side.
        method: "optimal", or a baseline to compare with, graded by the same proof: "greedy" (the cheapest pair first),
            "mutual_nearest" (pairs in which each is the other's cheapest; the rest stays without a partner), "nearest"
            (each source's cheapest target, many to one).
        max_rounds: stop after so many passes over all pairs, with the best matching so far and its true gap.
        time_limit: the same after so many seconds, at the end of the pass that is running then.
        memory: bytes for the products of all pairs, which are kept if they fit and made again in each pass if not; half
            of what is free unless given. The answer is the same.
        device: where the passes run; a CUDA GPU if there is one, else the CPU.
        backend: what runs them: "triton" (kernels on a GPU), "torch", or "auto", the first where it can run.
        precision: with Triton, how rows are multiplied to choose pairs: "ieee", whose rounding bound is proved, or on
            tensor cores "tf32x3", "bf16x6", "bf16x3", "tf32", "bf16", whose bounds trust a model. Claims are float64's.
        strict: raise `NotCertified` instead of returning a matching that is not proved optimal.
        progress: called after each pass over all pairs.

    Raises:
        MatchError: for SAEs that cannot be compared, or options that make no sense.
        NotCertified: under `strict`.
    """
    for sae in (a, b):
        if not isinstance(sae, SAE):
            raise MatchError(f"match takes two SAEs, got {type(sae).__name__}; saematch.load reads one")
    solver = Solver.checked(method, max_rounds, time_limit, memory, device, backend, precision, strict, progress)
    comparison = Comparison.checked(parts, weights, fold, max_cost)
    return solver.run(comparison.problem(a, b, remake=partial(comparison.problem, a, b)))


def assign(
    x: Any = None,
    y: Any = None,
    *,
    cost: Any = None,
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "ieee",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """`match` on plain rows `x (F_A, K)` and `y (F_B, K)`, or on a matrix `cost (F_A, F_B)` of your own.

    numpy or torch, any device and number type, or lists, left untouched; masked and sparse ones are refused. Costs may
    be negative; inf forbids a pair.

    Raises:
        MatchError: for rows that are not finite, not two-dimensional, or of different widths; for costs that are NaN or
            -inf, or that forbid so many pairs that a feature, which is named, cannot be matched.
        NotCertified: under `strict`.
    """
    solver = Solver.checked(method, max_rounds, time_limit, memory, device, backend, precision, strict, progress)
    return solver.run(_plain_problem(x, y, cost, max_cost))


def certify(
    a: Any = None,
    b: Any = None,
    perm: Any = None,
    *,
    cost: Any = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: Fold | None = None,
    max_cost: float | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    memory: int | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "ieee",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """Anybody's permutation, graded: certified if it is optimal, else with its true excess over the optimum as `gap`.

    `a` and `b` are SAEs, with the options of `match`, or feature rows as in `assign`, or `cost` is a matrix. The
    optimum is found and proved on the way, in memory that does not grow with the number of pairs: 256 MB for their
    products unless `memory` says otherwise.

    Raises:
        MatchError: if `perm` is no permutation, or not complete without `max_cost`, or as `match` and `assign` do.
        NotCertified: under `strict`, if it is not optimal.
    """
    if isinstance(a, SAE) and isinstance(b, SAE):
        comparison = Comparison.checked(
            PARTS if parts is None else parts, weights, "threshold" if fold is None else fold, max_cost
        )
        problem: Problem = comparison.problem(a, b)
    elif isinstance(a, SAE) or isinstance(b, SAE):
        raise MatchError("certify takes two SAEs or two matrices of feature rows, not one of each")
    elif parts is not None or weights is not None or fold is not None:
        raise MatchError("parts, weights and fold apply to SAEs; feature rows are compared as they are")
    else:
        problem = _plain_problem(a, b, cost, max_cost)
    checked = check_permutation(perm.perm if isinstance(perm, Matching) else perm, *problem.shape)
    refused = np.nonzero(np.isinf(problem.pair_cost(checked.numpy())))[0]
    if len(refused):
        raise MatchError(f"perm[{refused[0]}] is {int(checked[refused[0]])}: that pair is forbidden, its cost is inf")
    matched, smaller = int((checked >= 0).sum()), min(problem.shape)
    if max_cost is None and matched < smaller:
        raise MatchError(
            f"perm matches {matched} of {smaller} features; without max_cost, -1 is for what cannot have a partner"
        )
    if memory is None:
        memory = min(CERTIFY_MEMORY, memory_for_products([choose_device(device)[0]]))
    solver = Solver.checked("optimal", max_rounds, time_limit, memory, device, backend, precision, strict, progress)
    return solver.run(problem, checked)


def _plain_problem(x: Any, y: Any, cost: Any, max_cost: float | None) -> Problem:
    if (x is None) != (y is None) or (x is None) == (cost is None):
        raise MatchError("give two matrices of feature rows, or one matrix as cost=")
    return RowProblem.checked(x, y, max_cost) if cost is None else MatrixProblem.checked(cost, max_cost)
