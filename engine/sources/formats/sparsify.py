"""sparsify (EleutherAI): `sae.safetensors` and `cfg.json`; TopK, the encoder sees x - b_dec unless it is a transcoder.

`encoder.weight (F, d)` is transposed; `W_dec (F, d)` is not. The folder is called as the module whose output is read:
"layers.5", "h.3.mlp".
"""

from __future__ import annotations

import posixpath
import re

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, take, turned

_MODULE = re.compile(r"(?:[A-Za-z_]+\.)*(?:layers|blocks|h)\.(\d{1,4})(?:\.\w+)*")


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    W_enc, b_enc, W_dec, b_dec = take(
        at, found, "encoder.weight", "encoder.bias", "W_dec", "b_dec", optional=("W_skip",)
    )
    d, F = config.get("d_in"), _features(config)
    if (d is not None and d != len(b_dec)) or (F is not None and len(b_enc) != F):
        raise MatchError(f"{at.shown}: cfg.json says F = {F}, d = {d}; its biases have {len(b_enc)} and {len(b_dec)}")
    if config.get("activation", "topk") != "topk":
        raise MatchError(f"{at.shown}: activation {config['activation']!r} is not supported; supported is topk")
    notes: tuple[str, ...] = ()
    if config.get("signed"):
        at.refuse_unless_allowed("signed", "signed: it chooses the k largest in size and keeps their sign")
        notes += ("signed: read as if it were not",)
    transcodes = bool(config.get("transcode")) or "W_skip" in found
    notes += ("its skip connection is left out",) if "W_skip" in found else ()
    hook, layer = _module(at)
    sae = canonical(
        at,
        W_enc=turned(W_enc),
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation="topk",
        k=at.k(config.get("k")),
        subtracts=not config.get("transcode"),
        writes="the output of its module" if transcodes else None,
        notes=notes,
        hook=None if transcodes else hook,
    )
    return Entry(sae, hook, layer)


def _module(at: Checkpoint) -> tuple[str | None, int | None]:
    """What it reads, and the layer of that, from the innermost folder that is called as a module."""
    for name in reversed(posixpath.dirname(f"{at.place.title}/{at.name}").split("/")):
        if found := _MODULE.fullmatch(name):
            return f"{name}.output", int(found[1])
    return None, None


def _features(config: Config) -> int | None:
    d, factor = config.get("d_in"), config.get("expansion_factor")
    if config.get("num_latents"):
        return int(config["num_latents"])
    return d * factor if isinstance(d, int) and isinstance(factor, int) else None


def _has(found: Tensors) -> bool:
    return {"encoder.weight", "W_dec"} <= found.keys()


SPARSIFY = Family(
    name="sparsify",
    title="sparsify: sae.safetensors, cfg.json",
    suffixes=(".safetensors",),
    weights=r"sae\.safetensors",
    has=_has,
    entry=_entry,
    config=("cfg.json",),
    needs_config=True,
)
