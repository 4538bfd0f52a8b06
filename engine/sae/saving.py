"""SAEs in the formats of other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saematch.errors import MatchError, refusals
from saematch.storage.folders import replacing
from saematch.storage.jsonfile import as_json

WEIGHTS = {"saelens": "sae_weights.safetensors", "gemma_scope": "params.npz"}


def save(
    folder: Path,
    format: str,
    tensors: Mapping[str, Tensor],
    activation: str,
    k: int | None,
    hook: str | None,
    overwrite: bool,
) -> None:
    """Write an SAE in one of the formats of `WEIGHTS` into a folder, which is made. Raises `MatchError`."""
    if format not in WEIGHTS:
        raise MatchError(f"format {format!r} is not known; known are {', '.join(WEIGHTS)}")
    if format == "gemma_scope" and activation == "topk":
        raise MatchError('the format of Gemma Scope has no TopK; choose format="saelens"')
    weights, config = folder / WEIGHTS[format], folder / "cfg.json"
    taken = [path for path in (weights, config) if os.path.exists(path) and (path == weights or format == "saelens")]
    if taken and not overwrite:
        raise MatchError(f"{taken[0]}: is there already; choose another folder, or overwrite it (overwrite=True)")
    if not isinstance(hook, str | None):
        raise MatchError(f"hook is {hook!r:.40}; give the name of a place in the model")
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in here.values()}) < len(here):  # they share memory
        here = {name: tensor.clone() for name, tensor in here.items()}
    with refusals("cannot be made", folder, OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
    if format == "saelens":
        # Both are whole before either takes its place: a configuration never stands beside weights of another SAE.
        with replacing(weights) as aside, replacing(config) as other:
            other.write_bytes(as_json(_saelens_config(here, activation, k, hook)))
            with refusals("cannot be written", weights, SafetensorError):
                save_file(here, aside)
        return
    here.setdefault("threshold", torch.zeros_like(here["b_enc"]))  # of a ReLU
    arrays = {name: (each.float() if each.dtype == torch.bfloat16 else each).numpy() for name, each in here.items()}
    with replacing(weights) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _saelens_config(tensors: Mapping[str, Tensor], activation: str, k: int | None, hook: str | None) -> dict[str, Any]:
    """As SAELens 6 writes it."""
    F, d = tensors["W_dec"].shape
    return {
        "architecture": "standard" if activation == "relu" else activation,
        "d_in": d,
        "d_sae": F,
        "dtype": str(tensors["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"k": k, "rescale_acts_by_decoder_norm": False} if activation == "topk" else {}),
        "metadata": {} if hook is None else {"hook_name": hook},
    }
