"""llamascopium: `sae_weights.safetensors` and `config.json`; `W_E (d, F)`, `W_D (F, d)`, `b_E`, `b_D`.

Weights are for activations of mean norm sqrt(d), and the file has the norms that the activations had, unless
`norm_activation` is "inference". With `sparsity_include_decoder_norm`, the gate sees codes times the norm of their
decoder row.

A crosscoder has a dimension for its heads before all others: `W_E (H, d, F)`, `W_D (H, F, d)`, `b_E (H, F)` and
`b_D (H, d)`. It adds up what all heads encode, with their biases, and each head has a gate of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Index, Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, in_float64
from saematch.sources.formats.crosscoder import head_of, note_on_head
from saematch.sources.formats.llama_scope import NORMS, hook_points, stored_scales

LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"


def _heads(stored: Tensors) -> int | None:
    """Return the number of heads of a crosscoder; None for a file of another kind."""
    shapes = [getattr(stored.get(name), "ndim", None) for name in ("W_E", "W_D", "b_E", "b_D")]
    return len(stored["W_E"]) if shapes == [3, 3, 2, 2] else None


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source] | None:
    heads = _heads(stored)
    if heads is None:
        return None
    if any(len(stored[name]) != heads for name in ("W_D", "b_E", "b_D")):
        raise checkpoint.error("its tensors have different numbers of heads")
    of_head: Index = (head_of(checkpoint, heads),)
    at = {"W_E": of_head, "W_D": of_head, "b_D": of_head}
    return {name: Source(Piece(name, at.get(name, ())), checkpoint.name) for name in stored}


def _of_head(config: Config, head: int) -> Config:
    """Return the configuration of one head of a crosscoder, as if it was one of an SAE."""
    hook = config["hook_points"][head]
    return {**config, "sae_type": "sae", "hook_point_in": hook, "hook_point_out": hook}


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    # The architectures that have one encoder row and one decoder row for each feature.
    heads = _heads(checkpoint.headers)
    if heads is not None and config.get("sae_type") == "crosscoder":
        config = _of_head(config, head_of(checkpoint, heads))
    kind, function = config.get("sae_type", "sae"), config.get("act_fn", "relu")
    if kind != "sae" or config.get("use_glu_encoder"):
        what = "an encoder with a GLU" if kind == "sae" else f"a {kind}"
        raise checkpoint.error(
            f"{what} does not have one encoder row and one decoder row for each feature; sae is supported"
        )
    if function not in ("relu", "jumprelu", "topk"):
        raise checkpoint.error(f"act_fn {function!r} is not supported; supported are relu, jumprelu and topk")
    # The tensors: b_D and a threshold only if the configuration says so.
    bias = ("b_D",) if config.get("use_decoder_bias", True) else ()
    limits = (LOG_THRESHOLD,) if function == "jumprelu" else ()
    norms = tuple(name for name in stored if name.startswith(NORMS))
    W_enc, W_dec, b_enc, *rest = take(checkpoint, stored, "W_E", "W_D", "b_E", *bias, *limits, optional=norms)
    b_dec = rest.pop(0) if bias else W_enc.new_zeros(len(W_enc))
    if heads is not None:
        b_enc = in_float64(lambda _, each: each.sum(dim=0), b_enc.new_empty(b_enc.shape[1:]), b_enc)
    site, layer = hook_points(config)
    weights = StoredWeights(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        activation=function,
        threshold=in_float64(torch.exp, rest[0]) if rest else None,
        k=checkpoint.k(config.get("top_k")) if function == "topk" else None,
        scales=stored_scales(checkpoint, config, stored, b_dec),
        norm_use="gate" if config.get("sparsity_include_decoder_norm", True) else None,
        notes=() if heads is None else (note_on_head(checkpoint, heads),),
    )
    return Entry(canonical(checkpoint, weights, site), site.reads, layer)


def _has(stored: Tensors) -> bool:
    return {"W_E", "W_D"} <= stored.keys()


LLAMASCOPIUM = Family(
    name="llamascopium",
    title="llamascopium: sae_weights.safetensors, config.json",
    suffixes=(".safetensors", ".pt"),
    weights=r"sae_weights\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
    needs_config=True,
    sources=_sources,
    option="head",
)
