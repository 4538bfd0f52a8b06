"""Activations of the same tokens in several layers: the sources they come from, and the tokens that are measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

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

TOKENS_PER_BATCH = 2048
OUTLIERS = 10.0  # medians of the norm: a token above is an attention sink, not text
_UNRELATED = 0.95  # share of the distance between random rows: rows of the same token are nearer


class ActivationSource(Protocol):
    """Activations of tokens in several layers. The order of the tokens does not change."""

    documents: Indices  # the document of each token, `(tokens,)`, numbered from 0 without gaps

    def __str__(self) -> str:
        """Return the name of the source in messages."""

    def record(self) -> Mapping[str, object]:
        """Return what identifies the activations, as JSON: a resumed evaluation reuses results of an equal record."""

    def check(self, layer: int, sae: SAE) -> None:
        """Raise `MatchError` unless the source has activations of a layer, as wide as the SAE."""

    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """Yield the activations of the next tokens: for each layer, float32 `(n, d)`."""


class FolderRecord(TypedDict):
    """The identity of stored activations: the folder, and the size and the time of change of every file."""

    folder: str
    files: list[list[int]]


class StoredActivations(ActivationSource):
    """Activations on disk: a folder with one file `layer_{number}.npy` `(tokens, d)` per layer.

    Row n of every file belongs to the same token. The numbers in `documents.npy` `(tokens,)` say which document each
    token is from; without that file, every document has `document_length` tokens. The arrays are memory-mapped and
    never unpickled.

    Args:
        folder: the folder.
        document_length: tokens of every document. If given, `documents.npy` is not read.

    Raises:
        MatchError: if the folder has no activations, if the layers have different numbers of tokens, or if the
            documents are not known.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> Path("activations").mkdir()
        >>> for layer in (8, 9):
        ...     np.save(f"activations/layer_{layer}.npy", np.random.default_rng(layer).standard_normal((60, 4)))
        >>> activations = StoredActivations("activations", document_length=20)
        >>> len(activations.documents), activations.documents[-1].item()
        (60, 2)
    """

    def __init__(self, folder: str | os.PathLike[str], document_length: int | None = None) -> None:
        self._folder = local_path(folder)
        if not self._folder.is_dir():
            raise MatchError(f"{folder}: no such folder")
        paths = {path.stem.removeprefix("layer_"): path for path in sorted(self._folder.glob("layer_*.npy"))}
        self._layers = {int(name): _mapped_array(path, 2, "f") for name, path in paths.items() if name.isdecimal()}
        if not self._layers:
            raise MatchError(f"{folder}: no activations there; expected layer_<number>.npy, (tokens, d)")
        counts = {layer: len(array) for layer, array in self._layers.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"layer {layer} has {count:,}" for layer, count in counts.items())
            raise MatchError(f"{folder}: all layers must have the same tokens, but {listed}")
        self.documents = self._numbered(next(iter(counts.values())), document_length)

    def __str__(self) -> str:
        return str(self._folder)

    def __repr__(self) -> str:
        return f"StoredActivations({str(self)!r}, layers {sorted(self._layers)}, {len(self.documents)} tokens)"

    @override
    def record(self) -> FolderRecord:
        stats = [path.stat() for path in sorted(self._folder.glob("*.npy"))]
        return {"folder": str(self._folder.absolute()), "files": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}

    @override
    def check(self, layer: int, sae: SAE) -> None:
        if layer not in self._layers:
            known = ", ".join(map(str, sorted(self._layers)))
            raise MatchError(f"{self}: no activations of layer {layer}; the folder has layers {known}")
        width = self._layers[layer].shape[1]
        if width != sae.d:
            raise MatchError(f"{self}: activations of layer {layer} have width {width}, {sae.source} reads {sae.d}")

    @override
    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        """Raise `MatchError`, with the position, for activations that are NaN or infinite."""
        for start in range(0, len(self.documents), TOKENS_PER_BATCH):
            batch = []
            for layer in layers:
                x = torch.from_numpy(self._layers[layer][start : start + TOKENS_PER_BATCH].astype(np.float32))
                bad = (~x.isfinite()).nonzero()
                if len(bad):
                    position = f"token {start + int(bad[0, 0]):,}, column {int(bad[0, 1]):,}"
                    raise MatchError(f"{self}: activations of layer {layer} are NaN or infinite, first at {position}")
                batch.append(x)
            yield batch

    def _numbered(self, tokens: int, length: int | None) -> Indices:
        """Return the document of each token."""
        path = self._folder / "documents.npy"
        if length is None and path.exists():
            numbers = _mapped_array(path, 1, "iu")
            if len(numbers) != tokens:
                raise MatchError(f"{path}: {len(numbers):,} entries for {tokens:,} tokens")
            return np.unique(numbers, return_inverse=True)[1].astype(np.int64)
        if length is None:
            raise MatchError(
                f"{self}: which tokens belong to one document? Add documents.npy with a number for each token, or give "
                "the length of the documents in tokens (document_length=)"
            )
        wrong = f"{self}: {tokens:,} tokens are not a whole number of documents of {length!r:.40}"
        length = checked_count(length, 1, wrong)
        if tokens % length:
            raise MatchError(wrong)
        return np.arange(tokens, dtype=np.int64) // length


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
    def of(cls, source: ActivationSource, layers: Sequence[int], outliers: float | None = OUTLIERS) -> TokenSelection:
        """Select tokens in one pass over all activations.

        Args:
            source: the activations.
            layers: the layers.
            outliers: leave out a token if its norm in some layer exceeds this many medians of the norms of that layer.
                None leaves out no token.

        Raises:
            MatchError: if there are fewer than two documents, or if the rows of two layers do not belong to the same
                tokens: then they are as far from each other as rows in random order.
        """
        documents = int(source.documents.max(initial=-1)) + 1
        if documents < 2:
            raise MatchError(f"{source}: {documents} document with tokens; uncertainty needs at least two")
        norms = [np.stack([x.norm(dim=1).double().cpu().numpy() for x in batch]) for batch in source.batches(layers)]
        lengths: Floats = np.concatenate(norms, axis=1)
        limit = np.inf if outliers is None else outliers * np.median(lengths, axis=1, keepdims=True)
        selected: NDArray[np.bool_] = np.all(lengths <= limit, axis=0)
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


def _mapped_array(path: Path, axes: int, kinds: str) -> NDArray[Any]:
    refuse_pointer_at(path)
    with refusals("not an array that can be read", path, OSError, ValueError, EOFError):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != axes or array.dtype.kind not in kinds:
        expected = {2: "(tokens, d) of floating-point numbers", 1: "(tokens,) of integers"}[axes]
        raise MatchError(f"{path}: {array.dtype} {array.shape}; expected {expected}")
    return array


SIZE_COLUMNS: Mapping[str, str] = {
    "tokens": "number of tokens averaged over; the first token of each context is not counted",
    "left_out": f"number of tokens left out: their norm in some layer exceeds {OUTLIERS:g} medians, or the given limit",
}
