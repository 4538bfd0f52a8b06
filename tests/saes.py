"""Small SAEs and the files that hold them, in the layouts that are read."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import save_file

import saematch as sm


def made_up(F=12, d=8, activation="jumprelu", seed=0, **changes):
    """An SAE of random weights in float64."""
    r = np.random.default_rng(seed)
    tensors = {
        "W_enc": r.standard_normal((d, F)),
        "b_enc": r.standard_normal(F),
        "W_dec": r.standard_normal((F, d)),
        "b_dec": r.standard_normal(d),
    }
    if activation == "jumprelu":
        tensors["threshold"] = np.exp(r.standard_normal(F))
    values = {name: torch.from_numpy(array) for name, array in tensors.items()}
    return sm.SAE(**{**values, "activation": activation, "k": 3 if activation == "topk" else None, **changes})


def write_npz(folder, sae, dtype=np.float32, name="params.npz", **changes):
    """Gemma Scope's layout; `changes` replace arrays, or drop them where None."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: tensor.numpy().astype(dtype) for key, tensor in sae.tensors().items()}
    arrays.update(changes)
    np.savez(folder / name, **{key: array for key, array in arrays.items() if array is not None})
    return folder


def write_saelens(folder, sae, config, dtype=torch.float32, **extra):
    """SAELens' layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype).contiguous() for key, tensor in sae.tensors().items()}
    save_file({**tensors, **extra}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def write_model(folder, layers=(3, 4, 5, 11), F=12, d=8):
    """Flat folders of Gemma Scope files, one a layer."""
    for layer in layers:
        write_npz(folder / f"layer_{layer:02d}", made_up(F, d, seed=layer))
    return folder
