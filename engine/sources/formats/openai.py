"""OpenAI's GPT-2 SAEs: `{layer}.pt`, one dictionary with weights and activation; the encoder sees x - pre_bias.

`encoder.weight (F, d)`, `decoder.weight (d, F)` are transposed; a tied decoder is stored as the encoder is. The TopK
ones (v5) see each token's layer norm. Three statistics of training are in the file too.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, take, turned

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_TIED = "decoder.linear.weight"  # (F, d): the module that turns the encoder into the decoder holds the encoder itself


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    decoder = _TIED if _TIED in found else "decoder.weight"
    W_enc, W_dec, b_enc, b_dec = take(
        at, found, "encoder.weight", decoder, "latent_bias", "pre_bias", optional=_STATISTICS
    )
    W_dec = W_dec if decoder == _TIED else turned(W_dec)
    activation, k = found.get("activation", "ReLU"), None
    notes: tuple[str, ...] = ()
    if activation == "TopK":
        at.refuse_unless_allowed("layer_norm", "it sees each token's layer norm: no linear map of the raw activations")
        notes = ("it sees the layer norm of a token: only directions can be compared",)
        state = found.get("activation_state_dict")
        state = state if isinstance(state, dict) else {}
        if state.get("postact_fn", "ReLU") != "ReLU":
            raise MatchError(f"{at.shown}: TopK with {state['postact_fn']!r} is not supported; supported is ReLU")
        k = at.k(state.get("k"))
    elif activation != "ReLU":
        raise MatchError(f"{at.shown}: activation {activation!r} is not supported; supported are ReLU and TopK")
    sae = canonical(
        at,
        W_enc=turned(W_enc),
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation="relu" if k is None else "topk",
        k=k,
        subtracts=True,
        notes=notes,
    )
    stem = PurePosixPath(at.name).stem
    return Entry(sae, layer=int(stem) if stem.isdigit() else None)


def _has(found: Tensors) -> bool:
    return {"pre_bias", "latent_bias"} <= found.keys()


OPENAI = Family(
    name="openai",
    title="OpenAI's GPT-2 SAEs: {layer}.pt",
    suffixes=(".pt", ".pth"),
    weights=r"\d+\.pt",
    has=_has,
    entry=_entry,
)
