"""Gemma Scope: `params.npz` with a JumpReLU SAE on raw activations; everything else is in the path.

`W_enc (d, F)`, `W_dec (F, d)`, `b_enc (F,)`, `b_dec (d,)`, `threshold (F,)`: already canonical. Attention SAEs and
transcoders have the same file, in repositories that say so. Those in the folder `embedding` are for embeddings as they
are stored, which Gemma multiplies by sqrt(d) before its first layer.
"""

from __future__ import annotations

import math
import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, refuse_unless_ones, take

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_EMBEDDING = re.compile(  # in a folder of the suite, whatever is below, or in one that is called as the suite's are
    r"gemma-scope-[^/]*/embedding(?![a-z])(?!.*(?:layer_\d|gemma-scope-))|"
    r"(?:^|/)embedding/(?:(?:width_|average_l0_|l0_)[^/]+/|canonical/){0,3}[^/]+$"
)
_FACTOR = "scaling_factor"  # of codes; 1 in every file that is published


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    found = {_upper(name): value for name, value in found.items()}
    W_enc, W_dec, b_enc, b_dec, threshold = take(at, found, *KEYS, optional=(_FACTOR,))
    refuse_unless_ones(at, _FACTOR, found.get(_FACTOR), "this format does not say that it is used")
    embedded = bool(_EMBEDDING.search(at.place.address(at.name)))
    scale = 1 / math.sqrt(max(1, len(b_dec))) if embedded and b_dec.ndim == 1 else None
    sae = canonical(
        at,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        activation="jumprelu",
        threshold=threshold,
        scales=None if scale is None else (scale, scale),
        notes=("it reads embeddings as they are stored: scaled by sqrt(d), as Gemma scales them",) if embedded else (),
    )
    return Entry(sae, hook="hook_embed" if embedded else None)


def _upper(name: str) -> str:
    return name.replace("w_", "W_", 1) if name.startswith("w_") else name


def _has(found: Tensors) -> bool:
    return {"W_enc", "W_dec"} <= set(map(_upper, found))


GEMMA_SCOPE = Family(
    name="gemma_scope",
    title="Gemma Scope: params.npz",
    suffixes=(".npz",),
    weights=r"params\.npz",
    has=_has,
    entry=_entry,
)
