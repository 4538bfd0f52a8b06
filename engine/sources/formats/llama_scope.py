"""Llama Scope: `checkpoints/final.safetensors` with `hyperparams.json` above it; and Llama Scope R1.

Weights are for activations of mean norm sqrt(d); the one threshold of the older files is for raw activations.
`encoder.weight (F, d)` and `decoder.weight (d, F)` are transposed.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import (
    ActivationScales,
    StoredWeights,
    canonical,
    in_float64,
    norm_scale,
    transposed,
)
from saematch.sources.formats.site import Site

WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
NORMS = "dataset_average_activation_norm."


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    W_enc, b_enc, W_dec, b_dec = take(checkpoint, stored, *WEIGHTS)
    scales = stored_scales(checkpoint, config, {}, b_dec)
    raw = config.get("jump_relu_threshold")
    if config.get("act_fn", "jumprelu") != "jumprelu" or not isinstance(raw, int | float):
        raise checkpoint.error("hyperparams.json has no jump_relu_threshold; Llama Scope has JumpReLU SAEs only")
    # The threshold is for raw activations, and becomes one for activations times c_in, as the weights are.
    c_in = 1.0 if scales is None else scales.input
    threshold = in_float64(lambda b: torch.full_like(b, 1) * (float(raw) * c_in), b_enc)
    return _converted(checkpoint, config, (W_enc, b_enc, W_dec, b_dec, threshold), scales)


def _entry_r1(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    norms = tuple(name for name in stored if name.startswith(NORMS))
    W_enc, b_enc, W_dec, b_dec, logarithm = take(checkpoint, stored, *WEIGHTS, "log_jumprelu_threshold", optional=norms)
    threshold = in_float64(torch.exp, logarithm)
    scales = stored_scales(checkpoint, config, stored, b_dec)
    return _converted(checkpoint, config, (W_enc, b_enc, W_dec, b_dec, threshold), scales)


def _converted(
    checkpoint: Checkpoint,
    config: Config,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    scales: ActivationScales | None,
) -> Entry:
    W_enc, b_enc, W_dec, b_dec, threshold = tensors
    site, layer = hook_points(config)
    weights = StoredWeights(
        transposed(W_enc),
        b_enc,
        transposed(W_dec),
        b_dec,
        "jumprelu",
        threshold,
        subtracts_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder")),
        scales=scales,
        norm_use="gate" if config.get("sparsity_include_decoder_norm") else None,
    )
    return Entry(canonical(checkpoint, weights, site), site.reads, layer)


def hook_points(config: Config) -> tuple[Site, int | None]:
    """Return the places that an SAE reads and writes, and the layer that it reads."""
    site = Site(config.get("hook_point_in"), config.get("hook_point_out"))
    layer = re.search(r"\bblocks\.(\d{1,4})\.", str(site.reads))
    return site, int(layer[1]) if layer else None


def stored_scales(checkpoint: Checkpoint, config: Config, stored: Tensors, b_dec: Tensor) -> ActivationScales | None:
    """Return the scales of the activations that the weights are for; None for raw activations.

    They are those of the address, of the configuration, of the tensors `stored`, or of a registry.

    Raises:
        MatchError: if a scale is not a positive number, or no scale is known.
    """
    given, normalisation = checkpoint.scale(), config.get("norm_activation", "dataset-wise")
    if given is not None:
        return ActivationScales(given, given)
    # Only a normalisation by a constant is linear.
    if normalisation == "inference":
        return None
    if normalisation in ("token-wise", "batch-wise"):
        why = f"norm_activation is {normalisation!r}: its input is not a linear map of the raw activations"
        checkpoint.refuse_unless_allowed(normalisation, why)
        return None
    if normalisation != "dataset-wise":
        raise checkpoint.error(f"norm_activation is {str(normalisation)[:30]!r}, which this format does not know")
    # The norms that the activations had are in the configuration or next to the weights.
    norms, (site, _) = config.get("dataset_average_activation_norm"), hook_points(config)
    names = [f"{NORMS}{hook}" for hook in (site.reads, site.writes or site.reads)]
    if isinstance(norms, dict) and {"in", "out"} <= set(norms):
        return ActivationScales(*(norm_scale(checkpoint, config, norms[side], b_dec) for side in ("in", "out")))
    if set(names) <= set(stored):
        return ActivationScales(*(norm_scale(checkpoint, config, stored[name], b_dec) for name in names))
    scale = checkpoint.missing_scale("its weights are for normalised activations, and its files do not say their norm")
    return None if scale is None else ActivationScales(scale, scale)


def _has(stored: Tensors) -> bool:
    of_others = {"log_jumprelu_threshold", "pre_bias"}
    return {"encoder.weight", "decoder.weight"} <= stored.keys() and of_others.isdisjoint(stored)


def _has_r1(stored: Tensors) -> bool:
    return {"encoder.weight", "decoder.weight", "log_jumprelu_threshold"} <= stored.keys()


LLAMA_SCOPE = Family(
    name="llama_scope",
    title="Llama Scope: checkpoints/final.safetensors, hyperparams.json",
    suffixes=(".safetensors",),
    weights=r"final\.safetensors",
    has=_has,
    entry=_entry,
    config=("../hyperparams.json", "hyperparams.json"),
    needs_config=True,
    remedy="if it is not of Llama Scope but two linear layers with a ReLU between them, write "
    "?family=dictionary_learning after its path; ",
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
