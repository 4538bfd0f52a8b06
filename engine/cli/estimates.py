"""How long the work on one pair of SAEs takes, for the status of a command."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from saematch.cli.groups import solver_of
from saematch.options import Metric, names

if TYPE_CHECKING:
    from saematch.sae.autoencoder import SAE

_WORTH = 2**37  # products of numbers that take longer than the trial of an estimate


def seconds_left(options: argparse.Namespace, a: SAE, b: SAE) -> Callable[[], float | None]:
    """Return a function that says about how many seconds of matching two SAEs are left.

    It returns None if that is not known: for a small problem, if activations are compared, and when the time that was
    estimated is over.
    """
    metric: Any = options.metric or "squared_distance"
    if metric not in names(Metric):
        return lambda: None
    from saematch.matching.comparison import Comparison
    from saematch.matching.solver import Solver
    from saematch.runs.estimate import Shape, seconds_of

    width = Comparison.checked(options.parts, metric=metric).width(b)
    if a.F * b.F * width < _WORTH:
        return lambda: None
    needed = seconds_of([Shape(a.F, b.F, width)], Solver(**solver_of(options)).checked())
    ends = time.monotonic() + needed

    def left() -> float | None:
        seconds = ends - time.monotonic()
        return seconds if seconds > 0 else None

    return left
