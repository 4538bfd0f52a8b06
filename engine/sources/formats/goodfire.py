"""Goodfire: one `.pth` (or `.pt`) with a ReLU SAE for raw activations; the name of the file says the layer, "…-l19".

`encoder_linear.weight (F, d)` and `decoder_linear.weight (d, F)` are transposed.
"""

from __future__ import annotations

import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed


def _entry(checkpoint: Checkpoint, stored: Tensors, _: Config) -> Entry:
    names = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")
    W_enc, b_enc, W_dec, b_dec = take(checkpoint, stored, *names)
    sae = canonical(checkpoint, StoredWeights(transposed(W_enc), b_enc, transposed(W_dec), b_dec))
    layer = re.findall(r"-l(\d+)(?=[./]|$)", f"{checkpoint.location.title}/{checkpoint.name}")
    return Entry(sae, layer=int(layer[-1]) if layer else None)


def _has(stored: Tensors) -> bool:
    return "encoder_linear.weight" in stored


GOODFIRE = Family(
    name="goodfire",
    title="Goodfire: *.pth, config.yaml",
    suffixes=(".pt", ".pth"),
    weights=r".*-SAE-l\d+\.pth?",
    has=_has,
    entry=_entry,
)
