"""Writing SAEs in the formats of other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saematch.errors import MatchError, refusals
from saematch.options import SaeFormat, names
from saematch.storage.folders import replacing
from saematch.storage.jsonfile import as_json

if TYPE_CHECKING:
    from saematch.sae.autoencoder import SAE

_WEIGHTS: dict[SaeFormat, str] = {"saelens": "sae_weights.safetensors", "gemma_scope": "params.npz"}

_SAELENS_VERSION = "6.0.0"  # the first with this layout


def save_sae(sae: SAE, folder: Path, format: SaeFormat, hook: str | None, overwrite: bool) -> None:
    """Write an SAE into a folder, which is made if need be.

    Args:
        sae: an SAE with values.
        folder: the folder.
        format: the format of one of the tools in `SaeFormat`.
        hook: the place in the model that the SAE reads, for a configuration.
        overwrite: whether to replace files that exist.

    Raises:
        MatchError: if the format is not known or cannot hold the SAE, or the folder cannot be written.
    """
    # The format, the files that would be replaced, and the hook.
    if format not in names(SaeFormat):
        raise MatchError(f"format {format!r} is not known; known are {', '.join(names(SaeFormat))}")
    if format == "gemma_scope" and sae.activation == "topk":
        raise MatchError('the format of Gemma Scope has no TopK; choose format="saelens"')
    weights, config = folder / _WEIGHTS[format], folder / "cfg.json"
    files = (weights, config) if format == "saelens" else (weights,)
    existing = [path for path in files if os.path.exists(path)]
    if existing and not overwrite:
        raise MatchError(f"{existing[0]}: is there already; choose another folder, or overwrite it (overwrite=True)")
    if sae.is_transcoder and (format == "gemma_scope" or sae.activation == "topk"):
        holder = "the format of Gemma Scope" if format == "gemma_scope" else "SAELens"
        kind = "transcoders" if format == "gemma_scope" else "TopK transcoders"
        raise MatchError(f"{sae.source}: a transcoder, and {holder} has no {kind}")
    if not isinstance(hook, str | None):
        raise MatchError(f"hook is {hook!r:.40}; give the name of a place in the model")
    # The folder, and the files in it.
    tensors = _separate(sae)
    with refusals("cannot be made", folder, OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
    if format == "gemma_scope":
        _write_gemma_scope(tensors, weights)
    else:
        _write_saelens(sae, tensors, weights, config, hook)


def _separate(sae: SAE) -> dict[str, Tensor]:
    """Return the tensors of an SAE on the CPU, none of which shares memory with another."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.tensors().items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) < len(tensors):
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return tensors


def _write_gemma_scope(tensors: dict[str, Tensor], weights: Path) -> None:
    """Write `params.npz`. Gemma Scope has JumpReLU only: a ReLU is a JumpReLU with a threshold of 0."""
    tensors.setdefault("threshold", torch.zeros_like(tensors["b_enc"]))
    arrays = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for name, tensor in tensors.items()
    }
    with replacing(weights) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_saelens(sae: SAE, tensors: dict[str, Tensor], weights: Path, config: Path, hook: str | None) -> None:
    """Write `sae_weights.safetensors` and `cfg.json`.

    Both files are written whole before either takes its place, so that a configuration never lies next to the weights
    of another SAE.
    """
    with replacing(weights) as aside, replacing(config) as other:
        other.write_bytes(as_json(_saelens_config(sae, hook)))
        with refusals("cannot be written", weights, SafetensorError):
            save_file(tensors, aside)


def _saelens_config(sae: SAE, hook: str | None) -> dict[str, Any]:
    """Return the configuration of an SAE as SAELens 6 writes it."""
    architecture: str = "standard" if sae.activation == "relu" else sae.activation
    hooks = {"hook_name": hook or sae.reads.place}
    if sae.is_transcoder:
        architecture = "transcoder" if sae.activation == "relu" else f"{sae.activation}_transcoder"
        hooks["hook_name_out"] = sae.writes.place
    return {
        "architecture": architecture,
        "d_in": sae.d,
        "d_sae": sae.F,
        **({"d_out": sae.d} if sae.is_transcoder else {}),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.activation == "topk" else {}),
        # Without a version, SAELens takes this for an older configuration, and forgets the hooks.
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            **{name: place for name, place in hooks.items() if place is not None},
        },
    }
