"""SAELens: a folder with `cfg.json` (nested since version 6, flat before) and `sae_weights.safetensors`.

`W_enc (d, F)`, `W_dec (F, d)`; with `apply_b_dec_to_input` the encoder sees x - b_dec, which canonical form moves into
`b_enc`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from saematch.errors import MatchError
from saematch.sae import SAE
from saematch.sources.family import Description, Family
from saematch.sources.files import expect_keys, headers, names, read_json, tensors

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}
_IN_UNITS_OF_ACTIVATIONS = {"normalize_activations": "none", "reshape_activations": "none"}


def _recognises(path: Path) -> bool:
    if path.suffix != ".safetensors" or not _config_file(path).is_file():
        return False
    return path.name == "sae_weights.safetensors" or bool(KEYS & names(path))


def _layer(path: Path) -> int | None:
    config = _config(path)
    if isinstance(config.get("hook_layer"), int):
        return int(config["hook_layer"])
    found = re.search(r"\bblocks\.(\d+)\.", str(config.get("hook_name", "")))
    return int(found[1]) if found else None


def _describe(path: Path) -> Description:
    config = _config(path)
    notes = ("b_dec is subtracted from the input: folded into b_enc",) if _shifts_input(config) else ()
    hook = config.get("hook_name")
    return Description(_sae(path, config, headers(path)), notes=notes, hook=hook if isinstance(hook, str) else None)


def _read(path: Path) -> SAE:
    config, found = _config(path), tensors(path)
    scaling = found.get("scaling_factor")
    if scaling is not None and not bool((scaling == 1).all()):
        raise MatchError(f"{path}: scaling_factor is not 1; this fine-tuned SAE cannot be put in canonical form")
    sae = _sae(path, config, found).check_finite()
    if not _shifts_input(config):
        return sae
    # In float64, and kept so: rounding it would change the problem that is solved and proved.
    return replace(sae, b_enc=sae.b_enc.double() - sae.b_dec.double() @ sae.W_enc.double())


def _sae(path: Path, config: dict[str, Any], found: dict[str, Tensor]) -> SAE:
    activation, k = _activation(path, config)
    expect_keys(path, found, KEYS | ({"threshold"} if activation == "jumprelu" else set()), optional={"scaling_factor"})
    kept: dict[str, Any] = {name: tensor for name, tensor in found.items() if name != "scaling_factor"}
    return SAE(**kept, activation=activation, k=k, source=str(path))


def _config_file(path: Path) -> Path:
    return path.parent / "cfg.json"


def _config(path: Path) -> dict[str, Any]:
    """`cfg.json`, with the nested `metadata` of version 6 beside the rest."""
    where = _config_file(path)
    config = read_json(where)
    if not isinstance(config, dict):
        raise MatchError(f"{where}: expected a JSON object, got {type(config).__name__}")
    metadata = config.get("metadata")
    return {**metadata, **config} if isinstance(metadata, dict) else config


def _shifts_input(config: dict[str, Any]) -> bool:
    return bool(config.get("apply_b_dec_to_input", True))


def _activation(path: Path, config: dict[str, Any]) -> tuple[str, int | None]:
    """The activation and, for TopK, its k. Refuses what cannot be compared in weight space as it is."""
    where = _config_file(path)
    for key, plain in _IN_UNITS_OF_ACTIVATIONS.items():
        if config.get(key, plain) not in (plain, None):
            raise MatchError(
                f"{where}: {key} is {config[key]!r}: the weights are not in units of the raw activations, so they "
                "cannot be compared with another layer's as they are"
            )
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn_str", "relu")
    if architecture == "jumprelu":
        return "jumprelu", None
    if architecture == "standard" and function == "relu":
        return "relu", None
    if architecture == "topk" or (architecture == "standard" and function == "topk"):
        if config.get("rescale_acts_by_decoder_norm"):
            raise MatchError(f"{where}: rescale_acts_by_decoder_norm is not supported for TopK SAEs")
        arguments = config.get("activation_fn_kwargs")
        k = config.get("k", arguments.get("k") if isinstance(arguments, dict) else None)
        if not isinstance(k, int):
            raise MatchError(f"{where}: a TopK SAE without its k")
        return "topk", k
    raise MatchError(
        f"{where}: architecture {architecture!r} with activation {function!r} is not supported; supported are standard "
        "(ReLU), jumprelu and topk"
    )


def _files(path: Path) -> list[Path]:
    return [_config_file(path), path]


SAELENS = Family(
    name="saelens",
    recognises=_recognises,
    files=_files,
    layer=_layer,
    describe=_describe,
    read=_read,
)
