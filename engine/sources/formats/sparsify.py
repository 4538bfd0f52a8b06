"""sparsify (EleutherAI): `sae.safetensors` and `cfg.json`; TopK, the encoder sees x - b_dec unless it is a transcoder.

`encoder.weight (F, d)` is transposed; `W_dec (F, d)` is not. The folder has the name of the module whose output is
read: "layers.5", "h.3.mlp".
"""

from __future__ import annotations

import posixpath
import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed
from saematch.sources.formats.others import ARCHITECTURES
from saematch.sources.formats.site import ELSEWHERE, Site

_MODULE = re.compile(r"(?:[A-Za-z_]+\.)*(?:layers|blocks|h)\.(\d{1,4})(?:\.\w+)*")
_NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    W_enc, b_enc, W_dec, b_dec = take(checkpoint, stored, *_NAMES, optional=("W_skip",))
    # The configuration must be of these weights, and of an activation that is supported.
    d, F = config.get("d_in"), _features(config)
    if (d is not None and d != len(b_dec)) or (F is not None and len(b_enc) != F):
        raise checkpoint.error(f"cfg.json says F = {F}, d = {d}; its biases have {len(b_enc)} and {len(b_dec)}")
    if config.get("activation") == "groupmax":
        raise checkpoint.error(ARCHITECTURES["groupmax"])
    if config.get("activation", "topk") != "topk":
        raise checkpoint.error(f"activation {config['activation']!r} is not supported; supported is topk")
    notes: tuple[str, ...] = ()
    if config.get("signed"):
        checkpoint.refuse_unless_allowed("signed", "signed: it chooses the k largest in size and keeps their sign")
        notes += ("signed: read as if it were not",)
    # A transcoder reads the input of the module that its folder names, and writes its output.
    transcodes = bool(config.get("transcode")) or "W_skip" in stored
    if "W_skip" in stored:
        notes += ("its skip connection is left out",)
    module, layer = _module(checkpoint)
    hook = None if module is None else f"{module}.{'input' if transcodes else 'output'}"
    site = Site(hook, ELSEWHERE if module is None else f"{module}.output") if transcodes else Site(hook)
    weights = StoredWeights(
        transposed(W_enc),
        b_enc,
        W_dec,
        b_dec,
        activation="topk",
        k=checkpoint.k(config.get("k")),
        subtracts_b_dec=not config.get("transcode"),
        notes=notes,
    )
    return Entry(canonical(checkpoint, weights, site), hook, layer)


def _module(checkpoint: Checkpoint) -> tuple[str | None, int | None]:
    """Return the name of a module that the innermost folder with such a name has, and the layer of the module."""
    for name in reversed(posixpath.dirname(f"{checkpoint.location.title}/{checkpoint.name}").split("/")):
        if match := _MODULE.fullmatch(name):
            return name, int(match[1])
    return None, None


def _features(config: Config) -> int | None:
    """Return the number of features that a configuration says, if it says one."""
    d, factor = config.get("d_in"), config.get("expansion_factor")
    if config.get("num_latents"):
        return int(config["num_latents"])
    return d * factor if isinstance(d, int) and isinstance(factor, int) else None


def _has(stored: Tensors) -> bool:
    return {"encoder.weight", "W_dec"} <= stored.keys()


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
