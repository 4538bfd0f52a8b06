"""SAELens: a folder with `cfg.json` (nested since version 6, flat before) and `sae_weights.safetensors`.

`W_enc (d, F)`, `W_dec (F, d)`; with `apply_b_dec_to_input` the encoder sees x - b_dec. Training checkpoints of
BatchTopK and Matryoshka SAEs hold one `topk_threshold`, which is the JumpReLU threshold at inference; older ones of
JumpReLU SAEs hold its logarithm. Old SAEs whose codes were fine-tuned hold a factor for each code.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import (
    Config,
    Entry,
    Family,
    Tensors,
    canonical,
    computed,
    everywhere,
    gated_as_jumprelu,
    refuse_unless_ones,
    take,
)

_OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn", "hook_point_layer": "hook_layer"}
# What checkpoints of training hold in place of the threshold.
_LIMITS = {"jumprelu": "log_threshold", "batchtopk": "topk_threshold", "matryoshka_batchtopk": "topk_threshold"}


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    config = _current(config)
    hook = str(config["hook_name"]) if "hook_name" in config else None
    architecture = _architecture(at, config)
    transcoder = "transcoder" in architecture
    architecture = re.sub(r"_?(skip_)?transcoder", "", architecture) or "standard"
    writes = str(config.get("hook_name_out", "another place")) if transcoder else None
    common: dict[str, Any] = {
        "subtracts": bool(config.get("apply_b_dec_to_input", not transcoder)),
        "scales": _scales(at, config),
        "norm": "code" if config.get("rescale_acts_by_decoder_norm") else "",
        "hook": hook,
        "writes": writes,
        "model": config.get("model_name"),
    }
    if architecture == "abstopk":
        at.refuse_unless_allowed("signed", "abstopk: it chooses the k largest in size and keeps their sign")
        common["notes"], architecture = ("signed: read as if it were not",), "topk"
    if config.get("reshape_activations") == "hook_z":
        common["hook"] = hook or "hook_z"
    optional = (*_factors(found), "W_skip") if transcoder else _factors(found)
    if architecture == "gated":
        names = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
        W_enc, W_dec, b_dec, b_gate, b_mag, r_mag = take(at, found, *names, optional=optional)
        common |= gated_as_jumprelu(W_enc, b_gate, b_mag, r_mag)
    else:
        other = _LIMITS.get(architecture)
        limits = () if other is None else (other if other in found and "threshold" not in found else "threshold",)
        W_enc, W_dec, b_enc, b_dec, *threshold = take(
            at, found, "W_enc", "W_dec", "b_enc", "b_dec", *limits, optional=optional
        )
        common |= {"W_enc": W_enc, "b_enc": b_enc, "activation": "jumprelu" if threshold else "relu"}
        if threshold:
            limit = computed(torch.exp, threshold[0]) if limits == ("log_threshold",) else threshold[0]
            common["threshold"] = everywhere(limit, b_enc)
        elif architecture == "topk":
            arguments = config.get("activation_fn_kwargs")
            k = at.k(config.get("k"), arguments.get("k") if isinstance(arguments, dict) else None)
            common |= {"activation": "topk", "k": k}
    return Entry(canonical(at, W_dec=_scaled(at, config, found, W_dec), b_dec=b_dec, **common), hook, _layer(config))


def _current(config: Config) -> Config:
    """A configuration with the nested `metadata` of version 6 beside the rest, in the names of version 6."""
    metadata = config.get("metadata")
    whole = {**metadata, **config} if isinstance(metadata, dict) else dict(config)
    return {_OLD_NAMES.get(name, name): value for name, value in whole.items()}


def _layer(config: Config) -> int | None:
    if type(config.get("hook_layer")) is int and 0 <= config["hook_layer"] < 10**4:
        return int(config["hook_layer"])
    found = re.search(r"\b(?:blocks|layers)\.(\d{1,4})\b", str(config.get("hook_name", "")))
    return int(found[1]) if found else None


def _architecture(at: Checkpoint, config: Config) -> str:
    architecture, function = str(config.get("architecture", "standard")), config.get("activation_fn", "relu")
    if architecture == "standard" and function == "topk":
        return "topk"
    known = re.fullmatch(
        r"(standard|jumprelu|topk|abstopk|gated|batchtopk|matryoshka_batchtopk|((jumprelu|topk)_)?"
        r"(skip_)?transcoder)",
        architecture,
    )
    if known is None or (architecture == "standard" and function != "relu"):
        what = f"architecture {architecture!r}" if known is None else f"architecture 'standard' with {function!r}"
        raise MatchError(
            f"{at.shown}: {what} is not supported; supported are standard (ReLU), jumprelu, topk, abstopk, batchtopk, "
            "matryoshka_batchtopk and gated"
        )
    return architecture


def _scales(at: Checkpoint, config: Config) -> tuple[float, float] | None:
    """The scale of the activations that the weights are for; None for raw ones."""
    normalised = config.get("normalize_activations")
    if isinstance(normalised, bool):
        normalised = "expected_average_only_in" if normalised else None
    if normalised in (None, "none"):
        return None
    if normalised == "expected_average_only_in":
        known = at.missing_scale(
            "normalize_activations is 'expected_average_only_in': its weights are for activations times a scale that "
            "its files do not say"
        )
        return None if known is None else (known, known)
    if normalised in ("layer_norm", "constant_norm_rescale", "covariance_whitening"):
        at.refuse_unless_allowed(
            normalised, f"normalize_activations is {normalised!r}: its input is no linear map of the raw activations"
        )
    else:
        raise MatchError(f"{at.shown}: normalize_activations is {normalised!r}, which this format does not know")
    return None


def _factors(found: Tensors) -> tuple[str, ...]:
    """The name of the tensor with a factor for each code, if there is one: published files and checkpoints differ."""
    return tuple(name for name in ("scaling_factor", "finetuning_scaling_factor") if name in found)[:1]


def _scaled(at: Checkpoint, config: Config, found: Tensors, W_dec: Tensor) -> Tensor:
    """The decoder, multiplied by the factors that old fine-tuned SAEs apply to the codes before decoding."""
    for name in _factors(found):
        factors: Tensor = found[name]
        if factors.shape != W_dec.shape[:1]:
            raise MatchError(f"{at.shown}: {name} has the shape {tuple(factors.shape)}, W_dec {tuple(W_dec.shape)}")
        if config.get("finetuning_scaling_factor"):
            return computed(lambda W, s: W * s[:, None], W_dec, factors)
        refuse_unless_ones(at, name, factors, "its configuration does not say that it is used")
    return W_dec


def _has(found: Tensors) -> bool:
    return {"W_enc", "W_dec"} <= found.keys()


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
