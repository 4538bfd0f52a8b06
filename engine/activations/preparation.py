"""Codes of one side, prepared for their similarities with those of another side.

The bounds of errors are derived in `saematch.activations.similarities`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saematch.activations.codes import Codes
from saematch.activations.cofirings import STRETCH, Entries
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import UNIT_64, Floats, Indices
from saematch.options import ActivityMetric

SPREAD = 3.0  # no mean square of codes, less what is subtracted, is more than this times their variance


class PreparedCodes(NamedTuple):
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


def prepared(metric: ActivityMetric, codes: Codes) -> PreparedCodes:
    """Return the codes of one side as a metric needs them."""
    if metric == "correlation":
        return standardised(codes)
    zeros, times = np.zeros(codes.F), codes.times_active
    if metric == "jaccard":
        ones = np.ones(len(codes.values), dtype=np.float32)
        rounding = np.full(codes.F, UNIT_64)
        return PreparedCodes(Entries(codes.starts, codes.features, ones), zeros, zeros, zeros, rounding)
    _, squares = _sums(codes.features, codes.values, zeros)
    scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(codes.F), where=squares > 0)
    by_token = Entries(codes.starts, codes.features, codes.values)
    return PreparedCodes(by_token, zeros, scale, zeros, 2 * _sum_error(times))


def standardised(codes: Codes) -> PreparedCodes:
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
    assert spread.max(initial=0.0) <= SPREAD
    terms = np.where(frequent, tokens, times)
    error = 5 * SPREAD * spread * _sum_error(terms)
    scale = np.where(varies, 1 / (np.sqrt(tokens) * deviation), 0.0)
    return PreparedCodes(by_token, shift, scale, np.where(varies, mean / deviation, 0.0), error)


def _sum_error(terms: Indices) -> Floats:
    """Return g of each number of terms, see `similarities`."""
    count = np.minimum(terms, STRETCH) + terms // STRETCH + 16.0
    return count * UNIT_64 / (1 - count * UNIT_64)


def _sums(features: NDArray[np.int32], values: NDArray[Any], shift: Floats) -> tuple[Floats, Floats]:
    """Return the sum of the codes of each feature, less their shift, and of their squares."""
    sums = np.zeros((2, len(shift)))
    _add_up(features, values, shift, np.zeros(len(shift), dtype=np.int64), np.zeros_like(sums), sums)
    return sums[0], sums[1]


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
