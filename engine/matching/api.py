"""The entry points for one pair: match two SAEs, assign rows or a cost matrix, certify a given permutation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, Unpack, overload

import numpy as np
import torch

from saematch.activations import Codes
from saematch.assignment import Round
from saematch.errors import MatchError
from saematch.matching.batch import Matrices, is_batch, plain_problem, problems_of, solve_all
from saematch.matching.by_codes import Activations
from saematch.matching.comparison import Fold
from saematch.matching.of_saes import problem_of_saes
from saematch.matching.permutation import check_permutation
from saematch.matching.problem import Problem
from saematch.matching.result import Matching
from saematch.matching.solver import Solver
from saematch.numeric.arrays import ArrayLike
from saematch.options import ActivityMetric, BackendName, Method, Metric, Part, PrecisionName
from saematch.sae.autoencoder import SAE
from saematch.sae.maps import MapLike


class _Limits(TypedDict, total=False):
    """The options that `match`, `assign` and `certify` share, for the overloads. `match` describes them."""

    max_cost: float | None
    max_rounds: int | None
    time_limit: float | None
    device: str | torch.device | None
    backend: BackendName
    precision: PrecisionName
    strict: bool
    progress: Callable[[Round], None] | None


class _Options(_Limits, total=False):
    method: Method


class _RowOptions(_Options, total=False):
    metric: Metric | ActivityMetric


def match(
    a: SAE,
    b: SAE,
    *,
    metric: Metric | ActivityMetric = "squared_distance",
    activations: tuple[Activations, Activations] | None = None,
    weights_share: float | None = None,
    map: MapLike | None = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: Fold | None = None,
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """Match the features of two SAEs one-to-one at the least total cost, with a proof that it is the least.

    The cost of a pair is the squared distance between the folded weights of its features, summed over the parts, in
    float64 (SAE Match, arXiv 2410.07656). With a `metric` of activations, it is 1 minus the similarity of what both
    features do on the same tokens. If one SAE has fewer features, all of them are matched.

    Under `max_cost`, features of both SAEs may be unmatched. Then the sum of the costs of all pairs plus `max_cost / 2`
    for each unmatched feature is minimised, so that no pair that costs more than `max_cost` is made. MATLAB's
    `matchpairs(Cost, costUnmatched)` minimises the same, with `costUnmatched = max_cost / 2`.

    Args:
        a: the source SAE, with F_A features on activations of width d.
        b: the target SAE, with F_B features on activations of the same width, unless there is a `map`.
        metric: the cost of a pair. "squared_distance" is the squared distance of folded weights, "cosine" is 1 minus
            the cosine, or 1 minus the mean of the cosines of several parts, and "absolute_cosine" is 1 minus the
            absolute value of that, so that a feature may be matched with the negative of another one. What is 0 has
            no direction, and costs 1 with everything: `stats` counts such features. By `activations`, "correlation" is
            1 minus Pearson's correlation of the codes of both features over all tokens, "jaccard" is 1 minus the number
            of tokens on which both are active, divided by that on which either is, and "activation_cosine" is 1 minus
            the cosine of their codes. A feature that is never active costs 1 with everything.
        activations: for a metric of activations, what `a` and what `b` is given on the same tokens: the hidden states
            `(tokens, d)` that each SAE reads, as arrays or paths of `.npy` files; or codes, see
            `saematch.activations.Codes`. Then the two SAEs need not be of one model. All given tokens count: leave out
            attention sinks, whose activations are very large.
        weights_share: with a metric of activations, the share w of the weights in the cost, which is then w times
            (1 - cosine) / 2 of the `parts` of the weights, and 1 - w times 1 - similarity, halved for a correlation:
            both are between 0 and 1. By default only activations count.
        map: write `a` in the basis of `b` before weights are compared, see `SAE.mapped`, if they are of two models: a
            `Map`, a matrix `(d_A, d_B)`, a file of either, or "procrustes", the orthogonal map that
            `saematch.activations.procrustes` fits to `activations`, the hidden states of both models on the same
            tokens. The widths may differ then. `options["map"]` of the matching records the map and its residual.
        parts: the weights to compare: any of "encoder", "bias" and "decoder"; all of them by default, and encoder and
            decoder under a cosine, because a bias has no direction.
        weights: part -> factor of its squared distance, or of its cosine in the mean; 1 by default.
        fold: the scale s of each feature, see `SAE.fold`: its encoder, bias and threshold are divided by s, and its
            decoder is multiplied by s. A tuple gives the scales of `a` and of `b`. "threshold" needs JumpReLU SAEs;
            ReLU and TopK SAEs have no threshold and need another fold. By default it is "threshold". No fold changes a
            cosine.
        max_cost: the most that a pair may cost. What is paid for an unmatched feature is `max_cost / 2`. By default all
            features of the smaller side are matched, at any cost.
        method: "optimal", or a baseline that is graded by the same proof: "greedy" takes the cheapest pair first;
            "mutual_nearest" takes the pairs in which each feature is the cheapest partner of the other, and leaves all
            others unmatched; "nearest" takes the cheapest target of each source, so that many sources may share one.
        max_rounds: the most rounds, each of which makes one pass over the pairs that may matter. Then the best matching
            so far is returned, with its gap.
        time_limit: seconds. The search stops in the same way, at the end of the round that runs then.
        device: the device that runs the passes, such as "cuda:1". By default a CUDA GPU if there is one, else the CPU.
        backend: "triton" runs the passes by kernels on a GPU, "torch" by torch on any device; "auto" chooses Triton if
            it can run.
        precision: the numbers in which passes multiply rows, to choose the pairs whose costs are computed in float64:
            "int8" or "float32". "auto" chooses int8 where the device multiplies integers fast, else float32. The error
            of both is bounded by a theorem, and what is claimed of the matching is computed in float64.
        strict: whether to raise `NotCertified` instead of returning a matching that is not proved to be optimal.
        progress: a function that is called with the state of the search after each round.

    Returns:
        The matching with its certificate. It refers to both SAEs, for `Matching.margins`; a matching from a file or a
        pickle does not.

    Raises:
        MatchError: for SAEs that cannot be compared, or options that are not valid.
        NotCertified: under `strict`.

    Examples:
        >>> import saematch as sm
        >>> a, b = sm.load("sample?layer=8"), sm.load("sample?layer=9")
        >>> m = sm.match(a, b)
        >>> m.perm[:3]  # features 0, 1, 2 of layer 8 are these features of layer 9
        tensor([374, 202, 682])
        >>> print(f"{m.cost:.1f}, {m.cost / m.random_cost:.1%} of the cost of random pairs; {m.status}")
        15820.8, 57.5% of the cost of random pairs; optimal

        Only the decoders, by their cosine. Then `max_cost=0.5` leaves features unmatched rather than make a pair whose
        cosine is below 0.5:

        >>> m = sm.match(a, b, metric="cosine", parts=["decoder"], max_cost=0.5)
        >>> int((m.perm >= 0).sum()), round(1 - float(m.pair_cost.max()), 3)
        (304, 0.5)

        By what the features do on the same tokens, here on made-up hidden states:

        >>> import torch
        >>> states = 9 * torch.randn(500, a.d, generator=torch.Generator().manual_seed(0))
        >>> m = sm.match(a, b, metric="correlation", activations=(states, states))
        >>> m.certified, m.stats["tokens"]
        (True, 500)

        An SAE of another model, here the same one in a basis that is turned, found by a map that is fitted to the
        activations of both models:

        >>> turn = torch.linalg.qr(torch.randn(a.d, a.d, generator=torch.Generator().manual_seed(1))).Q
        >>> states = torch.randn(2000, a.d, generator=torch.Generator().manual_seed(0))
        >>> m = sm.match(a.mapped(turn), a, map="procrustes", activations=(states @ turn, states))
        >>> (m.perm == torch.arange(a.F)).all(), round(m.options["map"]["fit"]["held_out"], 6)
        (tensor(True), 0.0)
    """
    for sae in (a, b):
        if not isinstance(sae, SAE):
            raise MatchError(f"match takes two SAEs, got {type(sae).__name__}; saematch.load reads one")
    solver = Solver(
        method=method,
        max_rounds=max_rounds,
        time_limit=time_limit,
        device=device,
        backend=backend,
        precision=precision,
        strict=strict,
        progress=progress,
    ).checked()
    return solver.run(problem_of_saes(a, b, metric, activations, weights_share, parts, weights, fold, max_cost, map))


# A list of arrays may also be the rows of one matrix, which its type does not say: it is taken for a list of matrices.
@overload
def assign(x: Matrices, y: Matrices, **options: Unpack[_RowOptions]) -> list[Matching]: ...  # type: ignore[overload-overlap]
@overload
def assign(*, cost: Matrices, **options: Unpack[_Options]) -> list[Matching]: ...  # type: ignore[overload-overlap]
@overload
def assign(x: ArrayLike | Codes, y: ArrayLike | Codes, **options: Unpack[_RowOptions]) -> Matching: ...
@overload
def assign(*, cost: ArrayLike, **options: Unpack[_Options]) -> Matching: ...
def assign(
    x: ArrayLike | Matrices | Codes | None = None,
    y: ArrayLike | Matrices | Codes | None = None,
    *,
    cost: ArrayLike | Matrices | None = None,
    metric: Metric | ActivityMetric | None = None,
    max_cost: float | None = None,
    method: Method = "optimal",
    max_rounds: int | None = None,
    time_limit: float | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching | list[Matching]:
    """Match rows with rows, or by a cost matrix, one-to-one at the least total cost, with a proof that it is the least.

    Give either `x` and `y`, or `cost`. Arrays of numpy or torch, on any device and of any number type, and lists are
    accepted, and are not changed. Masked and sparse arrays are refused.

    Lists or tuples of matrices are many problems, which share the cores, and are solved at the same time as far as
    memory allows. Each matching is the same as if its problem was given alone. All options apply to each problem:
    `time_limit` is for each of them, `strict` raises an error for the first that is not proved, and `progress` is
    called in the threads of all problems.

    Args:
        x: feature rows `(F_A, K)`, or a list of such matrices. The cost of a pair is the squared distance of its rows,
            or another `metric` of them. Or `saematch.activations.Codes`, whose features are matched.
        y: feature rows `(F_B, K)`, or a list of as many matrices, or `Codes` of the same tokens.
        cost: a matrix `(F_A, F_B)` of costs, or a list of such matrices. They may be negative; inf forbids a pair.
        metric: "squared_distance" (the default), "cosine" or "absolute_cosine" of the rows; "correlation", "jaccard" or
            "activation_cosine" of codes; see `match`.
        max_cost: see `match`, as for all other options.
        method: see `match`.
        max_rounds: see `match`.
        time_limit: see `match`.
        device: see `match`.
        backend: see `match`.
        precision: see `match`.
        strict: see `match`.
        progress: see `match`.

    Returns:
        The matching with its certificate; for lists of matrices, the list of their matchings.

    Raises:
        MatchError: for rows that are not finite, are not two-dimensional, or have different widths; for costs that are
            NaN or -inf; and for costs that forbid so many pairs that some feature, which is named, cannot be matched.
            The message begins with "problem 3: " if the fault is that of `x[3]` and `y[3]`, or of `cost[3]`.
        NotCertified: under `strict`.

    Examples:
        >>> import saematch as sm
        >>> sm.assign([[0.0, 0.0], [3.0, 0.0]], [[3.0, 1.0], [0.0, 0.0]]).perm
        tensor([1, 0])

        A cost matrix with a forbidden pair:

        >>> inf = float("inf")
        >>> m = sm.assign(cost=[[4.0, inf, 3.0], [1.0, 2.0, 1.0]])
        >>> m.perm, m.cost
        (tensor([2, 0]), 4.0)

        Two problems at once, of different sizes:

        >>> [m.cost for m in sm.assign(cost=[[[4.0, 1.0], [2.0, 3.0]], [[5.0]]])]
        [3.0, 5.0]
    """
    solver = Solver(
        method=method,
        max_rounds=max_rounds,
        time_limit=time_limit,
        device=device,
        backend=backend,
        precision=precision,
        strict=strict,
        progress=progress,
    ).checked()
    if any(map(is_batch, (x, y, cost))):
        return solve_all(problems_of(x, y, cost, max_cost, metric), solver)
    return solver.run(plain_problem(x, y, cost, max_cost, metric))


@overload
def certify(
    a: SAE,
    b: SAE,
    perm: Matching | ArrayLike,
    *,
    metric: Metric | ActivityMetric | None = None,
    activations: tuple[Activations, Activations] | None = None,
    weights_share: float | None = None,
    map: MapLike | None = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: Fold | None = None,
    **options: Unpack[_Limits],
) -> Matching: ...
@overload
def certify(
    a: ArrayLike | Codes,
    b: ArrayLike | Codes,
    perm: Matching | ArrayLike,
    *,
    metric: Metric | ActivityMetric | None = None,
    **options: Unpack[_Limits],
) -> Matching: ...
@overload
def certify(*, perm: Matching | ArrayLike, cost: ArrayLike, **options: Unpack[_Limits]) -> Matching: ...
def certify(
    a: SAE | ArrayLike | Codes | None = None,
    b: SAE | ArrayLike | Codes | None = None,
    perm: Matching | ArrayLike | None = None,
    *,
    cost: ArrayLike | None = None,
    metric: Metric | ActivityMetric | None = None,
    activations: tuple[Activations, Activations] | None = None,
    weights_share: float | None = None,
    map: MapLike | None = None,
    parts: Sequence[Part] | None = None,
    weights: Mapping[Part, float] | None = None,
    fold: Fold | None = None,
    max_cost: float | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    strict: bool = False,
    progress: Callable[[Round], None] | None = None,
) -> Matching:
    """Grade a given permutation: certify that it is optimal, or return how far it is from the optimum, as `gap`.

    Give two SAEs, two matrices of feature rows, or a cost matrix. The optimum is computed and proved on the way.

    Args:
        a: the source SAE, or feature rows `(F_A, K)`, or `Codes`.
        b: the target SAE, or feature rows `(F_B, K)`.
        perm: `(F_A,)`: the target of each source feature, -1 for an unmatched feature; or a `Matching`, of which only
            `perm` is used: give the metric, parts, weights, fold and `max_cost` with which it was made.
        cost: a matrix `(F_A, F_B)` of costs, instead of `a` and `b`.
        metric: see `match`.
        activations: see `match`; for SAEs, and a metric of activations.
        weights_share: see `match`.
        map: see `match`.
        parts: see `match`, as for all other options. `parts`, `weights` and `fold` apply to SAEs only.
        weights: see `match`.
        fold: see `match`.
        max_cost: see `match`. Without it, all features of the smaller side must be matched.
        max_rounds: see `match`.
        time_limit: see `match`.
        device: see `match`.
        backend: see `match`.
        precision: see `match`.
        strict: see `match`.
        progress: see `match`.

    Raises:
        MatchError: if `perm` is not a permutation, makes a forbidden pair, or is incomplete without `max_cost`; and for
            inputs and options that `match` and `assign` refuse.
        NotCertified: under `strict`, if the permutation is not proved to be optimal.

    Examples:
        >>> import saematch as sm
        >>> cost = [[5.0, 1.0], [2.0, 6.0]]
        >>> sm.certify(cost=cost, perm=[1, 0]).status
        'optimal'
        >>> m = sm.certify(cost=cost, perm=[0, 1])
        >>> m.status, m.gap
        ('suboptimal', 8.0)
    """
    # The problem: from SAEs, from rows, or from a cost matrix.
    if isinstance(a, SAE) and isinstance(b, SAE):
        given = metric or "squared_distance"
        problem: Problem = problem_of_saes(a, b, given, activations, weights_share, parts, weights, fold, max_cost, map)
    elif isinstance(a, SAE) or isinstance(b, SAE):
        raise MatchError("certify takes two SAEs or two matrices of feature rows, not one of each")
    elif any(option is not None for option in (parts, weights, fold, activations, map)):
        raise MatchError(
            "parts, weights, fold, activations and map apply to SAEs; feature rows are compared as they are"
        )
    else:
        problem = plain_problem(a, b, cost, max_cost, metric)
    # The permutation, which may make no forbidden pair, and must be complete unless features may be unmatched.
    checked = check_permutation(perm.perm if isinstance(perm, Matching) else perm, *problem.shape)
    forbidden = np.nonzero(np.isinf(problem.pair_cost(checked.numpy())))[0]
    if len(forbidden):
        i = forbidden[0]
        raise MatchError(f"perm[{i}] is {int(checked[i])}, but this pair is forbidden: its cost is inf")
    matched, smaller = int((checked >= 0).sum()), min(problem.shape)
    if max_cost is None and matched < smaller:
        raise MatchError(f"perm matches {matched} of {smaller} features; without max_cost, all of them must be matched")
    solver = Solver(
        max_rounds=max_rounds,
        time_limit=time_limit,
        device=device,
        backend=backend,
        precision=precision,
        strict=strict,
        progress=progress,
    ).checked()
    return solver.run(problem, checked)
