"""Similarities of features by their codes on the same tokens, as a sparse matrix and a background of rank one.

For codes f of feature i and g of feature j on N tokens, the similarities are

    correlation         Pearson's r of f and g,
    jaccard             tokens on which both are active / tokens on which either is,
    activation_cosine   <f, g> / (|f| |g|).

A feature that is never active, and for the correlation one whose code is the same on all tokens, has similarity 0 with
every feature. Only pairs that are active together differ from a background: the similarity is S_ij - a_i b_j, where
S_ij is 0 for all other pairs, and a_i b_j is 0 unless the similarity is a correlation, see `standardised` in
`saematch.activations.preparation`.

**Rounding.** All sums are made by stretches of `STRETCH` terms, so that the error of a sum of n terms is at most
g(n) = gamma(min(n, STRETCH) + n / STRETCH + 16) of the sum of the absolute values of its terms; the 16 covers the few
operations before and after it. The computed similarity differs from that of the given codes by at most e_i + e_j.

1. Jaccard: the counts are exact, and their ratio is rounded once.
2. Cosine: |f| and |g| are wrong by at most g(n_i) / 2 and g(n_j) / 2, relatively, and the sum of products by
   g(min(n_i, n_j)) |f| |g|. So e_i = 2 g(n_i) is enough.
3. Correlation: let k_i = (sum f^2 / N) / variance, for f less its shift. The mean is wrong by g(n_i) sqrt(sum f^2 / N)
   at most, so that the variance is wrong by 3 g(n_i) k_i relatively, the deviation by 1.6 g(n_i) k_i, and a_i by
   g(n_i) sqrt(k_i) + 1.6 g(n_i) k_i |a_i|. Both |S_ij| and |a_i b_j| are at most sqrt(k_i k_j), so that the similarity
   is wrong by sqrt(k_i k_j) (5 g(n_i) k_i + 5 g(n_j) k_j) at most. No k exceeds `SPREAD`, see `standardised`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from saematch.activations.codes import Codes
from saematch.activations.cofirings import Entries, find_entry, sums_of_products
from saematch.activations.preparation import prepared
from saematch.errors import MatchError
from saematch.numeric.compiled import compiled
from saematch.numeric.csr import transposed
from saematch.numeric.rounding import Floats, Indices, first_alike, first_of_each
from saematch.options import ActivityMetric, names

_PART = 2**20  # entries that are added up at a time


@dataclass(frozen=True, eq=False)
class Similarities:
    """Similarities S_ij - a_i b_j of all pairs of F_A source features and F_B target features.

    Attributes:
        metric: the similarity.
        tokens: the number of tokens that it is computed from.
        entries: a_i b_j - S_ij, the similarity times -1, of the pairs that are active together.
        row_factor: a `(F_A,)`, and `column_factor`, b `(F_B,)`.
        row_error: e `(F_A,)`, and `column_error`, e `(F_B,)`: each similarity is wrong by at most e_i + e_j.
        row_group: `(F_A,)`, the first source feature whose codes are the same on all tokens.
        column_group: `(F_B,)`, the same of target features.
        twin: `(F_B,)`, the first source feature whose codes are those of a target feature, or a number from F_A on.
        times_active: on how many tokens each feature is active, of both sides.
    """

    metric: ActivityMetric
    tokens: int
    entries: Entries
    row_factor: Floats
    column_factor: Floats
    row_error: Floats
    column_error: Floats
    row_group: Indices
    column_group: Indices
    twin: Indices
    times_active: tuple[Indices, Indices] = field(repr=False)

    @classmethod
    def of(cls, metric: ActivityMetric, a: Codes, b: Codes, most: int | None = None) -> Similarities:
        """Return the similarities of the features of two SAEs by their codes on the same tokens.

        Args:
            metric: the similarity.
            a: the codes of the source SAE.
            b: the codes of the target SAE.
            most: the most bytes of memory that `entries` takes, by default half of what is available. If it is larger,
                it is kept in a temporary file.

        Raises:
            MatchError: if the codes are of different numbers of tokens, or of none.
        """
        if len(a) != len(b):
            raise MatchError(
                f"{a.source} has {len(a):,} tokens and {b.source} has {len(b):,}: both must be of the same tokens"
            )
        if not len(a):
            raise MatchError(f"{a.source} has no tokens, so that nothing can be said about its features")
        x, y = prepared(metric, a), prepared(metric, b)
        rows = Entries(*transposed(*x.by_token, a.F))
        sums = sums_of_products(rows, x.shift, y.by_token, y.shift, b.F, most)
        if metric == "jaccard":
            _divide_by_either(*sums, a.times_active, b.times_active)
        else:
            _scale(*sums, x.scale, y.scale, x.factor, y.factor)
        # Similarities are 0 without any rounding for features whose codes do not vary, and, except for the correlation,
        # for features that are never active together with another one.
        if metric == "correlation":
            rounded = x.scale != 0, y.scale != 0
        else:
            rounded = np.diff(sums.starts) > 0, np.bincount(sums.columns, minlength=b.F) > 0
        some = bool(rounded[0].any() and rounded[1].any())
        # Features with the same codes have a similarity of exactly 1, if their codes vary.
        alike = _first_alike(rows, Entries(*transposed(*y.by_token, b.F)))
        row_group, twin = alike[: a.F], alike[a.F :]
        _set_twins(*sums, np.where(rounded[0] & some, row_group, -1), twin)
        return cls(
            metric=metric,
            tokens=len(a),
            entries=sums,
            row_factor=x.factor,
            column_factor=y.factor,
            row_error=np.where(rounded[0] & some, x.error, 0.0),
            column_error=np.where(rounded[1] & some, y.error, 0.0),
            row_group=row_group,
            column_group=first_of_each(twin),
            twin=twin,
            times_active=(a.times_active, b.times_active),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return len(self.row_factor), len(self.column_factor)

    @property
    def error(self) -> float:
        """A bound for the rounding error of every similarity."""
        return float(self.row_error.max(initial=0.0) + self.column_error.max(initial=0.0))

    def of_pairs(self, rows: Indices, columns: Indices) -> Floats:
        """Return the similarities of the listed pairs."""
        values = self.row_factor[rows] * self.column_factor[columns]
        _look_up(*self.entries, rows, columns, values)
        return -values

    def are_twins(self, rows: Indices, columns: Indices) -> NDArray[np.bool_]:
        """Return which pairs have the same codes, which vary: their similarity is 1 without any rounding."""
        same: NDArray[np.bool_] = (self.row_group[rows] == self.twin[columns]) & (self.row_error[rows] > 0)
        return same

    @cached_property
    def total(self) -> float:
        """The sum of all similarities."""
        together = np.zeros(len(self.entries.starts) - 1)
        _sum_background(*self.entries, self.row_factor, self.column_factor, together)
        of_others = float(self.row_factor.sum() * self.column_factor.sum()) - float(together.sum())
        return -(of_others + float(self.entries.values.sum()))

    @cached_property
    def size_of_entries(self) -> float:
        """The sum of the absolute values of all entries, a part at a time: they may be larger than the memory."""
        values = self.entries.values
        return sum(float(np.abs(values[n : n + _PART]).sum()) for n in range(0, len(values), _PART))


def check_activity_metric(metric: Any) -> ActivityMetric:
    """Return a metric of activations. Raises `MatchError` unless it is one."""
    if metric not in names(ActivityMetric):
        raise MatchError(f"metric is {metric!r}; by activations it is one of {', '.join(names(ActivityMetric))}")
    return cast(ActivityMetric, metric)


def _first_alike(rows: Entries, others: Entries) -> Indices:
    """Return for each row, and then for each of the others, the first one of all with the same entries."""
    sides = rows, others
    starts = np.concatenate([rows.starts[:-1], others.starts + rows.starts[-1]])
    columns, values = (np.concatenate([side[n] for side in sides]) for n in (1, 2))
    ends = list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))

    def content(items: Indices) -> Any:
        for item in items.tolist():
            part = slice(*ends[item])
            yield np.concatenate([columns[part].view(np.uint8), values[part].view(np.uint8)])

    marks = np.zeros(len(ends))
    _mark(starts, columns, values, marks)
    return first_alike(marks, content)


@compiled
def _scale(starts: Any, columns: Any, values: Any, of_rows: Any, of_columns: Any, a: Any, b: Any) -> None:
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            values[e] = a[i] * b[j] - values[e] * of_rows[i] * of_columns[j]


@compiled
def _divide_by_either(starts: Any, columns: Any, values: Any, of_rows: Any, of_columns: Any) -> None:
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            values[e] = -values[e] / (of_rows[i] + of_columns[columns[e]] - values[e])


@compiled
def _sum_background(starts: Any, columns: Any, _values: Any, a: Any, b: Any, sums: Any) -> None:
    """Add up a_i b_j over the entries of each row."""
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            sums[i] += a[i] * b[columns[e]]


@compiled
def _set_twins(starts: Any, columns: Any, values: Any, groups: Any, twin: Any) -> None:
    """Write a similarity of 1, times -1, for pairs of one group."""
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            if groups[i] == twin[columns[e]]:
                values[e] = -1.0


@compiled
def _mark(starts: Any, columns: Any, values: Any, marks: Any) -> None:
    for i in range(len(starts) - 1):
        for e in range(starts[i], starts[i + 1]):
            marks[i] += (columns[e] + 1.0) * values[e]


@compiled
def _look_up(starts: Any, columns: Any, values: Any, rows: Any, wanted: Any, found: Any) -> None:
    """Fill `found` with the entries of those of the listed pairs that have one."""
    for e in range(len(rows)):
        place = find_entry(starts, columns, rows[e], wanted[e])
        if place >= 0:
            found[e] = values[place]
