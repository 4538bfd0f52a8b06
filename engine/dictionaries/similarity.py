"""Cosines between the features of two SAEs: the matching with the largest sum, and the most similar feature of each."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from saematch.matching.api import match
from saematch.matching.result import Matching
from saematch.numeric.cosines import unit_rows
from saematch.numeric.rounding import Floats, Indices, first_alike
from saematch.numeric.rows import Rows
from saematch.numeric.threads import torch_threads
from saematch.options import Metric, Part
from saematch.sae.autoencoder import SAE
from saematch.sae.features import feature_rows

Kind = Literal["decoder", "encoder", "joint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS_OF: dict[Kind, tuple[Part, ...]] = {
    "decoder": ("decoder",),
    "encoder": ("encoder",),
    "joint": ("encoder", "decoder"),
}
_BLOCK = 4096  # rows and columns of the cosines that are in memory at a time


def directions(sae: SAE, part: Part) -> Floats:
    """Return the directions of one part of all features, `(F, d)`: rows of norm 1, or of zeros without a direction."""
    return unit_rows(feature_rows(sae, [part], fold="none"))


def match_by_cosine(a: SAE, b: SAE, kind: Kind, absolute: bool, **limits: Any) -> Matching:
    """Return the one-to-one matching of two SAEs whose sum of similarities is largest.

    The similarity of a pair is 1 minus its cost: the cosine of the decoder rows, of the encoder columns, or for "joint"
    the mean of both cosines. A feature without a direction has similarity 0 with all features.

    Args:
        a: the source SAE.
        b: the target SAE.
        kind: what is compared.
        absolute: whether the similarity is the absolute value, for which a feature equals its negative.
        **limits: options of `saematch.match` that say how the search runs.
    """
    metric: Metric = "absolute_cosine" if absolute else "cosine"
    return match(a, b, metric=metric, parts=PARTS_OF[kind], **limits)


class Nearest(NamedTuple):
    """The most similar features, by the cosine of one part.

    Attributes:
        partner: the most similar feature of B for each feature of A, `(F_A,)`.
        cosine: its cosine, `(F_A,)`.
        back: the most similar feature of A for each feature of B, `(F_B,)`.
        back_cosine: its cosine, `(F_B,)`.
        distinct: how many features of B are the most similar one, by absolute cosine, of some feature of A; and how
            many features of A are that of some feature of B.
    """

    partner: Indices
    cosine: Floats
    back: Indices
    back_cosine: Floats
    distinct: tuple[int, int]


@torch_threads()
def nearest(a: SAE, b: SAE, part: Part, device: torch.device) -> Nearest:
    """Return the most similar features of two SAEs, many to one, by a pass over all pairs in float64.

    Of several features with the same direction, that with the lowest number is taken.

    Args:
        a: one SAE.
        b: another SAE on activations of the same width.
        part: "decoder" or "encoder".
        device: the device that multiplies, which needs float64.
    """
    sides = [directions(sae, part) for sae in (a, b)]
    x, y = (torch.from_numpy(side).to(device) for side in sides)
    signed, up_to_sign = (_Best(len(x), len(y), device) for _ in range(2))
    for top in range(0, len(x), _BLOCK):
        for left in range(0, len(y), _BLOCK):
            cosines = x[top : top + _BLOCK] @ y[left : left + _BLOCK].T
            signed.update(cosines, top, left)
            up_to_sign.update(cosines.abs_(), top, left)
    (partner, cosine), (back, back_cosine) = signed.arrays()
    (absolute, _), (absolute_back, _) = up_to_sign.arrays()
    # The cosines with equal directions may be rounded differently by the library that multiplies.
    of_a, of_b = (_first_alike(side) for side in sides)
    alike_a, alike_b = (_first_alike(side, up_to_sign=True) for side in sides)
    distinct = len(np.unique(alike_b[absolute])), len(np.unique(alike_a[absolute_back]))
    return Nearest(of_b[partner], cosine, of_a[back], back_cosine, distinct)


def _first_alike(rows: Floats, up_to_sign: bool = False) -> Indices:
    """Return for each direction the first one that is the same, or that is the same up to its sign."""

    def content(listed: Indices) -> Floats:
        part = rows[listed]
        if up_to_sign:
            leading = np.take_along_axis(part, (part != 0).argmax(axis=1)[:, None], axis=1)
            part = np.where(leading < 0, -part, part)
        return part + 0.0  # 0 and -0 have different bits

    return first_alike(Rows.of(rows).square, content)


class _Best:
    """The largest value of each row and of each column, and its place, over blocks in ascending order."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self._sides = [
            (
                torch.zeros(count, dtype=torch.int64, device=device),
                torch.full((count,), -np.inf, device=device).double(),
            )
            for count in (rows, columns)
        ]

    def update(self, block: torch.Tensor, top: int, left: int) -> None:
        for axis, (here, there) in ((1, (top, left)), (0, (left, top))):
            values, places = block.max(dim=axis)
            best_place, best = (array[here : here + len(values)] for array in self._sides[1 - axis])
            better = values > best
            best_place[better], best[better] = places[better] + there, values[better]

    def arrays(self) -> list[tuple[Indices, Floats]]:
        return [(places.cpu().numpy(), values.cpu().numpy()) for places, values in self._sides]
