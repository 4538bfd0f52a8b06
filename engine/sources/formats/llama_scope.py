"""Llama Scope: `checkpoints/final.safetensors` with `hyperparams.json` above it; and Llama Scope R1.

Weights are for activations of mean norm sqrt(d), the one threshold of the older files for raw ones. `encoder.weight
(F, d)`, `decoder.weight (d, F)` are turned.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, computed, norm_scale, take, turned

WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    W_enc, b_enc, W_dec, b_dec = take(at, found, *WEIGHTS)
    found_scales = scales(at, config, {}, b_dec)
    threshold = config.get("jump_relu_threshold")
    if config.get("act_fn", "jumprelu") != "jumprelu" or not isinstance(threshold, int | float):
        raise MatchError(f"{at.shown}: hyperparams.json has no jump_relu_threshold; Llama Scope has JumpReLU SAEs only")
    c_in = 1.0 if found_scales is None else found_scales[0]
    limit = computed(lambda b: torch.full_like(b, 1) * (float(threshold) * c_in), b_enc)
    return _made(at, config, W_enc, b_enc, W_dec, b_dec, limit, found_scales)


def _entry_r1(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    norms = tuple(name for name in found if name.startswith(NORMS))
    W_enc, b_enc, W_dec, b_dec, logarithm = take(at, found, *WEIGHTS, "log_jumprelu_threshold", optional=norms)
    return _made(
        at, config, W_enc, b_enc, W_dec, b_dec, computed(torch.exp, logarithm), scales(at, config, found, b_dec)
    )


NORMS = "dataset_average_activation_norm."


def _made(
    at: Checkpoint, config: Config, W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any, threshold: Any, found_scales: Any
) -> Entry:
    hook, writes, layer = points(config)
    sae = canonical(
        at,
        W_enc=turned(W_enc),
        b_enc=b_enc,
        W_dec=turned(W_dec),
        b_dec=b_dec,
        activation="jumprelu",
        threshold=threshold,
        subtracts=bool(config.get("apply_decoder_bias_to_pre_encoder")),
        scales=found_scales,
        norm="gate" if config.get("sparsity_include_decoder_norm") else "",
        hook=hook,
        writes=writes,
    )
    return Entry(sae, hook, layer)


def points(config: Config) -> tuple[Any, Any, int | None]:
    """What it reads, what it writes, and the layer that it reads."""
    hook, writes = config.get("hook_point_in"), config.get("hook_point_out")
    layer = re.search(r"\bblocks\.(\d{1,4})\.", str(hook))
    return hook, writes, int(layer[1]) if layer else None


def scales(at: Checkpoint, config: Config, found: Tensors, b_dec: Tensor) -> Any:
    """(c_in, c_out) from the configuration, the file, a registry or the address; None where weights are for raw ones.

    Raises `MatchError` for what is no scale, or is not known.
    """
    asked, way = at.scale(), config.get("norm_activation", "dataset-wise")
    if asked is not None:
        return asked, asked
    if way == "inference":
        return None
    if way in ("token-wise", "batch-wise"):
        at.refuse_unless_allowed(way, f"norm_activation is {way!r}: its input is no linear map of the raw activations")
        return None
    if way != "dataset-wise":
        raise MatchError(f"{at.shown}: norm_activation is {str(way)[:30]!r}, which this format does not know")
    norms, (hook, writes, _) = config.get("dataset_average_activation_norm"), points(config)
    named = [f"{NORMS}{point}" for point in (hook, writes or hook)]
    if isinstance(norms, dict) and {"in", "out"} <= set(norms):
        return tuple(norm_scale(at, config, norms[side], b_dec) for side in ("in", "out"))
    if set(named) <= set(found):
        return tuple(norm_scale(at, config, found[name], b_dec) for name in named)
    known = at.missing_scale("its weights are for normalised activations, and its files do not say their norm")
    return None if known is None else (known, known)


def _has(found: Tensors) -> bool:
    return {"encoder.weight", "decoder.weight"} <= found.keys() and "log_jumprelu_threshold" not in found


def _has_r1(found: Tensors) -> bool:
    return {"encoder.weight", "decoder.weight", "log_jumprelu_threshold"} <= found.keys()


LLAMA_SCOPE = Family(
    name="llama_scope",
    title="Llama Scope: checkpoints/final.safetensors, hyperparams.json",
    suffixes=(".safetensors",),
    weights=r"final\.safetensors",
    has=_has,
    entry=_entry,
    config=("../hyperparams.json", "hyperparams.json"),
    needs_config=True,
)
LLAMA_SCOPE_R1 = Family(
    name="llama_scope_r1",
    title="Llama Scope R1: sae_weights.safetensors, config.json",
    suffixes=(".safetensors",),
    weights=r"sae_weights\.safetensors",
    has=_has_r1,
    entry=_entry_r1,
    config=("config.json",),
    needs_config=True,
)
