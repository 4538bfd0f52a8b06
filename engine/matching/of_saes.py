"""The problem of two SAEs, from the options of `match` and `certify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from saematch.activations import check_activity_metric, procrustes
from saematch.errors import MatchError
from saematch.matching.by_activity import checked_weighing, problem_of_activations
from saematch.matching.by_codes import CodesProblem, codes_of
from saematch.matching.comparison import Comparison, Fold
from saematch.matching.problem import RowProblem
from saematch.options import ActivityMetric, Metric, Part, names
from saematch.sae.autoencoder import SAE
from saematch.sae.maps import PROCRUSTES, Map, MapLike


def problem_of_saes(
    a: SAE,
    b: SAE,
    metric: Metric | ActivityMetric,
    activations: Any,
    weights_share: float | None,
    parts: Sequence[Part] | None,
    weights: Mapping[Part, float] | None,
    fold: Fold | None,
    max_cost: float | None,
    map: MapLike | None,
) -> RowProblem | CodesProblem:
    """Return the problem of two SAEs. `match` describes the arguments.

    Raises:
        MatchError: for SAEs that cannot be compared, and options that are not valid or do not go together.
    """
    if map is not None:
        used, a, activations = _in_other_basis(a, metric, activations, weights_share, map)
        if a.d != b.d:
            raise MatchError(f"map leads to activations of width {a.d}, and {b.source} has d = {b.d}: give another map")
        problem = problem_of_saes(a, b, metric, activations, weights_share, parts, weights, fold, max_cost, None)
        return replace(problem, options={**problem.options, "map": used.record()})
    if activations is not None or metric in names(ActivityMetric):
        checked = check_activity_metric(metric)
        share, compared = checked_weighing(checked, weights_share, parts, weights, fold)
        return problem_of_activations(a, b, checked, activations, max_cost, share, compared)
    if weights_share is not None:
        raise MatchError("weights_share is for a metric of activations; other costs are of weights alone")
    comparison = Comparison.checked(parts, weights, "threshold" if fold is None else fold, max_cost, metric)
    return comparison.problem(a, b, remake=partial(comparison.problem, a, b))


def _in_other_basis(
    a: SAE, metric: Metric | ActivityMetric, activations: Any, weights_share: float | None, map: MapLike
) -> tuple[Map, SAE, Any]:
    """Return a map, the source SAE in the other basis, and what is left of the activations. Raises `MatchError`."""
    by_activations = metric in names(ActivityMetric)
    if by_activations and weights_share is None:
        raise MatchError(
            f"metric {metric!r} compares what features do on the same tokens, which needs no map: leave out map=, or "
            "give the weights a share of the cost (weights_share=0.5)"
        )
    fits = isinstance(map, str) and map == PROCRUSTES
    is_pair = isinstance(activations, list | tuple) and len(activations) == 2
    if fits and not is_pair:
        raise MatchError(
            'map="procrustes" is fitted to activations= of the source and of the target: the hidden states (tokens, d) '
            "of both models on the same tokens, as arrays or as .npy files"
        )
    if activations is not None and not (fits or by_activations):
        raise MatchError(
            f'metric {metric!r} compares weights: activations= are for map="procrustes", and for metrics of activations'
        )
    used = procrustes(*activations) if fits else Map.of(map)
    if not by_activations:
        return used, a.mapped(used), None
    # The source SAE encodes its own activations, and only its weights are mapped.
    codes = codes_of(a, activations[0]) if is_pair else None
    return used, a.mapped(used), (codes, activations[1]) if is_pair else activations
