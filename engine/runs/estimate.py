"""An estimate of how long a run takes, from a trial on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from saematch.matching.comparison import Comparison
from saematch.matching.problem import RowProblem
from saematch.matching.solver import Solver
from saematch.numeric.rows import Rows
from saematch.runs.plan import Pair
from saematch.runs.work import Key, Work

_ROWS = 2304  # features of the trial, at least: so many that it makes passes, see `DENSE`
_PRODUCTS = 2**34  # of numbers in a pass of the trial: of narrow rows, few tell what a row takes
_VALUES = 2**24  # numbers in the rows of the trial, at most, on each side
_OF_ALL_PAIRS = ("candidates", "passes", "dense optimum")  # stages that look at all pairs of features


class Shape(NamedTuple):
    """The size of a problem: the features of both SAEs, and the width of a feature row."""

    sources: int
    targets: int
    width: int


def seconds_needed(work: Work, pairs: Sequence[Pair], devices: int = 1) -> float | None:
    """Estimate how long matching these pairs takes on this machine, see `seconds_of`.

    Returns:
        Seconds; None if no header can be read, or if activations are compared.
    """
    comparison = work.comparison
    if not isinstance(comparison, Comparison):
        return None
    headers = {key: work.handle(key).header() for pair in pairs for key in work.keys(pair)}
    shapes = []
    for pair in pairs:
        source, target = (headers[Key(*key)] for key in work.keys(pair))
        if source is not None and target is not None:
            shapes.append(Shape(source.F, target.F, comparison.width(source)))
    return seconds_of(shapes, work.solver) / devices if shapes else None


def seconds_of(shapes: Sequence[Shape], solver: Solver) -> float:
    """Estimate how long problems of these sizes take on this machine, by matching random rows with noisy copies.

    Passes take a time that is proportional to the number of all pairs of features, and everything else a time that is
    proportional to the number of features. SAEs differ in how many passes they need, so that the true time may well be
    half or twice as long. Reading the SAEs is not included.
    """
    # Match random rows twice: the first time, loops are compiled or loaded.
    widest = max(1, *(shape.width for shape in shapes))
    rows = max(_ROWS, math.isqrt(_PRODUCTS // widest))
    rows = max(16, min(rows, max(max(shape.sources, shape.targets) for shape in shapes)))
    width = min(widest, max(1, _VALUES // rows))
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, rows, width), dtype=np.float32)
    problem = RowProblem(Rows.of(x), Rows.of(x[::-1] + noise))
    trial = replace(solver, progress=None, time_limit=None, max_rounds=None)
    trial.run(problem)
    began = time.perf_counter()
    stages = trial.run(problem).stats["stages"]
    seconds, passes = time.perf_counter() - began, sum(stages.get(stage, 0.0) for stage in _OF_ALL_PAIRS)
    # Scale both parts to each pair of layers.
    limit = np.inf if solver.time_limit is None else solver.time_limit
    needed = 0.0
    for a, b, own_width in shapes:
        scaled = passes * (a / rows) * (b / rows) * (own_width / width) + (seconds - passes) * max(a, b) / rows
        needed += min(scaled, limit)
    return needed
