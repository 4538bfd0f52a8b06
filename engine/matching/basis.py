"""A sentence for the user on what lower bounds rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_KINDS = {"precision": str, "exact_pairs": int, "largest_residual": int | float}


def describe_basis(searches: Sequence[dict[str, Any]]) -> str:
    """Say what the lower bounds of some matchings rest on, from their `stats`.

    Returns "" if the stats do not say it, as those of earlier versions and of composed matchings.

    >>> describe_basis([{"precision": "int8", "exact_pairs": 31_415, "largest_residual": 0.0123}])
    'The lower bound rests on 31,415 costs in float64 and, for all other pairs, on int8 products of rows rounded by at \
most 0.012 of their norm.'
    """
    if not searches or not all(isinstance(stats.get(key), kind) for stats in searches for key, kind in _KINDS.items()):
        return ""
    bound = "The lower bound rests" if len(searches) == 1 else "Lower bounds rest"
    by_products = [stats for stats in searches if stats["precision"] != "float64"]
    if not by_products:
        return f"{bound} on the costs of all pairs in float64."
    exact = sum(stats["exact_pairs"] for stats in searches)
    if all(stats["largest_residual"] == 0 for stats in by_products):  # costs that were given as a matrix
        return f"{bound} on {exact:,} costs in float64 and, for all other pairs, on costs rounded to float32."
    numbers = " and ".join(sorted({stats["precision"] for stats in by_products}))
    residual = max(stats["largest_residual"] for stats in by_products)
    return (
        f"{bound} on {exact:,} costs in float64 and, for all other pairs, on {numbers} products of rows rounded by at "
        f"most {residual:.2g} of their norm."
    )
