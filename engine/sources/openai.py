"""OpenAI's GPT-2 SAEs: `{layer}.pt`, one dictionary with weights and activation; the encoder sees x - pre_bias.

`encoder.weight (F, d)`, `decoder.weight (d, F)` are turned. The TopK ones (v5) see each token's layer norm.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, take, turned


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    names = ("encoder.weight", "decoder.weight", "latent_bias", "pre_bias")
    W_enc, W_dec, b_enc, b_dec = take(at, found, *names, optional=("stats_last_nonzero",))
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
        at, W_enc=turned(W_enc), b_enc=b_enc, W_dec=turned(W_dec), b_dec=b_dec,
        activation="relu" if k is None else "topk", k=k, subtracts=True, notes=notes,
    )  # fmt: skip
    stem = PurePosixPath(at.name).stem
    return Entry(sae, layer=int(stem) if stem.isdigit() else None)


def _has(names: set[str]) -> bool:
    return {"pre_bias", "latent_bias"} <= names


OPENAI = Family(
    name="openai",
    title="OpenAI's GPT-2 SAEs: {layer}.pt",
    suffixes=(".pt", ".pth"),
    weights=r"\d+\.pt",
    has=_has,
    entry=_entry,
)
