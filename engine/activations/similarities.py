"""Similarities of features by their codes on the same tokens, as a sparse matrix and a background of rank one.

For codes f of feature i and g of feature j on N tokens, the similarities are

    correlation         Pearson's r of f and g,
    jaccard             tokens on which both are active / tokens on which either is,
    activation_cosine   <f, g> / (|f| |g|).

A feature that is never active, and for the correlation one whose code is the same on all tokens, has similarity 0 with
every feature. Only pairs that are active together differ from a background: the similarity is S_ij - a_i b_j, where
S_ij is 0 for all other pairs, and a_i b_j is 0 unless the similarity is a correlation, see `_standardised`.

**Rounding.** All sums are made by stretches of `STRETCH` terms, so that the error of a sum of n terms is at most
g(n) = gamma(min(n, STRETCH) + n / STRETCH + 16) of the sum of the absolute values of its terms; the 16 covers the few
operations before and after it. The computed similarity differs from that of the given codes by at most e_i + e_j.

1. Jaccard: the counts are exact, and their ratio is rounded once.
2. Cosine: |f| and |g| are wrong by at most g(n_i) / 2 and g(n_j) / 2, relatively, and the sum of products by
   g(min(n_i, n_j)) |f| |g|. So e_i = 2 g(n_i) is enough.
3. Correlation: let k_i = (sum f^2 / N) / variance, for f less its shift. The mean is wrong by g(n_i) sqrt(sum f^2 / N)
   at most, so that the variance is wrong by 3 g(n_i) k_i relatively, the deviation by 1.6 g(n_i) k_i, and a_i by
   g(n_i) sqrt(k_i) + 1.6 g(n_i) k_i |a_i|. Both |S_ij| and |a_i b_j| are at most sqrt(k_i k_j), so that the similarity
   is wrong by sqrt(k_i k_j) (5 g(n_i) k_i + 5 g(n_j) k_j) at most. No k exceeds `_SPREAD`, see `_standardised`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from saematch.activations.codes import Codes
from saematch.activations.cofirings import STRETCH, Entries, by_feature, sums_of_products
from saematch.errors import MatchError
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import UNIT_64, Floats, Indices, first_alike
from saematch.options import ActivityMetric, names

_SPREAD = 3.0


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
    def of(cls, metric: ActivityMetric, a: Codes, b: Codes) -> Similarities:
        """Return the similarities of the features of two SAEs by their codes on the same tokens.

        Raises:
            MatchError: if the codes are of different numbers of tokens, or of none.
        """
        if len(a) != len(b):
            raise MatchError(
                f"{a.source} has {len(a):,} tokens and {b.source} has {len(b):,}: both must be of the same tokens"
            )
        if not len(a):
            raise MatchError(f"{a.source} has no tokens, so that nothing can be said about its features")
        x, y = _prepared(metric, a), _prepared(metric, b)
        rows = by_feature(*x.by_token, a.F)
        sums = sums_of_products(rows, x.shift, y.by_token, y.shift, b.F)
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
        alike = _first_alike(rows, by_feature(*y.by_token, b.F))
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
            column_group=_first_of_each(twin),
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


class _Side(NamedTuple):
    """The codes of one side, prepared for a metric.

    Attributes:
        by_token: the entries by token.
        shift: `(F,)`, what is subtracted from the codes of each feature.
        scale: `(F,)`, the factor of each feature's products.
        factor: a of each feature, `(F,)`.
        error: e of each feature, `(F,)`.
    """

    by_token: Entries
    shift: Floats
    scale: Floats
    factor: Floats
    error: Floats


def check_activity_metric(metric: Any) -> ActivityMetric:
    """Return a metric of activations. Raises `MatchError` unless it is one."""
    if metric not in names(ActivityMetric):
        raise MatchError(f"metric is {metric!r}; by activations it is one of {', '.join(names(ActivityMetric))}")
    return cast(ActivityMetric, metric)


def _prepared(metric: ActivityMetric, codes: Codes) -> _Side:
    if metric == "correlation":
        return _standardised(codes)
    zeros, times = np.zeros(codes.F), codes.times_active
    if metric == "jaccard":
        ones = np.ones(len(codes.values), dtype=np.float32)
        rounding = np.full(codes.F, UNIT_64)
        return _Side(Entries(codes.starts, codes.features, ones), zeros, zeros, zeros, rounding)
    _, squares = _sums(codes.features, codes.values, zeros)
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(codes.F), where=squares > 0)
    by_token = Entries(codes.starts, codes.features, codes.values)
    return _Side(by_token, zeros, scale, zeros, 2 * _sum_error(times))


def _standardised(codes: Codes) -> _Side:
    """Prepare codes for their correlations: a = mean / deviation, and products are divided by N and both deviations.

    The correlation does not change if a number is subtracted from all codes of a feature. From features that are active
    on most tokens, their mean is subtracted, rounded to the number type of the codes. Their codes are then stored on
    all tokens, and the difference of S_ij and a_i b_j loses no digits. So k is at most 2 for a feature that is active
    on half of the tokens or less, by the inequality of Cauchy and Schwarz; and for another one whose mean was
    subtracted, because each code differs from the subtracted number not at all or by about the spacing of its number
    type.
    """
    tokens, times = len(codes), codes.times_active
    frequent = times > tokens / 2
    by_token = Entries(*codes.with_entries(frequent))
    shift, mean = np.zeros(codes.F), np.zeros(codes.F)
    for _ in range(3):  # from the third time on, rounding of the mean of what is left does not matter
        shift = np.where(frequent, shift + mean, 0.0).astype(codes.values.dtype).astype(np.float64)
        total, squares = _sums(by_token.columns, by_token.values, shift)
        mean, square = total / tokens, squares / tokens
    variance = square - mean**2
    varies = variance > 0
    deviation = np.sqrt(np.where(varies, variance, 1.0))
    spread = np.where(varies, square, 0.0) / np.where(varies, variance, 1.0)
    assert spread.max(initial=0.0) <= _SPREAD
    terms = np.where(frequent, tokens, times)
    error = 5 * _SPREAD * spread * _sum_error(terms)
    scale = np.where(varies, 1 / (np.sqrt(tokens) * deviation), 0.0)
    return _Side(by_token, shift, scale, np.where(varies, mean / deviation, 0.0), error)


def _sum_error(terms: Indices) -> Floats:
    """Return g of each number of terms, see above."""
    count = np.minimum(terms, STRETCH) + terms // STRETCH + 16.0
    return count * UNIT_64 / (1 - count * UNIT_64)


def _sums(features: NDArray[np.int32], values: NDArray[Any], shift: Floats) -> tuple[Floats, Floats]:
    """Return the sum of the codes of each feature, less their shift, and of their squares."""
    sums = np.zeros((2, len(shift)))
    _add_up(features, values, shift, np.zeros(len(shift), dtype=np.int64), np.zeros_like(sums), sums)
    return sums[0], sums[1]


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


def _first_of_each(groups: Indices) -> Indices:
    """Return for each item the first one of the same group."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]


@compiled
def _add_up(features: Any, values: Any, shift: Any, count: Any, part: Any, sums: Any) -> None:
    """Add up codes and squares by stretches of `STRETCH` terms."""
    for e in range(len(features)):
        j = features[e]
        value = np.float64(values[e]) - shift[j]
        part[0, j] += value
        part[1, j] += value * value
        count[j] += 1
        if count[j] % STRETCH == 0:
            sums[:, j] += part[:, j]
            part[:, j] = 0.0
    sums += part


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
        place, stop = starts[rows[e]], starts[rows[e] + 1]
        while place < stop:
            middle = (place + stop) // 2
            if columns[middle] < wanted[e]:
                place = middle + 1
            else:
                stop = middle
        if place < starts[rows[e] + 1] and columns[place] == wanted[e]:
            found[e] = values[place]
