"""Gemma Scope: `params.npz` with a JumpReLU SAE on raw activations; everything else is in the path.

`W_enc (d, F)`, `W_dec (F, d)`, `b_enc (F,)`, `b_dec (d,)`, `threshold (F,)`: already canonical. Attention SAEs and
transcoders have the same file, in repositories that say so.
"""

from __future__ import annotations

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, refuse_unless_ones, take

KEYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_FACTOR = "scaling_factor"  # of codes; 1 in every file that is published


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    found = {_upper(name): value for name, value in found.items()}
    W_enc, W_dec, b_enc, b_dec, threshold = take(at, found, *KEYS, optional=(_FACTOR,))
    refuse_unless_ones(at, _FACTOR, found.get(_FACTOR), "this format does not say that it is used")
    return Entry(canonical(at, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=b_dec, activation="jumprelu",
                           threshold=threshold))  # fmt: skip


def _upper(name: str) -> str:
    return name.replace("w_", "W_", 1) if name.startswith("w_") else name


def _has(names: set[str]) -> bool:
    return {"W_enc", "W_dec"} <= set(map(_upper, names))


GEMMA_SCOPE = Family(
    name="gemma_scope",
    title="Gemma Scope: params.npz",
    suffixes=(".npz",),
    weights=r"params\.npz",
    has=_has,
    entry=_entry,
)
