"""Gemma Scope 2: `params.safetensors` with a JumpReLU SAE on raw activations, names in lower case, and `config.json`.

`w_enc (d, F)`, `w_dec (F, d)`: already canonical. Transcoders have an `hf_hook_point_out`, and may have an affine
connection; cross-layer transcoders have a decoder for every layer. Some folders have no configuration: there, the name
of the folder above says what is read, as in "attn_out_all/layer_5_width_16k_l0_small".
"""

from __future__ import annotations

import math
import re

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, take

_FOLDER = re.compile(r"(?:^|/)(attn_out|mlp_out|transcoder|clt|crosscoder)(?:_all)?/layer_(\d{1,4})_[^/]*/[^/]+$")
_HOOKS = {"attn_out": "self_attn.o_proj.input", "mlp_out": "post_feedforward_layernorm.output"}
_READS, _WRITES = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    config = config or _inferred(at)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise MatchError(f"{at.shown}: architecture {config['architecture']!r}; Gemma Scope 2 has jump_relu only")
    W_enc, W_dec, b_enc, b_dec, threshold = take(
        at, found, "w_enc", "w_dec", "b_enc", "b_dec", "threshold", optional=("affine_skip_connection",)
    )
    hook, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    kind = str(config.get("type") or "sae").lower()
    if kind in ("clt", "crosscoder"):
        raise MatchError(f"{at.shown}: a {kind}: a feature reads or writes several layers, and has no one row")
    if (kind != "sae" or "affine_skip_connection" in found) and writes in (None, hook):
        writes = "another place"
    sae = canonical(
        at,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation="jumprelu",
        threshold=threshold,
        hook=hook,
        writes=writes,
        model="gemma-3",
        notes=("its affine connection is left out",) if "affine_skip_connection" in found else (),
    )
    layer, l0 = re.search(r"layers\.(\d{1,4})\b", str(hook)), config.get("l0")
    return Entry(
        sae,
        hook,
        int(layer[1]) if layer else None,
        float(l0) if isinstance(l0, int | float) and math.isfinite(l0) else None,
    )


def _inferred(at: Checkpoint) -> Config:
    """What a configuration would say, from the folders that published files are in."""
    found = _FOLDER.search(at.place.address(at.name))
    if found is None:
        return {}
    site, layer = found[1], f"model.layers.{found[2]}"
    if site in _HOOKS:
        return {"hf_hook_point_in": f"{layer}.{_HOOKS[site]}"}
    return {"type": site, "hf_hook_point_in": f"{layer}.{_READS}", "hf_hook_point_out": f"{layer}.{_WRITES}"}


def _has(found: Tensors) -> bool:
    return {"w_enc", "w_dec"} <= found.keys()


GEMMA_SCOPE_2 = Family(
    name="gemma_scope_2",
    title="Gemma Scope 2: params.safetensors, config.json",
    suffixes=(".safetensors",),
    weights=r"params\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
)
