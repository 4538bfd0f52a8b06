"""What a run read: each SAE with a record by which it is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from saematch.errors import MatchError
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, StoredSAE


def read_input(layers: Mapping[int, SAE], layer: int) -> tuple[SAE, dict[str, Any]]:
    """The SAE of a layer and its record: where, in which format, files with size and time, hashes, what it is and was.

    Files are hashed while they are read, so that they come from the disk once.

    Raises:
        MatchError: if it is damaged, or no SAE.
        OSError: if its files cannot be read.
    """
    stored = _stored(layers, layer)
    if stored is None:
        sae = _sae(layers, layer)
        about: dict[str, Any] = {"path": None, "format": None, "files": None, "sha256": _tensor_hashes(sae)}
    else:
        about = {
            "path": _path(stored),
            "format": stored.family.name,
            "options": dict(stored.at.options),
            "files": stored.stamps(),
        }
        with ThreadPoolExecutor(1) as beside:
            hashes = beside.submit(stored.sha256)
            sae = stored.read()
            about["sha256"] = hashes.result()
    return sae, {**about, "F": sae.F, "d": sae.d, "activation": sae.activation, "notes": list(sae.notes)}


def is_unchanged(layers: Mapping[int, SAE], layer: int, record: Mapping[str, Any], verify: bool = False) -> bool:
    """Whether a layer is the one of the record: by its hashes, or, unless to be verified, by path, size and time.

    Raises `OSError` if its files cannot be read.
    """
    stored = _stored(layers, layer)
    if stored is None:
        return bool(_tensor_hashes(_sae(layers, layer)) == record["sha256"])
    if record.get("options", {}) != stored.at.options:
        return False
    at_rest = bool(record["path"] == _path(stored) and record["files"] == stored.stamps())
    return (at_rest and not verify) or bool(stored.sha256() == record["sha256"])


def header(layers: Mapping[int, SAE], layer: int) -> SAE | None:
    """The SAE of a layer as far as it is known without reading weights; None where not even its header is legible.

    Raises `MatchError` for what is no SAE.
    """
    stored = _stored(layers, layer)
    if stored is None:
        return _sae(layers, layer)
    try:
        return stored.describe().sae
    except (MatchError, OSError, MemoryError):
        return None


def _stored(layers: Mapping[int, SAE], layer: int) -> StoredSAE | None:
    return layers.stored[layer] if isinstance(layers, Layers) else None


def _path(stored: StoredSAE) -> str:
    return stored.at.place.address(stored.at.name)


def _sae(layers: Mapping[int, SAE], layer: int) -> SAE:
    sae = layers[layer]
    if not isinstance(sae, SAE):
        raise MatchError(f"layer {layer} is a {type(sae).__name__}, expected an SAE")
    return sae


def _tensor_hashes(sae: SAE) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in sae.tensors().items()
    }
