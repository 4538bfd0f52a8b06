"""The orthogonal map between the activations of two models, fitted on the same tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.activations.selection import OUTLIERS, checked_outliers
from saematch.activations.stored import TOKENS_PER_BATCH
from saematch.errors import MatchError
from saematch.numeric.arrays import ArrayLike, dense_array
from saematch.numeric.threads import torch_threads
from saematch.sae.maps import Fit, Map
from saematch.storage.folders import local_path
from saematch.storage.reading import mapped_array

Mask = NDArray[np.bool_]
_LARGEST = 1e100  # of the norms of activations: sums of their squares stay in the range of float64


@torch_threads()
def procrustes(
    a: ArrayLike | str | os.PathLike[str],
    b: ArrayLike | str | os.PathLike[str],
    *,
    documents: ArrayLike | None = None,
    outliers: float | None = OUTLIERS,
) -> Map:
    """Fit the orthogonal map from the activations of model A to those of model B on the same tokens.

    M is the orthogonal matrix with the least sum of squared errors |(h_A - mean_a) M - (h_B - mean_b)|², from the
    singular value decomposition of the cross-covariance (Schönemann 1966), in float64. It has no scale: the fit says
    which factor would be best. If the widths differ, the narrower space is embedded in the wider one: for d_A > d_B, M
    is the transpose of the map from B to A. Only the first half of the tokens is used, and the residual on the other
    half is part of `Map.fit`.

    Args:
        a: activations of model A `(tokens, d_A)`: an array, or the path of a `.npy` file, which is memory-mapped.
        b: those of model B on the same tokens `(tokens, d_B)`.
        documents: the document of each token `(tokens,)`, so that no document is in both halves: the first half of the
            documents is used. By default the first half of the tokens is.
        outliers: leave out a token if its norm on either side exceeds this many medians, as attention sinks do. None
            leaves out no token.

    Raises:
        MatchError: for activations that are not of the same tokens, or are not finite; and for so few tokens, or
            activations in so small a subspace, that they do not determine the map.

    Examples:
        >>> import torch
        >>> r = torch.Generator().manual_seed(0)
        >>> h = torch.randn(200, 3, generator=r)
        >>> turn = torch.linalg.qr(torch.randn(3, 3, generator=r)).Q
        >>> map = procrustes(h, h @ turn + 1)
        >>> torch.allclose(map.matrix.float(), turn, atol=1e-5), round(map.fit.held_out, 6)
        (True, 0.0)
    """
    pair = _Pair(_states(a, "activations of A"), _states(b, "activations of B"))
    if not len(pair.a) or len(pair.a) != len(pair.b):
        raise MatchError(f"{len(pair.a):,} tokens of A and {len(pair.b):,} of B; give activations of the same tokens")
    kept = _without_outliers(pair, checked_outliers(outliers))
    first = _first_half(len(kept), documents)
    fitted, others = kept & first, kept & ~first
    needed = min(pair.a.shape[1], pair.b.shape[1])
    if fitted.sum() <= needed or not others.any():
        raise MatchError(
            f"{fitted.sum():,} tokens to fit a map by and {others.sum():,} to measure it on, after {(~kept).sum():,} "
            f"outliers: a map in {needed:,} dimensions is determined by more than {needed:,} tokens in the first half"
        )
    mean_a, mean_b = (torch.zeros(side.shape[1], dtype=torch.float64, device="cpu") for side in pair)
    for x, y in pair.blocks(fitted):
        mean_a += x.sum(dim=0) / fitted.sum()
        mean_b += y.sum(dim=0) / fitted.sum()
    cross = torch.zeros((len(mean_a), len(mean_b)), dtype=torch.float64, device="cpu")
    for x, y in pair.blocks(fitted):
        cross += (x - mean_a).T @ (y - mean_b)
    u, sizes, v = torch.linalg.svd(cross, full_matrices=False)
    if sizes[-1] <= sizes[0] * max(cross.shape) * torch.finfo(sizes.dtype).eps:
        raise MatchError(
            f"the activations of both sides vary together in fewer than {needed:,} directions, so that they do not "
            "determine an orthogonal map; give more tokens, or a matrix of your own"
        )
    matrix, means = u @ v, (mean_a, mean_b)
    (residual, square), (held_out, _) = (_residual(pair.blocks(half), matrix, means) for half in (fitted, others))
    counts = int(fitted.sum()), int(others.sum())
    fit = Fit(counts, residual, held_out, float(sizes.sum()) / square, int((~kept).sum()))
    return Map(matrix, *means, fit)


class _Pair(NamedTuple):
    """The activations of the same tokens in two models."""

    a: Any
    b: Any

    def blocks(self, chosen: Mask) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chosen tokens of both sides, in float64 and in blocks."""
        for start in range(0, len(self.a), TOKENS_PER_BATCH):
            part = slice(start, start + TOKENS_PER_BATCH)
            yield tuple(torch.from_numpy(side[part][chosen[part]].astype(np.float64)) for side in self)  # type: ignore[misc]


def _states(given: Any, what: str) -> Any:
    """Return activations `(tokens, d)` as an array, which may be memory-mapped. Raises `MatchError`."""
    if isinstance(given, str | os.PathLike):
        array = mapped_array(local_path(given), 2, "f")
    else:
        array = dense_array(given, what, "(tokens, d)")
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise MatchError(f"{what} are {array.dtype} {array.shape}; expected hidden states (tokens, d)")
    return array


def _without_outliers(pair: _Pair, outliers: float | None) -> Mask:
    """Return which tokens are no outliers. Raises `MatchError` for activations that are not finite, or too large."""
    kept = np.ones(len(pair.a), np.bool_)
    norms = [torch.stack([side.norm(dim=1) for side in block]) for block in pair.blocks(kept)]
    for name, lengths in zip("AB", torch.cat(norms, dim=1).numpy(), strict=True):
        finite = lengths < _LARGEST  # NaN fails this too
        if not finite.all():
            raise MatchError(
                f"activations of {name} are NaN, or their norm exceeds {_LARGEST:g}, first at token {finite.argmin():,}"
            )
        if outliers is not None:
            kept &= lengths <= outliers * np.median(lengths)
    return kept


def _first_half(tokens: int, documents: Any) -> Mask:
    """Return which tokens are in the first half. Raises `MatchError` for documents that are not those of the tokens."""
    if documents is None:
        return np.arange(tokens) < tokens // 2
    numbers = dense_array(documents, "documents", "(tokens,)")
    if numbers.shape != (tokens,) or numbers.dtype.kind not in "iu":
        raise MatchError(
            f"documents are {numbers.dtype} {numbers.shape}; expected a whole number for each of {tokens:,} tokens"
        )
    _, first, document = np.unique(numbers, return_index=True, return_inverse=True)
    order = first.argsort().argsort()  # the place of each document among all, by its first token
    return order[document] < len(first) // 2


def _residual(
    blocks: Iterator[tuple[Tensor, Tensor]], matrix: Tensor, means: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Return the share of the squared deviations from the mean of B that is left, and the square of what is mapped."""
    left = total = made = 0.0
    for x, y in blocks:
        mapped, deviation = (x - means[0]) @ matrix, y - means[1]
        left += float((mapped - deviation).square().sum())
        total += float(deviation.square().sum())
        made += float(mapped.square().sum())
    return left / total if total else 0.0, made
