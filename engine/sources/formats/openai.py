"""OpenAI's GPT-2 SAEs: `{layer}.pt`, one dictionary with weights and activation; the encoder sees x - pre_bias.

`encoder.weight (F, d)` and `decoder.weight (d, F)` are transposed; a tied decoder is stored as the encoder is. The TopK
SAEs (v5) see each token's layer norm. The file holds three statistics of training too.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_TIED = "decoder.linear.weight"  # (F, d): the encoder itself, held by the module that transposes it


def _entry(checkpoint: Checkpoint, stored: Tensors, _: Config) -> Entry:
    decoder = _TIED if _TIED in stored else "decoder.weight"
    W_enc, W_dec, b_enc, b_dec = take(
        checkpoint, stored, "encoder.weight", decoder, "latent_bias", "pre_bias", optional=_STATISTICS
    )
    weights = StoredWeights(
        transposed(W_enc),
        b_enc,
        W_dec if decoder == _TIED else transposed(W_dec),
        b_dec,
        subtracts_b_dec=True,
        **_activation(checkpoint, stored),
    )
    stem = PurePosixPath(checkpoint.name).stem
    return Entry(canonical(checkpoint, weights), layer=int(stem) if stem.isdigit() else None)


def _activation(checkpoint: Checkpoint, stored: Tensors) -> dict[str, Any]:
    """Return the activation of the SAE, and what belongs to it, as arguments of `StoredWeights`."""
    activation = stored.get("activation", "ReLU")
    if activation == "ReLU":
        return {"activation": "relu"}
    if activation != "TopK":
        raise checkpoint.error(f"activation {activation!r} is not supported; supported are ReLU and TopK")
    why = "it sees each token's layer norm, which is not a linear map of the raw activations"
    checkpoint.refuse_unless_allowed("layer_norm", why)
    state = stored.get("activation_state_dict")
    state = state if isinstance(state, dict) else {}
    if state.get("postact_fn", "ReLU") != "ReLU":
        raise checkpoint.error(f"TopK with {state['postact_fn']!r} is not supported; supported is ReLU")
    notes = ("it sees the layer norm of a token: only directions can be compared",)
    return {"activation": "topk", "k": checkpoint.k(state.get("k")), "notes": notes}


def _has(stored: Tensors) -> bool:
    return {"pre_bias", "latent_bias"} <= stored.keys()


OPENAI = Family(
    name="openai",
    title="OpenAI's GPT-2 SAEs: {layer}.pt",
    suffixes=(".pt", ".pth"),
    weights=r"\d+\.pt",
    has=_has,
    entry=_entry,
)
