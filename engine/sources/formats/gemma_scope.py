"""Gemma Scope: `params.npz` with a JumpReLU SAE for raw activations; the path says everything else.

`W_enc (d, F)`, `W_dec (F, d)`, `b_enc (F,)`, `b_dec (d,)` and `threshold (F,)` are in canonical form. Attention SAEs
and transcoders have the same files, in repositories whose names say so. SAEs in the folder `embedding` are for
embeddings as they are stored, which Gemma multiplies by sqrt(d) before its first layer.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, refuse_unless_ones, take
from saematch.sources.formats.canonical import ActivationScales, StoredWeights, canonical

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
# A file below the folder `embedding` of the suite, or of a folder that is laid out as those of the suite are.
_EMBEDDING = re.compile(
    r"gemma-scope-[^/]*/embedding(?![a-z])(?!.*(?:layer_\d|gemma-scope-))|"
    r"(?:^|/)embedding/(?:(?:width_|average_l0_|l0_)[^/]+/|canonical/){0,3}[^/]+$"
)
_FACTOR = "scaling_factor"  # of the codes; 1 in every published file


def _entry(checkpoint: Checkpoint, stored: Tensors, _: Config) -> Entry:
    stored = {_upper(name): value for name, value in stored.items()}
    W_enc, W_dec, b_enc, b_dec, threshold = take(checkpoint, stored, *KEYS, optional=(_FACTOR,))
    refuse_unless_ones(checkpoint, _FACTOR, stored.get(_FACTOR), "this format does not say that it is used")
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold)
    if not _EMBEDDING.search(checkpoint.location.address(checkpoint.name)):
        return Entry(canonical(checkpoint, weights))
    scale = 1 / math.sqrt(max(1, len(b_dec))) if b_dec.ndim == 1 else None
    embedded = replace(
        weights,
        scales=None if scale is None else ActivationScales(scale, scale),
        notes=("it reads embeddings as they are stored: scaled by sqrt(d), as Gemma scales them",),
    )
    return Entry(canonical(checkpoint, embedded), hook="hook_embed")


def _upper(name: str) -> str:
    """Return the name of a tensor with its W in upper case, as in most files."""
    return name.replace("w_", "W_", 1) if name.startswith("w_") else name


def _has(stored: Tensors) -> bool:
    return {"W_enc", "W_dec"} <= set(map(_upper, stored))


GEMMA_SCOPE = Family(
    name="gemma_scope",
    title="Gemma Scope: params.npz",
    suffixes=(".npz",),
    weights=r"params\.npz",
    has=_has,
    entry=_entry,
)
