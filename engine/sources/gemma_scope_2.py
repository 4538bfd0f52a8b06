"""Gemma Scope 2: `params.safetensors` with a JumpReLU SAE on raw activations, names in lower case, and `config.json`.

`w_enc (d, F)`, `w_dec (F, d)`: already canonical. Transcoders have an `hf_hook_point_out`, and may have an affine
connection; cross-layer transcoders have a decoder for every layer.
"""

from __future__ import annotations

import math
import re

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, take


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise MatchError(f"{at.shown}: architecture {config['architecture']!r}; Gemma Scope 2 has jump_relu only")
    W_enc, W_dec, b_enc, b_dec, threshold = take(
        at, found, "w_enc", "w_dec", "b_enc", "b_dec", "threshold", optional=("affine_skip_connection",)
    )
    if W_dec.ndim == 3:
        raise MatchError(f"{at.shown}: a cross-layer transcoder: a feature writes several layers, and has no one row")
    hook, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    sae = canonical(
        at, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec, activation="jumprelu", threshold=threshold, hook=hook,
        writes=writes, notes=("its affine connection is left out",) if "affine_skip_connection" in found else (),
    )  # fmt: skip
    layer, l0 = re.search(r"layers\.(\d{1,4})\b", str(hook)), config.get("l0")
    return Entry(
        sae,
        hook,
        int(layer[1]) if layer else None,
        float(l0) if isinstance(l0, int | float) and math.isfinite(l0) else None,
    )


def _has(names: set[str]) -> bool:
    return {"w_enc", "w_dec"} <= names


GEMMA_SCOPE_2 = Family(
    name="gemma_scope_2",
    title="Gemma Scope 2: params.safetensors, config.json",
    suffixes=(".safetensors",),
    weights=r"params\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
)
