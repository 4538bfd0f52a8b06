"""Qwen-Scope: `layer{n}.sae.pt` with a TopK SAE on raw activations; k is in the repository's name, "…-L0_50".

The names are SAELens', both matrices are turned: `W_enc (F, d)`, `W_dec (d, F)`.
"""

from __future__ import annotations

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.family import Config, Entry, Family, Tensors, canonical, take, turned


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec = take(at, found, "W_enc", "W_dec", "b_enc", "b_dec", optional=("k",))
    sae = canonical(
        at,
        W_enc=turned(W_enc),
        b_enc=b_enc,
        W_dec=turned(W_dec),
        b_dec=b_dec,
        activation="topk",
        k=at.k(found.get("k"), at.l0),
    )
    return Entry(sae)


def _has(names: set[str]) -> bool:
    return {"W_enc", "W_dec", "b_enc", "b_dec"} <= names and "threshold" not in names


QWEN_SCOPE = Family(
    name="qwen_scope",
    title="Qwen-Scope: layer{n}.sae.pt",
    suffixes=(".pt", ".pth"),
    weights=r"layer\d+\.sae\.pt",
    has=_has,
    entry=_entry,
)
