"""The sums of f g over all tokens on which two features are active together, for every such pair of features.

Only pairs that are active together on some token have an entry. Entries are counted first, so that what they take is
known before it is taken; if it is more than a share of the memory, they are written to a temporary file. They are made
by blocks of source features. Each sum is made by one thread, token after token, so that its bits depend neither on the
blocks nor on the number of threads.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saematch.errors import memory_for
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.scratch import scratch_arrays
from saematch.numeric.threads import ThreadPool

STRETCH = 4096  # terms that are summed up before their sum is added to the total: a long sum is rounded less that way
_JOBS = 8  # for each thread, so that threads finish together
_PRODUCT = 4  # nanoseconds that a product takes


class Entries(NamedTuple):
    """A sparse matrix by rows: `columns` and `values` of row r are at the places from `starts[r]` to `starts[r + 1]`.

    `columns` ascend within a row.
    """

    starts: Indices
    columns: NDArray[np.int32]
    values: NDArray[Any]


def sums_of_products(
    a: Entries, a_shift: Floats, b: Entries, b_shift: Floats, width: int, most: int | None = None
) -> Entries:
    """Return the sum of (f - c_i)(g - d_j) over the entries of every pair of features that share a token.

    Args:
        a: the entries of the source features, by feature: `columns` are tokens.
        a_shift: c `(F_A,)`. A feature whose c is not 0 must have an entry on every token, and so for d.
        b: the entries of the target features, by token: `columns` are features.
        b_shift: d `(F_B,)`.
        width: F_B.
        most: the most bytes of memory that the result takes, see `scratch_arrays`.

    Returns:
        A matrix `(F_A, F_B)`, with an entry for every pair of features that share a token.
    """
    F, tokens = len(a.starts) - 1, len(b.starts) - 1
    # Rows of about equal work in each job: the number of products.
    work = np.concatenate([[0], np.cumsum(np.diff(b.starts)[a.columns])])[a.starts]
    total = int(work[-1]) if F else 0
    counts = np.zeros(F + 1, dtype=np.int64)
    with ThreadPool(_PRODUCT * total) as pool:
        cuts = np.searchsorted(work, np.linspace(0, total, pool.size * _JOBS + 1)[1:-1])
        bounds = np.unique(np.concatenate([[0], cuts, [F]]))
        parts = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        pool.run(partial(_count, a.starts, a.columns, b.starts, b.columns, *part, width, counts[1:]) for part in parts)
        starts = np.cumsum(counts)
        with memory_for(f"{starts[-1]:,} pairs of features that are active together, of {tokens:,} tokens"):
            columns, values = scratch_arrays(int(starts[-1]), (np.int32, np.float64), most)
        pool.run(partial(_sum, *a, a_shift, *b, b_shift, *part, starts, columns, values) for part in parts)
    return Entries(starts, columns, values)


@compiled
def find_entry(starts: Any, columns: Any, i: Any, j: Any) -> Any:
    """Return the place of the entry of row i and column j, -1 if there is none."""
    place = starts[i] + np.searchsorted(columns[starts[i] : starts[i + 1]], j)
    return place if place < starts[i + 1] and columns[place] == j else -1


@compiled
def _count(
    a_starts: Any, a_tokens: Any, b_starts: Any, b_features: Any, first: Any, stop: Any, width: Any, counts: Any
) -> None:
    """Count for each row from `first` to `stop` the columns that share a token with it."""
    seen = np.full(width, -1, np.int32)
    for i in range(first, stop):
        count = 0
        for e in range(a_starts[i], a_starts[i + 1]):
            n = a_tokens[e]
            for other in range(b_starts[n], b_starts[n + 1]):
                j = b_features[other]
                if seen[j] != i:
                    seen[j] = i
                    count += 1
        counts[i] = count


@compiled
def _sum(
    a_starts: Any,
    a_tokens: Any,
    a_values: Any,
    a_shift: Any,
    b_starts: Any,
    b_features: Any,
    b_values: Any,
    b_shift: Any,
    first: Any,
    stop: Any,
    starts: Any,
    columns: Any,
    values: Any,
) -> None:
    """Fill `columns` and `values` of the rows from `first` to `stop`."""
    width = len(b_shift)
    seen = np.full(width, -1, np.int32)
    part, total = np.zeros(width), np.zeros(width)
    for i in range(first, stop):
        count, found = 0, columns[starts[i] : starts[i + 1]]
        for start in range(a_starts[i], a_starts[i + 1], STRETCH):
            for e in range(start, min(start + STRETCH, a_starts[i + 1])):
                n, f = a_tokens[e], np.float64(a_values[e]) - a_shift[i]
                for other in range(b_starts[n], b_starts[n + 1]):
                    j = b_features[other]
                    if seen[j] != i:
                        seen[j] = i
                        found[count] = j
                        count += 1
                    part[j] += f * (np.float64(b_values[other]) - b_shift[j])
            for c in range(count):
                total[found[c]] += part[found[c]]
                part[found[c]] = 0.0
        # In ascending order of columns: by looking at all of them if the row has many.
        if count > width // 16:
            count = 0
            for j in range(width):
                if seen[j] == i:
                    found[count] = j
                    count += 1
        else:
            found.sort()
        for c in range(count):
            values[starts[i] + c] = total[found[c]]
            total[found[c]] = 0.0
