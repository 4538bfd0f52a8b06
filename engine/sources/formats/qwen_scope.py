"""Qwen-Scope: `layer{n}.sae.pt` with a TopK SAE for raw activations; the repository's name says k, "…-L0_50".

The names are those of SAELens, and both matrices are transposed: `W_enc (F, d)`, `W_dec (d, F)`. The shapes tell such a
file from a plain file with the same names and `W_enc (d, F)`. If F = d, nothing does, and `?family=qwen_scope` has to
say it.
"""

from __future__ import annotations

from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed

_NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def _entry(checkpoint: Checkpoint, stored: Tensors, _: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec = take(checkpoint, stored, *_NAMES, optional=("k",))
    if W_enc.shape == (b_dec.numel(), b_enc.numel()) and W_enc.shape != W_enc.shape[::-1]:
        raise checkpoint.error(
            f"W_enc is {tuple(W_enc.shape)}, one column for each feature; in Qwen-Scope each feature is a row. Save "
            "the SAE with its activation: saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
        )
    k = checkpoint.k(stored.get("k"), checkpoint.l0)
    weights = StoredWeights(transposed(W_enc), b_enc, transposed(W_dec), b_dec, activation="topk", k=k)
    return Entry(canonical(checkpoint, weights))


def _has(stored: Tensors) -> bool:
    if not stored.keys() >= set(_NAMES) or "threshold" in stored:
        return False
    W_enc, W_dec, b_enc, b_dec = given = [stored[name] for name in _NAMES]
    if not all(isinstance(value, Tensor) for value in given) or b_enc.shape == b_dec.shape:
        return False
    return bool(W_enc.shape == W_dec.shape[::-1] == (*b_enc.shape, *b_dec.shape))


QWEN_SCOPE = Family(
    name="qwen_scope",
    title="Qwen-Scope: layer{n}.sae.pt",
    suffixes=(".pt", ".pth"),
    weights=r"layer\d+\.sae\.pt",
    has=_has,
    entry=_entry,
)
