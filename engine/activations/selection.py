"""The tokens of a source of activations that are used: those whose activations are no outliers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saematch.activations.stored import ActivationSource
from saematch.errors import MatchError
from saematch.numeric.numbers import checked_number
from saematch.numeric.rounding import Floats, Indices

OUTLIERS = 10.0  # medians of the norm: a token above is an attention sink, not text
UNITS = 200  # most units to resample: documents, or groups of documents if there are more
_UNRELATED = 0.95  # share of the distance between random rows: rows of the same token are nearer
SIZE_COLUMNS: Mapping[str, str] = {
    "tokens": "number of tokens averaged over; the first token of each context is not counted",
    "left_out": f"number of tokens left out: their norm in some layer exceeds {OUTLIERS:g} medians, or the given limit",
}


class Batch(NamedTuple):
    """Selected tokens: the sampling unit of each token, and its activations `(n, d)` in each layer."""

    units: Indices
    layers: list[Tensor]


@dataclass(frozen=True)
class TokenSelection:
    """The tokens of a source that every measurement uses.

    Attributes:
        source: the activations.
        layers: the layers whose norms decide.
        selected: bool `(tokens,)`: False for tokens whose norm in some layer exceeds the limit, see `of`.
        units: the sampling unit of each token for bootstrap intervals: its document, or a group of documents. int64
            `(tokens,)`.
    """

    source: ActivationSource
    layers: tuple[int, ...]
    selected: NDArray[np.bool_]
    units: Indices

    @classmethod
    def of(
        cls, source: ActivationSource, layers: Sequence[int], outliers: float | None = OUTLIERS, documents: int = 2
    ) -> TokenSelection:
        """Select tokens in one pass over all activations.

        Args:
            source: the activations.
            layers: the layers.
            outliers: leave out a token if its norm in some layer exceeds this many medians of the norms of that layer.
                None leaves out no token.
            documents: how many documents are needed: two for uncertainty.

        Raises:
            MatchError: if there are fewer documents, or if the rows of two layers do not belong to the same
                tokens: then they are as far from each other as rows in random order.
        """
        outliers = checked_outliers(outliers)
        found = int(source.documents.max(initial=-1)) + 1
        if found < documents:
            needed = "uncertainty needs at least two" if documents == 2 else f"at least {documents} is needed"
            raise MatchError(f"{source}: {found} document with tokens; {needed}")
        norms = [np.stack([x.norm(dim=1).double().cpu().numpy() for x in batch]) for batch in source.batches(layers)]
        lengths: Floats = np.concatenate(norms, axis=1)
        limit = np.inf if outliers is None else outliers * np.median(lengths, axis=1, keepdims=True)
        selected: NDArray[np.bool_] = np.all(lengths <= limit, axis=0)
        if not selected.any():
            raise MatchError(
                f"{source}: no token is left: every one has a norm above {outliers:g} medians in some layer; choose a "
                "larger limit of outliers"
            )
        selection = cls(source, tuple(layers), selected, source.documents % UNITS)
        selection._check_order()
        return selection

    @property
    def size(self) -> dict[str, int]:
        """The numbers of selected tokens, of tokens left out, and of documents."""
        selected = int(self.selected.sum())
        documents = len(np.unique(self.source.documents))
        return {"tokens": selected, "left_out": len(self.selected) - selected, "documents": documents}

    @cached_property
    def units_count(self) -> int:
        """The number of sampling units."""
        return int(self.units.max()) + 1

    def batches(self, layers: Sequence[int], device: torch.device) -> Iterator[Batch]:
        """Yield the selected tokens of the next batch, on a device."""
        start = 0
        for activations in self.source.batches(layers):
            part = slice(start, start + len(activations[0]))
            start = part.stop
            mask = torch.from_numpy(self.selected[part])
            if mask.any():
                units = self.units[part][self.selected[part]]
                yield Batch(units, [x[mask.to(x.device)].to(device) for x in activations])

    def _check_order(self) -> None:
        """Raise `MatchError` if the rows of two neighbouring layers do not belong to the same tokens.

        In neighbouring layers of a residual stream, the two rows of a token are near each other. The means of the
        batch are subtracted and the rows normalised, so that a few large rows do not decide. The expected squared
        distance of unrelated unit rows is the sum of their squared norms.
        """
        for a, b in zip(self.layers[:-1], self.layers[1:], strict=True):
            distance = unrelated = 0.0
            for _, activations in self.batches([a, b], torch.device("cpu")):
                x, y = (nn.functional.normalize((states - states.mean(dim=0)).double()) for states in activations)
                distance += float((x - y).square().sum())
                unrelated += float(x.square().sum() + y.square().sum())
            if unrelated > 0 and distance >= _UNRELATED * unrelated:
                raise MatchError(
                    f"{self.source}: activations of layers {a} and {b} are as far from each other as rows in random "
                    "order: the rows do not belong to the same tokens in the same order"
                )


def checked_outliers(outliers: float | None) -> float | None:
    """Return a limit in medians of the norm, or None. Raises `MatchError` unless it is positive."""
    if outliers is None:
        return None
    wrong = f"outliers is {outliers!r:.40}; give medians of the norm above 0, or none to keep all tokens"
    return checked_number(outliers, 0, sys.float_info.max, wrong, above=True)
