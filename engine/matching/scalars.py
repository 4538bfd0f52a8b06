"""The numbers of a matching that its file and its record hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

from saematch.options import Status
from saematch.storage.jsonfile import finite_or_none

if TYPE_CHECKING:
    from saematch.matching.result import Matching


class Scalars(TypedDict, total=False):
    """The numbers of a matching that its file and its record hold; None stands for a number that is not finite."""

    cost: float | None
    objective: float | None
    lower_bound: float | None
    gap: float | None
    rounding_error: float | None
    proof_gap: float | None
    gain: float | None
    random_cost: float | None
    certified: bool
    status: Status


SCALARS = tuple(Scalars.__annotations__)


def scalars(matching: Matching) -> Scalars:
    """Return the numbers of a matching by name, for JSON."""
    return cast(Scalars, {name: finite_or_none(getattr(matching, name)) for name in SCALARS})
