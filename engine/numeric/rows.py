"""Rows of float64 numbers that are kept as the weights of an SAE, as they are stored, and a scale for each feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.compiled import compiled, compiled_sums
from saematch.numeric.rounding import Floats, Indices, first_alike
from saematch.numeric.threads import ThreadPool

_CHUNK, _CHUNKS = 256, 64  # the fewest rows of a chunk, and the most chunks


@dataclass(frozen=True, eq=False)
class Rows:
    """A matrix `(F, K)` of float64 numbers, which are computed from stored numbers whenever they are needed.

    The columns fall into successive parts. A number in part p of row i is `value * scales[p, i] * factors[p]` if the
    part is `multiplied`, and `value / scales[p, i] * factors[p]` if not. Each of the two operations rounds once, in
    float64.

    Attributes:
        values: the stored numbers, float32 or float64, `(F, K)`.
        ends: the column after the last one of each part, `(P,)`.
        multiplied: whether the scales multiply the values of a part, or divide them, `(P,)`.
        scales: `(P, F)`, positive; or 0 for a part that is multiplied.
        factors: `(P,)`, positive.
        copies: device -> a copy of the stored numbers, for as long as something uses it.

    >>> values = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    >>> rows = Rows(values, np.array([2, 3]), np.array([True, False]), np.array([[10.0], [4.0]]), np.array([1.0, 0.5]))
    >>> rows.float64()
    array([[10.   , 20.   ,  0.375]])
    """

    values: NDArray[Any]
    ends: Indices
    multiplied: NDArray[np.bool_]
    scales: Floats
    factors: Floats
    copies: WeakValueDictionary[Any, Any] = field(default_factory=WeakValueDictionary, repr=False)

    @classmethod
    def of(cls, matrix: Rows | NDArray[Any]) -> Rows:
        """Return the rows of a matrix of float32 or float64 numbers as they are."""
        if isinstance(matrix, Rows):
            return matrix
        values = np.ascontiguousarray(matrix)
        return cls(values, np.array([values.shape[1]]), np.ones(1, np.bool_), np.ones((1, len(values))), np.ones(1))

    def with_column(self, numbers: Floats) -> Rows:
        """Return the same rows with one more column of float64 numbers."""
        values = np.append(self.values, np.where(numbers < 0, -1, 1)[:, None].astype(self.values.dtype), axis=1)
        return Rows(
            values,
            np.append(self.ends, self.width + 1),
            np.append(self.multiplied, True),
            np.append(self.scales, np.abs(numbers)[None], axis=0),
            np.append(self.factors, 1.0),
        )

    def times(self, factor: float) -> Rows:
        """Return the same rows, multiplied by a positive number."""
        return replace(self, factors=self.factors * factor)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """K."""
        return int(self.values.shape[1])

    @property
    def size(self) -> int:
        """F K."""
        return self.values.size

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The attributes, as compiled loops take them; see `unfold`."""
        return self.values, self.ends, self.multiplied, self.scales, self.factors

    def float64(self, rows: Indices | None = None, out: Floats | None = None) -> Floats:
        """Return the listed rows, or all rows, as a matrix of float64 numbers, in `out` if it is given."""
        rows = np.arange(len(self)) if rows is None else rows
        if out is None:
            out = np.empty((len(rows), self.width))
        with ThreadPool(out.size) as pool:
            pool.run(partial(_unfold_rows, self.arrays, rows[part], out[part]) for part in pool.split(len(rows)))
        return out

    def centred(self, rows: Indices, centre: Floats, scale: float, out: NDArray[Any]) -> None:
        """Fill `out` with (x_i - centre) * scale of the listed rows, in float64; rounded once more if it is float32."""
        with ThreadPool(out.size) as pool:
            pool.run(
                partial(_centre_rows, self.arrays, rows[part], centre, scale, out[part])
                for part in pool.split(len(rows))
            )

    @property
    def square(self) -> Floats:
        """|x_i|^2 of every row, `(F,)`; NaN or inf where a row holds NaN, an infinite number, or very large ones."""
        return self._square_and_sums[0]

    def column_sums(self, included: NDArray[np.bool_]) -> Floats:
        """Return the sum of the rows that are `included (F,)`, `(K,)`."""
        parts, sums = chunks(len(self)), self._square_and_sums[1]
        some = [n for n, part in enumerate(parts) if not included[part].all()]
        if some:
            sums = sums.copy()
            sums[some] = self._summed([parts[n] for n in some], included, np.empty(len(self)))
        total: Floats = sums.sum(axis=0)
        return total

    @cached_property
    def _square_and_sums(self) -> tuple[Floats, Floats]:
        """|x_i|^2 of every row, and the sum of the rows of every chunk."""
        square = np.empty(len(self))
        return square, self._summed(chunks(len(self)), np.ones(len(self), dtype=np.bool_), square)

    def _summed(self, parts: list[slice], included: NDArray[np.bool_], square: Floats) -> Floats:
        """Fill `square` for the rows of some chunks, and return the sum of the included rows of each chunk."""
        sums = np.zeros((len(parts), self.width))
        with ThreadPool(self.width * sum(part.stop - part.start for part in parts)) as pool:
            pool.run(
                partial(_square_and_sum, self.arrays, part.start, part.stop, included, square, sums[n])
                for n, part in enumerate(parts)
            )
        return sums

    def largest_entry(self) -> float:
        """Return the largest absolute value of an entry, 0.0 without entries; NaN or inf if an entry is."""
        parts = (self.float64(np.arange(part.start, part.stop)) for part in chunks(len(self)))
        return float(np.max([np.abs(part).max(initial=0.0) for part in parts]))

    def first_alike(self) -> Indices:
        """Return for each row the first row that equals it bit for bit, `(F,)`."""
        return first_alike(self.square, self.float64)


