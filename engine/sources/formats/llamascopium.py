"""llamascopium: `sae_weights.safetensors` and `config.json`; `W_E (d, F)`, `W_D (F, d)`, `b_E`, `b_D`.

Weights are for activations of mean norm sqrt(d), whose norms are in the file, unless `norm_activation` is "inference".
With `sparsity_include_decoder_norm` the gate sees codes times the norm of their decoder row.
"""

from __future__ import annotations

import torch

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, computed, take
from saematch.sources.formats.llama_scope import NORMS, points, scales

_LIMIT = "activation_function.log_jumprelu_threshold"


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    kind, function = config.get("sae_type", "sae"), config.get("act_fn", "relu")
    if kind != "sae" or config.get("use_glu_encoder"):
        what = "an encoder with a GLU" if kind == "sae" else f"a {kind}"
        raise MatchError(f"{at.shown}: {what} has no one encoder and decoder row for each feature; sae is supported")
    if function not in ("relu", "jumprelu", "topk"):
        raise MatchError(f"{at.shown}: act_fn {function!r} is not supported; supported are relu, jumprelu and topk")
    bias = ("b_D",) if config.get("use_decoder_bias", True) else ()
    limits = (_LIMIT,) if function == "jumprelu" else ()
    norms = tuple(name for name in found if name.startswith(NORMS))
    W_enc, W_dec, b_enc, *rest = take(at, found, "W_E", "W_D", "b_E", *bias, *limits, optional=norms)
    b_dec = rest.pop(0) if bias else W_enc.new_zeros(len(W_enc))
    hook, writes, layer = points(config)
    sae = canonical(
        at,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation=function,
        threshold=computed(torch.exp, rest[0]) if rest else None,
        k=at.k(config.get("top_k")) if function == "topk" else None,
        scales=scales(at, config, found, b_dec),
        hook=hook,
        writes=writes,
        norm="gate" if config.get("sparsity_include_decoder_norm", True) else "",
    )
    return Entry(sae, hook, layer)


def _has(found: Tensors) -> bool:
    return {"W_E", "W_D"} <= found.keys()


LLAMASCOPIUM = Family(
    name="llamascopium",
    title="llamascopium: sae_weights.safetensors, config.json",
    suffixes=(".safetensors",),
    weights=r"sae_weights\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
    needs_config=True,
)
