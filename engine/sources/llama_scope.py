"""Llama Scope: `checkpoints/final.safetensors` with `hyperparams.json` above it; and Llama Scope R1.

Weights are for activations of mean norm sqrt(d), the one threshold of the older files for raw ones. `encoder.weight
(F, d)`, `decoder.weight (d, F)` are turned.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, take

WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    W_enc, b_enc, W_dec, b_dec = take(at, found, *WEIGHTS)
    scales = _scales(at, config, {})
    threshold = config.get("jump_relu_threshold")
    if config.get("act_fn", "jumprelu") != "jumprelu" or not isinstance(threshold, int | float):
        raise MatchError(f"{at.shown}: hyperparams.json has no jump_relu_threshold; Llama Scope has JumpReLU SAEs only")
    limit = torch.full_like(b_enc, 1, dtype=torch.float64) * (threshold * scales[0])
    return _made(at, config, W_enc, b_enc, W_dec, b_dec, limit, scales)


def _entry_r1(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    norms = tuple(name for name in found if name.startswith(NORMS))
    W_enc, b_enc, W_dec, b_dec, logarithm = take(at, found, *WEIGHTS, "log_jumprelu_threshold", optional=norms)
    return _made(at, config, W_enc, b_enc, W_dec, b_dec, logarithm.double().exp(), _scales(at, config, found))


NORMS = "dataset_average_activation_norm."


def _made(
    at: Checkpoint, config: Config, W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any, threshold: Any, scales: Any
) -> Entry:
    hook, writes = config.get("hook_point_in"), config.get("hook_point_out")
    layer = re.search(r"\bblocks\.(\d+)\.", str(hook))
    sae = canonical(
        at, W_enc=W_enc.T, b_enc=b_enc, W_dec=W_dec.T, b_dec=b_dec, activation="jumprelu", threshold=threshold,
        subtracts=bool(config.get("apply_decoder_bias_to_pre_encoder")), scales=scales,
        norm="gate" if config.get("sparsity_include_decoder_norm") else "", hook=hook, writes=writes,
    )  # fmt: skip
    return Entry(sae, hook, int(layer[1]) if layer else None)


def _scales(at: Checkpoint, config: Config, found: Tensors) -> Any:
    """(c_in, c_out), c = sqrt(d) / mean norm, from the configuration, the file, or the address; ones if unknown."""
    asked = at.scale()
    if asked is not None:
        return asked, asked
    d, norms = config.get("d_model"), config.get("dataset_average_activation_norm")
    if isinstance(norms, dict) and isinstance(d, int) and {"in", "out"} <= set(norms):
        return math.sqrt(d) / float(norms["in"]), math.sqrt(d) / float(norms["out"])
    points = [f"{NORMS}{config.get(point)}" for point in ("hook_point_in", "hook_point_out")]
    if isinstance(d, int) and set(points) <= set(found):
        return tuple(math.sqrt(d) / found[point].double() for point in points)
    if config.get("norm_activation") == "inference":
        return 1.0, 1.0
    known = at.missing_scale("its weights are for normalised activations, and its files do not say their norm") or 1.0
    return known, known


def _has(names: set[str]) -> bool:
    return {"encoder.weight", "decoder.weight"} <= names and "log_jumprelu_threshold" not in names


def _has_r1(names: set[str]) -> bool:
    return {"encoder.weight", "decoder.weight", "log_jumprelu_threshold"} <= names


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
