"""Activations of the same tokens in several layers: where they come from, and which of them count."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from saematch.errors import MatchError, refusals
from saematch.evaluation.uncertainty import UNITS
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Floats, Indices
from saematch.sae.autoencoder import SAE
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at

BATCH = 2048  # tokens at a time
OUTLIERS = 10.0  # medians of the norm from which on a token is an attention sink, not text
_DISTINCT = 0.95  # of the distance of rows drawn at random: nearer are those of one token


class Source(Protocol):
    """Activations of tokens, layer by layer, in an order that does not change."""

    documents: Indices  # (tokens,) the document of each, from 0 without gaps

    def __str__(self) -> str:
        """Where they come from, for messages."""

    def record(self) -> dict[str, Any]:
        """What they are known again by, for JSON."""

    def check(self, layer: int, sae: SAE) -> None:
        """Raise `MatchError` unless the layer is there and has the SAE's width."""

    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """Activations `(n, d)` of the next tokens, in each layer, float32."""


class StoredActivations(Source):
    """Activations on disk: `layer_{number}.npy` `(tokens, d)` in a folder, rows of the same tokens in the same order.

    `documents.npy` `(tokens,)` numbers the document of each token; or every document has `document_length` tokens. The
    arrays are memory-mapped, never unpickled.

    Raises:
        MatchError: if there are none, their numbers of tokens differ, or documents are not known.
    """

    def __init__(self, folder: str | os.PathLike[str], document_length: int | None = None) -> None:
        self._folder = local_path(folder)
        if not self._folder.is_dir():
            raise MatchError(f"{folder}: no such folder")
        paths = {path.stem.removeprefix("layer_"): path for path in sorted(self._folder.glob("layer_*.npy"))}
        self._layers = {int(name): _array(path, 2, "f") for name, path in paths.items() if name.isdecimal()}
        if not self._layers:
            raise MatchError(f"{folder}: no activations there; expected layer_<number>.npy, (tokens, d)")
        counts = {layer: len(array) for layer, array in self._layers.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"layer {layer} has {count:,}" for layer, count in counts.items())
            raise MatchError(f"{folder}: all layers must hold the same tokens, and {listed}")
        self.documents = self._numbered(next(iter(counts.values())), document_length)

    def __str__(self) -> str:
        return str(self._folder)

    @override
    def record(self) -> dict[str, Any]:
        stats = [path.stat() for path in sorted(self._folder.glob("*.npy"))]
        return {"folder": str(self._folder.absolute()), "files": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}

    @override
    def check(self, layer: int, sae: SAE) -> None:
        if layer not in self._layers:
            known = ", ".join(map(str, sorted(self._layers)))
            raise MatchError(f"{self}: no activations of layer {layer}; there are those of {known}")
        width = self._layers[layer].shape[1]
        if width != sae.d:
            raise MatchError(f"{self}: activations of layer {layer} have width {width}, {sae.source} reads {sae.d}")

    @override
    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """Raises `MatchError` for NaN, with its place."""
        for start in range(0, len(self.documents), BATCH):
            found = []
            for layer in layers:
                x = torch.from_numpy(self._layers[layer][start : start + BATCH].astype(np.float32))
                bad = (~x.isfinite()).nonzero()
                if len(bad):
                    at = f"token {start + int(bad[0, 0]):,}, column {int(bad[0, 1]):,}"
                    raise MatchError(f"{self}: activations of layer {layer} are NaN or infinite, first at {at}")
                found.append(x)
            yield found

    def _numbered(self, tokens: int, length: int | None) -> Indices:
        path = self._folder / "documents.npy"
        if length is None and path.exists():
            given = _array(path, 1, "iu")
            if len(given) != tokens:
                raise MatchError(f"{path}: {len(given):,} entries for {tokens:,} tokens")
            return np.unique(given, return_inverse=True)[1].astype(np.int64)
        if length is None:
            raise MatchError(
                f"{self}: which tokens belong to one document? Put a documents.npy there, a number for each token, or "
                "say how long documents are (document_length, --document-length)"
            )
        wrong = f"{self}: {tokens:,} tokens are no whole number of documents of {length!r:.40}"
        length = checked_count(length, 1, wrong)
        if tokens % length:
            raise MatchError(wrong)
        return np.arange(tokens, dtype=np.int64) // length


