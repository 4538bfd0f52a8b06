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
    count = 0
    for j in range(len(slopes)):
        if constants[j] < np.inf:
            lines[count] = j
            count += 1
    lowest, those = np.empty(k, constants.dtype), np.empty(k, np.int32)
    # Parts that remain to be done: their first and last point, and the places of the lines that matter there.
    todo = [(0, len(points) - 1, 0, count)]
    while len(todo) > 0:
        first, last, start, stop = todo.pop()
        if last < first:
            continue
        if stop - start > k and last - first >= _FEW:
            # The k lowest lines in the middle, and the highest of them at both ends.
            x, low, high = points[(first + last) // 2], points[first], points[last]
            lowest[:], those[:] = np.inf, -1
            for place in range(start, stop):
                value = slopes[lines[place]] * x + constants[lines[place]]
                if value < lowest[k - 1]:
                    keep(lowest, those, value, lines[place])
            at_low, at_high = -np.inf, -np.inf
            for n in range(k):
                at_low = max(at_low, slopes[those[n]] * low + constants[those[n]])
                at_high = max(at_high, slopes[those[n]] * high + constants[those[n]])
            # These lines, and all that are below the highest of them at one of the ends.
            if stop + stop - start > len(lines):
                lines = np.concatenate((lines, np.empty(len(lines), np.int32)))
            count = stop
            for place in range(start, stop):
                j = lines[place]
                kept = slopes[j] * low + constants[j] < at_low or slopes[j] * high + constants[j] < at_high
                for n in range(k):
                    kept = kept or those[n] == j
                if kept:
                    lines[count] = j
                    count += 1
            start, stop = stop, count
        if last - first < _FEW or stop - start <= k:
            for i in range(first, last + 1):
                for place in range(start, stop):
                    value = slopes[lines[place]] * points[i] + constants[lines[place]]
                    if value < values[i, k - 1]:
                        keep(values[i], partners[i], value, lines[place])
        else:
            middle = (first + last) // 2
            todo.append((middle + 1, last, start, stop))
            todo.append((first, middle, start, stop))
