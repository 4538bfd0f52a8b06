"""The lowest of many straight lines at many points, without looking at all lines at every point."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.loops import keep

_FEW = 4  # points for which all remaining lines are compared


@compiled
def lowest_lines(points: Any, slopes: Any, constants: Any, values: Any, partners: Any) -> None:
    """Update the ascending list of each point x with the least `slope * x + constant` and the lines that attain them.

    The points are split into halves again and again. Between two points, a line can be left out if at both of them it
    is not below any of k other lines: then it is not below any of these in between. The k lines are the lowest ones in
    the middle. Lines are left out by float64 values, so that a value that is not listed can be below the last one of a
    full list by the rounding of two values.

    Args:
        points: ascending, `(R,)`.
        slopes: finite, `(C,)`.
        constants: `(C,)`; a line whose constant is inf is in no list.
        values: the lists `(R, k)`, ascending, with limits that values must be below; and `partners`, their lines.
    """
    k = values.shape[1]
    lines = np.empty(2 * len(slopes) + k, np.int32)  # the lines of every part that is being split
    given = np.nonzero(constants < np.inf)[0]
    lines[: len(given)] = given
    # Parts that remain to be done: their first point, the one after the last, and the places of the lines that matter.
    todo = [(0, len(points), 0, len(given))]
    while len(todo) > 0:
        first, end, start, stop = todo.pop()
        if stop - start > k and end - first > _FEW:
            if 2 * stop - start > len(lines):
                lines = np.concatenate((lines, np.empty(len(lines), np.int32)))
            start, stop = stop, _leave_out(points[first:end], slopes, constants, k, lines, start, stop)
        if stop - start <= k or end - first <= _FEW:
            for i in range(first, end):
                _compare(points[i], slopes, constants, lines[start:stop], values[i], partners[i])
        else:
            middle = (first + end) // 2
            todo.append((middle, end, start, stop))
            todo.append((first, middle, start, stop))


@compiled
def _compare(x: Any, slopes: Any, constants: Any, lines: Any, values: Any, partners: Any) -> None:
    """Update the list of one point with its least values."""
    limit = values[-1]
    for j in lines:
        value = slopes[j] * x + constants[j]
        if value < limit:
            keep(values, partners, value, j)
            limit = values[-1]


@compiled
def _leave_out(points: Any, slopes: Any, constants: Any, k: Any, lines: Any, start: Any, stop: Any) -> Any:
    """Copy those of the lines from `start` to `stop` that matter at the points to `stop`; return where they end."""
    low, high = points[0], points[-1]
    lowest, those = np.full(k, np.inf), np.full(k, -1, np.int32)
    _compare(points[len(points) // 2], slopes, constants, lines[start:stop], lowest, those)
    at_low, at_high = -np.inf, -np.inf
    for j in those:
        at_low = max(at_low, slopes[j] * low + constants[j])
        at_high = max(at_high, slopes[j] * high + constants[j])
    end = stop
    for place in range(start, stop):
        j = lines[place]
        if slopes[j] * low + constants[j] < at_low or slopes[j] * high + constants[j] < at_high or (those == j).any():
            lines[end] = j
            end += 1
    return end