def chunks(length: int) -> list[slice]:
    """Split rows in a way that does not depend on the number of threads; at least one part."""
    parts = max(1, min(_CHUNKS, length // _CHUNK))
    return [slice(start, stop) for start, stop in pairwise(length * n // parts for n in range(parts + 1))]


def over_pairs(
    loop: Callable[..., None], x: Rows, y: Rows, rows: Indices, columns: Indices, *arguments: Any, results: int = 1
) -> list[Floats]:
    """Run a compiled loop over the listed pairs of rows of `x` and `y`, on all threads.

    Returns the arrays that the loop fills, `results` of them, each with one number per pair.
    """
    filled = [np.empty(len(rows)) for _ in range(results)]
    with ThreadPool(len(rows) * x.width) as pool:
        pool.run(
            partial(loop, x.arrays, y.arrays, rows[part], columns[part], *arguments, *(out[part] for out in filled))
            for part in pool.split(len(rows))
        )
    return filled


@compiled
def product(value: Any, scale: Any, factor: Any) -> Any:
    """Return an entry of a part that is multiplied. Loops that call it do not change its rounding."""
    return np.float64(value) * scale * factor


@compiled
def quotient(value: Any, scale: Any, factor: Any) -> Any:
    """Return an entry of a part that is divided, likewise."""
    return np.float64(value) / scale * factor


@compiled
def unfold(x: Any, i: Any, out: Any) -> None:
    """Fill `out (K,)` with row `i` of `Rows`, of which `x` are the `arrays`."""
    values, ends, multiplied, scales, factors = x
    start = 0
    for p in range(len(ends)):
        # Slices, because loops over them vectorise.
        stored, part, scale, factor = values[i, start : ends[p]], out[start : ends[p]], scales[p, i], factors[p]
        if multiplied[p]:
            for k in range(len(part)):
                part[k] = product(stored[k], scale, factor)
        else:
            for k in range(len(part)):
                part[k] = quotient(stored[k], scale, factor)
        start = ends[p]


@compiled
def _unfold_rows(x: Any, rows: Any, out: Any) -> None:
    for n in range(len(rows)):
        unfold(x, rows[n], out[n])


@compiled
def _centre_rows(x: Any, rows: Any, centre: Any, scale: Any, out: Any) -> None:
    row = np.empty(len(centre))
    for n in range(len(rows)):
        unfold(x, rows[n], row)
        for k in range(len(row)):
            out[n, k] = (row[k] - centre[k]) * scale


@compiled_sums
def _square_and_sum(x: Any, first: Any, last: Any, included: Any, square: Any, sums: Any) -> None:
    """Fill `square` for the rows from `first` to `last`, and add those that are included to `sums`."""
    row = np.empty(len(sums))
    for i in range(first, last):
        unfold(x, i, row)
        total = 0.0
        for k in range(len(row)):
            total += row[k] ** 2
        square[i] = total
        if included[i]:
            for k in range(len(row)):
                sums[k] += row[k]
