"""llamascopium: `sae_weights.safetensors` and `config.json`; `W_E (d, F)`, `W_D (F, d)`, `b_E`, `b_D`.

Weights are for activations of mean norm sqrt(d), and the file has the norms that the activations had, unless
`norm_activation` is "inference". With `sparsity_include_decoder_norm`, the gate sees codes times the norm of their
decoder row.
"""

from __future__ import annotations

import torch

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, in_float64
from saematch.sources.formats.llama_scope import NORMS, hook_points, stored_scales

_LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    # The architectures that have one encoder row and one decoder row for each feature.
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
    limits = (_LOG_THRESHOLD,) if function == "jumprelu" else ()
    norms = tuple(name for name in stored if name.startswith(NORMS))
    W_enc, W_dec, b_enc, *rest = take(checkpoint, stored, "W_E", "W_D", "b_E", *bias, *limits, optional=norms)
    b_dec = rest.pop(0) if bias else W_enc.new_zeros(len(W_enc))
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
    )
    return Entry(canonical(checkpoint, weights, site), site.reads, layer)


def _has(stored: Tensors) -> bool:
    return {"W_E", "W_D"} <= stored.keys()


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
