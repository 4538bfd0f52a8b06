"""The codes of the SAEs of a run: encoded from hidden states of each layer, or read from files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saematch.activations.codes import TOKENS_AT_ONCE, Codes, Encoder
from saematch.activations.selection import OUTLIERS, TokenSelection
from saematch.activations.stored import ActivationSource, StoredActivations
from saematch.errors import MatchError
from saematch.options import Side
from saematch.sae.autoencoder import SAE
from saematch.storage.folders import local_path

_PATTERN = "layer_*.safetensors"


def file_of_layer(layer: int) -> str:
    """Return the name of the file of codes of a layer."""
    return f"layer_{layer}.safetensors"


class LayerCodes(ABC):
    """The codes of the SAE of every layer on the same tokens, made or read when they are asked for.

    An instance can be sent to another process.
    """

    @abstractmethod
    def codes(self, sae: SAE, layer: int, side: Side) -> Codes:
        """Return the codes of the SAE of a layer on one side of the pairs. Raises `MatchError` if there are none."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return what identifies the codes, as JSON: a run resumes only with an equal record."""


@dataclass(frozen=True)
class EncodedLayers(LayerCodes):
    """Codes that each SAE makes of the hidden states of its layer. Tokens with outliers are left out.

    Attributes:
        selection: the source of the hidden states, and the tokens that are used.
        device: where the SAEs run.
    """

    selection: TokenSelection
    device: str = "cpu"

    @classmethod
    def of(cls, source: ActivationSource, layers: Sequence[int]) -> EncodedLayers:
        """Select the tokens that are no outliers in any of the layers, in one pass over the hidden states."""
        return cls(TokenSelection.of(source, sorted(set(layers)), OUTLIERS, documents=1))

    @override
    def codes(self, sae: SAE, layer: int, side: Side) -> Codes:
        source = self.selection.source
        source.check(layer, sae)
        sae = sae.to(torch.device(self.device))
        encoder = Encoder(sae, f"codes of {sae.source} on {source}")
        kept = source.documents[self.selection.selected]
        # The same tokens are always encoded together, in whatever batches the source yields them.
        waiting: list[Tensor] = []
        done = held = 0
        for batch in self.selection.batches([layer], torch.device("cpu")):
            waiting.append(batch.layers[0])
            held += len(batch.layers[0])
            while held >= TOKENS_AT_ONCE:
                together = torch.cat(waiting)
                encoder.add(together[:TOKENS_AT_ONCE], kept[done : done + TOKENS_AT_ONCE])
                waiting, held, done = [together[TOKENS_AT_ONCE:]], held - TOKENS_AT_ONCE, done + TOKENS_AT_ONCE
        if held:
            encoder.add(torch.cat(waiting), kept[done:])
        return encoder.codes()

    @override
    def record(self) -> dict[str, Any]:
        source = self.selection.source
        size = self.selection.size
        return {"hidden_states": dict(source.record()), "tokens": size["tokens"], "left_out": size["left_out"]}


@dataclass(frozen=True)
class StoredLayers(LayerCodes):
    """Codes in files `layer_<number>.safetensors`, in a folder for each set of SAEs.

    Attributes:
        folders: the folder of the first set of SAEs, and that of the second; the same for one set.
    """

    folders: tuple[Path, Path]

    @override
    def codes(self, sae: SAE, layer: int, side: Side) -> Codes:
        codes = Codes.load(self.folders[side] / file_of_layer(layer))
        codes.check_features(sae)
        return codes

    @override
    def record(self) -> dict[str, Any]:
        files = [sorted(folder.glob(_PATTERN)) for folder in self.folders]
        stats = [[[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in side] for side in files]
        return {"codes": [str(folder.absolute()) for folder in self.folders], "files": stats}


def as_layer_codes(given: Any, layers: Sequence[int], two_sets: bool) -> LayerCodes:
    """Return the codes of the layers of a run.

    Args:
        given: a source of hidden states, such as `StoredActivations`; a folder of hidden states or of codes; or, for
            two sets of SAEs, a folder of codes for each set.
        layers: the layers of the run.
        two_sets: whether the run has two sets of SAEs.

    Raises:
        MatchError: if this is none of them.
    """
    if isinstance(given, LayerCodes):
        return given
    if hasattr(given, "batches") and hasattr(given, "documents"):
        return EncodedLayers.of(given, layers)
    if isinstance(given, list | tuple) and len(given) == 2:
        return StoredLayers((_folder_of_codes(given[0]), _folder_of_codes(given[1])))
    if not isinstance(given, str | os.PathLike):
        raise MatchError(
            f"activations are {type(given).__name__}; give a folder of hidden states (layer_<number>.npy) or of codes, "
            "or an object such as saematch.evaluation.StoredActivations"
        )
    folder = local_path(given)
    if any(folder.glob("layer_*.npy")):
        documents_known = (folder / "documents.npy").exists()  # which matching has no use for
        return EncodedLayers.of(StoredActivations(folder, None if documents_known else 1), layers)
    if two_sets:
        raise MatchError(f"{folder} has codes of one set of SAEs, and there are two: give two folders of codes")
    return StoredLayers((_folder_of_codes(folder),) * 2)


def from_record(record: dict[str, Any], layers: Sequence[int]) -> LayerCodes:
    """Return the codes that a record identifies, if they are on this machine and unchanged.

    Raises:
        MatchError: if they are not.
    """
    if "codes" in record:
        found: LayerCodes = StoredLayers((Path(record["codes"][0]), Path(record["codes"][1])))
    elif "folder" in record.get("hidden_states", {}):
        found = as_layer_codes(record["hidden_states"]["folder"], layers, two_sets=False)
    else:
        raise MatchError(
            "the activations of this run came from a language model or an object of the caller, so that its codes are "
            "not known; match the layers again with activations="
        )
    if found.record() != record:
        raise MatchError("the activations of this run have changed since it was made, so that its codes are not known")
    return found


def _folder_of_codes(given: Any) -> Path:
    folder = local_path(given)
    if not any(folder.glob(_PATTERN)):
        raise MatchError(
            f"{folder}: neither hidden states (layer_<number>.npy) nor codes (layer_<number>.safetensors) there"
        )
    return folder
