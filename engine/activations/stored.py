"""Activations of the same tokens in several layers: what a source of them is, and activations on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from saematch.errors import MatchError
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Indices
from saematch.sae.autoencoder import SAE
from saematch.storage.folders import local_path
from saematch.storage.reading import mapped_array

TOKENS_PER_BATCH = 2048


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
        self._folder, self._document_length = local_path(folder), document_length
        if not self._folder.is_dir():
            raise MatchError(f"{folder}: no such folder")
        paths = {path.stem.removeprefix("layer_"): path for path in sorted(self._folder.glob("layer_*.npy"))}
        numbered = {name: path for name, path in paths.items() if name.isdecimal()}
        if len(set(map(int, numbered))) < len(numbered):
            raise MatchError(f"{folder}: several files for one layer: {', '.join(sorted(map(str, numbered.values())))}")
        self._layers = {int(name): mapped_array(path, 2, "f") for name, path in numbered.items()}
        if not self._layers:
            raise MatchError(f"{folder}: no activations there; expected layer_<number>.npy, (tokens, d)")
        counts = {layer: len(array) for layer, array in self._layers.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"layer {layer} has {count:,}" for layer, count in counts.items())
            raise MatchError(f"{folder}: all layers must have the same tokens, but {listed}")
        self.documents = self._numbered(next(iter(counts.values())), document_length)

    def __str__(self) -> str:
        return str(self._folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredActivations, (self._folder, self._document_length)  # without the arrays, which are on disk

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
            numbers = mapped_array(path, 1, "iu")
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
