"""Writing the codes of all layers of a model on many tokens, one file for each layer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from saematch.activations.codes import Codes
from saematch.activations.files import made_from
from saematch.activations.layers import EncodedLayers, file_of_layer
from saematch.activations.selection import OUTLIERS, TokenSelection
from saematch.activations.stored import ActivationSource
from saematch.errors import MatchError, refusals
from saematch.options import Side
from saematch.sae.autoencoder import SAE
from saematch.sources import as_layers
from saematch.storage.folders import local_path


@dataclass(frozen=True)
class EncodedLayer:
    """The file of codes of one layer.

    Attributes:
        layer: the number of the layer.
        path: the file.
        tokens: the number of tokens.
        left_out: the number of tokens that were left out, as outliers in some layer.
        F: the number of features.
        active: the mean number of active features for each token.
        never_active: the number of features that are active on no token.
        is_new: whether the file was written now; otherwise it was there already.
    """

    layer: int
    path: Path
    tokens: int
    left_out: int
    F: int
    active: float
    never_active: int
    is_new: bool

    def as_json(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return {**asdict(self), "path": str(self.path)}


def encode_layers(
    layers: Mapping[int, SAE],
    source: ActivationSource,
    folder: str | os.PathLike[str],
    *,
    outliers: float | None = OUTLIERS,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[EncodedLayer]:
    """Encode activations by the SAE of each layer, and write the codes, `layer_<number>.safetensors`.

    The files of layers that were finished before, from the same SAEs and activations, are kept.

    Args:
        layers: layer number -> SAE: what `load_layers` returns, or a dictionary.
        source: the hidden states of all layers.
        folder: the folder of the files, which is made if need be.
        outliers: leave out a token if its norm in some layer exceeds this many medians of the norms of that layer. None
            leaves out no token.
        overwrite: whether to replace files that were made from other SAEs or activations.
        device: where the SAEs run.

    Yields:
        The file of each layer, as soon as it is written.

    Raises:
        MatchError: if the activations are not for these SAEs, or a file cannot be written, or is there already and was
            made from something else.

    Examples:
        >>> import numpy as np, pathlib
        >>> import saematch as sm
        >>> from saematch.evaluation import StoredActivations
        >>> pathlib.Path("states").mkdir()
        >>> for layer in (8, 9):
        ...     states = 9 * np.random.default_rng(0).standard_normal((300, 576), dtype=np.float32)
        ...     np.save(f"states/layer_{layer}.npy", states)
        >>> layers, source = sm.load_layers("sample?layer=8-9"), StoredActivations("states", document_length=30)
        >>> for written in encode_layers(layers, source, "codes"):
        ...     print(written.path.name, written.tokens)
        layer_8.safetensors 300
        layer_9.safetensors 300
        >>> sm.match_layers(layers, metric="correlation", activations="codes").certified
        True
    """
    saes, folder = as_layers(layers), local_path(folder)
    for layer, handle in saes.handles.items():
        header = handle.header()
        if header is not None:
            source.check(layer, header)
    with refusals("cannot be made", folder, OSError):
        folder.mkdir(parents=True, exist_ok=True)
    encoded = EncodedLayers(TokenSelection.of(source, list(saes), outliers, documents=1), str(device))
    left_out = encoded.selection.size["left_out"]
    documents = hashlib.sha256(source.documents.tobytes()).hexdigest()
    for layer, handle in saes.handles.items():
        path = folder / file_of_layer(layer)
        inputs = {"sae": handle.sha256(), "documents": documents, **encoded.record()}
        is_new = overwrite or not path.is_file()
        if not is_new and made_from(path) != inputs:
            raise MatchError(
                f"{path}: is there already, from another SAE or other activations; choose another folder, or overwrite "
                "it (overwrite=True)"
            )
        if is_new:
            codes = encoded.codes(saes[layer], layer, Side.SOURCE)
            codes.save(path, overwrite=True, made_from=inputs)
        else:
            codes = Codes.load(path)
        never = int((codes.times_active == 0).sum())
        active = len(codes.features) / max(1, len(codes))
        yield EncodedLayer(layer, path, len(codes), left_out, codes.F, active, never, is_new)
