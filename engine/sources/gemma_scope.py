"""Gemma Scope: `params.npz` with a JumpReLU SAE on raw activations; everything else is in the path.

`W_enc (d, F)`, `W_dec (F, d)`, `b_enc (F,)`, `b_dec (d,)`, `threshold (F,)`: already canonical. Attention SAEs and
transcoders have the same file, in repositories that say so.
"""

from __future__ import annotations

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, take

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec, threshold = take(at, found, *KEYS)
    return Entry(canonical(at, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec, activation="jumprelu",
                           threshold=threshold))  # fmt: skip


def _has(names: set[str]) -> bool:
    return {"W_enc", "W_dec"} <= names


GEMMA_SCOPE = Family(
    name="gemma_scope",
    title="Gemma Scope: params.npz",
    suffixes=(".npz",),
    weights=r"params\.npz",
    has=_has,
    entry=_entry,
)
