"""Goodfire: one `.pth` (or `.pt`) with a ReLU SAE on raw activations; the layer is in its name, "…-l19".

`encoder_linear.weight (F, d)`, `decoder_linear.weight (d, F)` are turned.
"""

from __future__ import annotations

import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, take, turned


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    names = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")
    W_enc, b_enc, W_dec, b_dec = take(at, found, *names)
    layer = re.findall(r"-l(\d+)(?=[./]|$)", f"{at.place.title}/{at.name}")
    return Entry(
        canonical(at, W_enc=turned(W_enc), b_enc=b_enc, W_dec=turned(W_dec), b_dec=b_dec),
        layer=int(layer[-1]) if layer else None,
    )


def _has(found: Tensors) -> bool:
    return "encoder_linear.weight" in found


GOODFIRE = Family(
    name="goodfire",
    title="Goodfire: *.pth, config.yaml",
    suffixes=(".pt", ".pth"),
    weights=r".*-SAE-l\d+\.pth?",
    has=_has,
    entry=_entry,
)