class Batch(NamedTuple):
    """Tokens that count: the unit each is drawn with, and its activations `(n, d)` in each layer."""

    units: Indices
    layers: list[Tensor]


@dataclass(frozen=True)
class Survey:
    """The tokens of a source that count in every measurement.

    Attributes:
        kept: bool `(tokens,)`; not those whose norm in some layer exceeds `OUTLIERS` medians, unless asked for.
        units: int64 `(tokens,)`: what is drawn again for intervals, documents or groups of them.
    """

    source: Source
    layers: tuple[int, ...]
    kept: NDArray[np.bool_]
    units: Indices

    @classmethod
    def of(cls, source: Source, layers: Sequence[int], outliers: float | None = OUTLIERS) -> Survey:
        """One look at all tokens in all layers.

        Raises:
            MatchError: for fewer than two documents, or layers whose rows are not of the same tokens: as far from each
                other as rows drawn at random.
        """
        documents = int(source.documents.max(initial=-1)) + 1
        if documents < 2:
            raise MatchError(f"{source}: {documents} document with tokens; uncertainty needs at least two")
        norms: list[Floats] = []
        for found in source.batches(layers):
            norms.append(np.stack([x.norm(dim=1).double().cpu().numpy() for x in found]))
        lengths = np.concatenate(norms, axis=1)
        limit = np.inf if outliers is None else outliers * np.median(lengths, axis=1, keepdims=True)
        kept: NDArray[np.bool_] = np.all(lengths <= limit, axis=0)
        survey = cls(source, tuple(layers), kept, source.documents % UNITS)
        survey._check_order()
        return survey

    @property
    def size(self) -> dict[str, int]:
        """Tokens that count, tokens left out, documents."""
        counted = int(self.kept.sum())
        documents = len(np.unique(self.source.documents))
        return {"tokens": counted, "left_out": len(self.kept) - counted, "documents": documents}

    @cached_property
    def units_count(self) -> int:
        """How many units there are to draw."""
        return int(self.units.max()) + 1

    def batches(self, layers: Sequence[int], device: torch.device) -> Iterator[Batch]:
        """The tokens that count."""
        at = 0
        for found in self.source.batches(layers):
            part = slice(at, at + len(found[0]))
            at = part.stop
            kept = torch.from_numpy(self.kept[part])
            if kept.any():
                yield Batch(self.units[part][self.kept[part]], [x[kept.to(x.device)].to(device) for x in found])

    def _check_order(self) -> None:
        """Rows of one token are near each other in neighbouring layers of a residual stream."""
        for a, b in zip(self.layers[:-1], self.layers[1:], strict=True):
            near = far = 0.0
            for _, found in self.batches([a, b], torch.device("cpu")):
                # Directions from the mean, so that a few large rows do not decide.
                x, y = (nn.functional.normalize((each - each.mean(dim=0)).double()) for each in found)
                near += float((x - y).square().sum())
                far += float(x.square().sum() + y.square().sum())
            if far > 0 and near >= _DISTINCT * far:
                raise MatchError(
                    f"{self.source}: activations of layers {a} and {b} are as far from each other as rows drawn at "
                    "random: their rows are not of the same tokens in the same order"
                )


def _array(path: Path, axes: int, kinds: str) -> NDArray[Any]:
    refuse_pointer_at(path)
    with refusals("not an array that can be read", path, OSError, ValueError, EOFError):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != axes or array.dtype.kind not in kinds:
        expected = {2: "(tokens, d) of floating-point numbers", 1: "(tokens,) of integers"}[axes]
        raise MatchError(f"{path}: {array.dtype} {array.shape}; expected {expected}")
    return array


SURVEY_COLUMNS: Mapping[str, str] = {
    "tokens": "averaged over; the first token of each context is none of them",
    "left_out": f"tokens with a norm above {OUTLIERS:g} medians in some layer, unless asked for",
}
