"""Qwen-Scope: `layer{n}.sae.pt` with a TopK SAE on raw activations; k is in the repository's name, "…-L0_50".

The names are SAELens', both matrices are transposed: `W_enc (F, d)`, `W_dec (d, F)`. They tell it from plain files,
which have the same names and `W_enc (d, F)`; where F = d, nothing does, and `?family=qwen_scope` has to say so.
"""

from __future__ import annotations

from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, canonical, take, turned

_NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def _entry(at: Checkpoint, found: Tensors, _: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec = take(at, found, *_NAMES, optional=("k",))
    if W_enc.shape == (b_dec.numel(), b_enc.numel()) and W_enc.shape != W_enc.shape[::-1]:
        raise MatchError(
            f"{at.shown}: W_enc is {tuple(W_enc.shape)}, one feature a column; in Qwen-Scope a feature is a row. Save "
            "it with its activation: saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
        )
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


def _has(found: Tensors) -> bool:
    if not found.keys() >= set(_NAMES) or "threshold" in found:
        return False
    W_enc, W_dec, b_enc, b_dec = given = [found[name] for name in _NAMES]
    if not all(isinstance(each, Tensor) for each in given) or b_enc.shape == b_dec.shape:
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
