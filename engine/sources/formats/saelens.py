"""SAELens: a folder with `cfg.json` (nested since version 6, flat before) and `sae_weights.safetensors`.

`W_enc (d, F)`, `W_dec (F, d)`; with `apply_b_dec_to_input` the encoder sees x - b_dec. Training checkpoints of
BatchTopK and Matryoshka SAEs hold one `topk_threshold`, which is the JumpReLU threshold at inference; older ones of
JumpReLU SAEs hold its logarithm. Old SAEs whose codes were fine-tuned hold a factor for each code.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, refuse_unless_ones, take
from saematch.sources.formats.canonical import (
    ActivationScales,
    StoredWeights,
    canonical,
    gated_as_jumprelu,
    in_float64,
    per_feature,
)
from saematch.sources.formats.circuit_tracer import THRESHOLD
from saematch.sources.formats.others import ARCHITECTURES
from saematch.sources.formats.site import ELSEWHERE, Site

_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn", "hook_point_layer": "hook_layer"}
# The tensor that training checkpoints hold instead of the threshold, by architecture.
_LIMITS = {"jumprelu": "log_threshold", "batchtopk": "topk_threshold", "matryoshka_batchtopk": "topk_threshold"}


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    config = _in_current_names(config)
    # A transcoder is an SAE of some architecture that writes another place.
    architecture = _architecture(checkpoint, config)
    transcoder = "transcoder" in architecture
    architecture = re.sub(r"_?(skip_)?transcoder", "", architecture) or "standard"
    hook = str(config["hook_name"]) if "hook_name" in config else None
    site = Site(
        hook or ("hook_z" if config.get("reshape_activations") == "hook_z" else None),
        str(config.get("hook_name_out", ELSEWHERE)) if transcoder else None,
        config.get("model_name"),
    )
    scales = _scales(checkpoint, config)
    notes = ("its skip connection is left out",) if "W_skip" in stored else ()
    if architecture == "abstopk":
        checkpoint.refuse_unless_allowed("signed", "abstopk: it chooses the k largest in size and keeps their sign")
        notes, architecture = (*notes, "signed: read as if it were not"), "topk"
    # The weights, and the parametrisation that all architectures share.
    optional = (*_code_factors(stored), "W_skip") if transcoder else _code_factors(stored)
    weights = _weights(checkpoint, stored, config, architecture, optional)
    weights = replace(
        weights,
        W_dec=_with_code_factors(checkpoint, config, stored, weights.W_dec),
        subtracts_b_dec=bool(config.get("apply_b_dec_to_input", not transcoder)),
        scales=scales,
        norm_use="code" if config.get("rescale_acts_by_decoder_norm") else None,
        notes=(*weights.notes, *notes),
    )
    return Entry(canonical(checkpoint, weights, site), hook, _layer(config))


def _weights(
    checkpoint: Checkpoint, stored: Tensors, config: Config, architecture: str, optional: tuple[str, ...]
) -> StoredWeights:
    """Return the tensors of an SAE, with its activation. Raises `MatchError` if a tensor is missing."""
    if architecture == "gated":
        names = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
        W_enc, W_dec, b_dec, b_gate, b_mag, r_mag = take(checkpoint, stored, *names, optional=optional)
        return gated_as_jumprelu(W_enc, b_gate, b_mag, r_mag, W_dec, b_dec)
    # The threshold is stored as such, or as training checkpoints hold it.
    other = _LIMITS.get(architecture)
    limits = () if other is None else (other if other in stored and "threshold" not in stored else "threshold",)
    W_enc, W_dec, b_enc, b_dec, *limit = take(
        checkpoint, stored, "W_enc", "W_dec", "b_enc", "b_dec", *limits, optional=optional
    )
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec)
    if limit:
        threshold = in_float64(torch.exp, limit[0]) if limits == ("log_threshold",) else limit[0]
        return replace(weights, activation="jumprelu", threshold=per_feature(threshold, b_enc))
    if architecture == "topk":
        arguments = config.get("activation_fn_kwargs")
        k = checkpoint.k(config.get("k"), arguments.get("k") if isinstance(arguments, dict) else None)
        return replace(weights, activation="topk", k=k)
    return weights


def _in_current_names(config: Config) -> Config:
    """Return a configuration of any version, flat, and with the names of version 6."""
    metadata = config.get("metadata")
    whole = {**metadata, **config} if isinstance(metadata, dict) else dict(config)
    return {_OLD_NAMES.get(name, name): value for name, value in whole.items()}


def _layer(config: Config) -> int | None:
    """Return the layer that a configuration says, or that its hook names; None if neither does."""
    if type(config.get("hook_layer")) is int and 0 <= config["hook_layer"] < 10**4:
        return int(config["hook_layer"])
    match = re.search(r"\b(?:blocks|layers)\.(\d{1,4})\b", str(config.get("hook_name", "")))
    return int(match[1]) if match else None


def _architecture(checkpoint: Checkpoint, config: Config) -> str:
    """Return the architecture. Raises `MatchError` for one that is not supported."""
    architecture, function = str(config.get("architecture", "standard")), config.get("activation_fn", "relu")
    if architecture == "standard" and function == "topk":
        return "topk"
    known = re.fullmatch(
        r"(standard|jumprelu|topk|abstopk|gated|batchtopk|matryoshka_batchtopk|((jumprelu|topk)_)?"
        r"(skip_)?transcoder)",
        architecture,
    )
    if architecture in ARCHITECTURES:
        raise checkpoint.error(ARCHITECTURES[architecture])
    if known is None or (architecture == "standard" and function != "relu"):
        what = f"architecture {architecture!r}" if known is None else f"architecture 'standard' with {function!r}"
        raise checkpoint.error(
            f"{what} is not supported; supported are standard (ReLU), jumprelu, topk, abstopk, batchtopk, "
            "matryoshka_batchtopk and gated, and transcoders of the first three"
        )
    return architecture


def _scales(checkpoint: Checkpoint, config: Config) -> ActivationScales | None:
    """Return the scales of the activations that the weights are for; None for raw activations. Raises `MatchError`."""
    normalisation = config.get("normalize_activations")
    if isinstance(normalisation, bool):
        normalisation = "expected_average_only_in" if normalisation else None
    if normalisation in (None, "none"):
        return None
    if normalisation == "expected_average_only_in":
        scale = checkpoint.missing_scale(
            "normalize_activations is 'expected_average_only_in': its weights are for activations times a scale that "
            "its files do not say"
        )
        return None if scale is None else ActivationScales(scale, scale)
    if normalisation not in ("layer_norm", "constant_norm_rescale", "covariance_whitening"):
        raise checkpoint.error(f"normalize_activations is {normalisation!r}, which this format does not know")
    why = f"normalize_activations is {normalisation!r}: its input is not a linear map of the raw activations"
    checkpoint.refuse_unless_allowed(normalisation, why)
    return None


def _code_factors(stored: Tensors) -> tuple[str, ...]:
    """Return the name of the tensor with a factor for each code, if there is one.

    Published files and training checkpoints have different names for it.
    """
    return tuple(name for name in ("scaling_factor", "finetuning_scaling_factor") if name in stored)[:1]


def _with_code_factors(checkpoint: Checkpoint, config: Config, stored: Tensors, W_dec: Tensor) -> Tensor:
    """Multiply the decoder by the factors that old fine-tuned SAEs apply to the codes before decoding."""
    for name in _code_factors(stored):
        factors: Tensor = stored[name]
        if factors.shape != W_dec.shape[:1]:
            raise checkpoint.error(f"{name} has the shape {tuple(factors.shape)}, W_dec {tuple(W_dec.shape)}")
        if config.get("finetuning_scaling_factor"):
            return in_float64(lambda W, s: W * s[:, None], W_dec, factors)
        refuse_unless_ones(checkpoint, name, factors, "its configuration does not say that it is used")
    return W_dec


def _has(stored: Tensors) -> bool:
    return {"W_enc", "W_dec"} <= stored.keys() and THRESHOLD not in stored


SAELENS = Family(
    name="saelens",
    title="SAELens: sae_weights.safetensors, cfg.json",
    suffixes=(".safetensors",),
    weights=r"sae_weights\.safetensors",
    has=_has,
    entry=_entry,
    config=("cfg.json",),
    needs_config=True,
)
