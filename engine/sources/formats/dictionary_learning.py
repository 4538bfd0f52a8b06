"""dictionary_learning: `ae.pt` and `config.json`, one file for every class of dictionary.

`AutoEncoder`, Gated, TopK and BatchTopK have `encoder.weight (F, d)` and `decoder.weight (d, F)`, which are transposed
here, and see x - b_dec. `AutoEncoderNew` (saved as `AutoEncoder`, recognised by its `decoder.bias`) sees x. JumpReLU
and Matryoshka have `W_enc (d, F)` and `W_dec (F, d)`; JumpReLU sees x, and Matryoshka x - b_dec.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, gated_as_jumprelu, per_feature, transposed
from saematch.sources.formats.site import Site

LINEAR = ("encoder.weight", "decoder.weight")
PLAIN = ("W_enc", "W_dec", "b_enc", "b_dec")
_STORED: tuple[str, ...] = ("k", "group_sizes", "threshold")  # tensors that some files hold next to the weights
# The class of a file without a configuration, by a tensor that only this class has.
_CLASS_OF_TENSOR = {
    "gate_bias": "GatedAutoEncoder",
    "bias": "AutoEncoder",
    "decoder.bias": "AutoEncoder",
    "group_sizes": "MatryoshkaBatchTopKSAE",
    "W_enc": "JumpReluAutoEncoder",
}


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    trainer = config["trainer"] if isinstance(config.get("trainer"), dict) else config
    named = trainer.get("dict_class")
    kind = str(named or _inferred_class(checkpoint, stored))
    layer, hook = trainer.get("layer"), trainer.get("submodule_name")
    hook = hook if isinstance(hook, str) else None
    weights = _weights(checkpoint, kind, stored, trainer)
    if not named:
        note = f"no configuration names its class: taken for {kind} by the names of its tensors"
        weights = replace(weights, notes=(*weights.notes, note))
    sae = canonical(checkpoint, weights, Site(hook, model=trainer.get("lm_name")))
    return Entry(sae, hook, layer if type(layer) is int else None)


def _weights(checkpoint: Checkpoint, kind: str, stored: Tensors, trainer: Config) -> StoredWeights:
    """Return the weights of a dictionary of the class `kind`. Raises `MatchError` for a class that is not supported."""
    # Classes with a threshold for each feature, or one for all.
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        subtracts = kind != "JumpReluAutoEncoder"
        optional = _STORED if subtracts else ()
        W_enc, W_dec, b_enc, b_dec, limit = take(checkpoint, stored, *PLAIN, "threshold", optional=optional)
        return _with_threshold(StoredWeights(W_enc, b_enc, W_dec, b_dec, subtracts_b_dec=subtracts), limit)
    # Classes with linear layers, whose weights are transposed.
    if kind == "GatedAutoEncoder":
        names = ("decoder_bias", "gate_bias", "mag_bias", "r_mag")
        W_enc, W_dec, b_dec, b_gate, b_mag, r_mag = take(checkpoint, stored, *LINEAR, *names)
        weights = gated_as_jumprelu(transposed(W_enc), b_gate, b_mag, r_mag, transposed(W_dec), b_dec)
        return replace(weights, subtracts_b_dec=True)
    if kind in ("AutoEncoder", "AutoEncoderNew", "StandardAutoEncoder"):
        new = "decoder.bias" in stored
        bias = "decoder.bias" if new else "bias"
        W_enc, W_dec, b_enc, b_dec = take(checkpoint, stored, *LINEAR, "encoder.bias", bias)
        return StoredWeights(transposed(W_enc), b_enc, transposed(W_dec), b_dec, subtracts_b_dec=not new)
    if kind not in ("AutoEncoderTopK", "BatchTopKSAE"):
        raise checkpoint.error(
            f"dict_class {kind!r} is not supported; supported are AutoEncoder, AutoEncoderNew, GatedAutoEncoder, "
            "JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE and MatryoshkaBatchTopKSAE. A crosscoder has a decoder "
            "for every layer, and does not have one row for each feature"
        )
    W_enc, W_dec, b_enc, b_dec = take(checkpoint, stored, *LINEAR, "encoder.bias", "b_dec", optional=_STORED)
    weights = StoredWeights(transposed(W_enc), b_enc, transposed(W_dec), b_dec, subtracts_b_dec=True)
    if kind == "AutoEncoderTopK":
        k = stored.get("k")
        k = checkpoint.k(trainer.get("k"), None if getattr(k, "is_meta", False) else k)
        return replace(weights, activation="topk", k=k)
    # A BatchTopK SAE has one threshold at inference.
    (limit,) = take(checkpoint, {"threshold": stored.get("threshold")}, "threshold")
    return _with_threshold(weights, limit)


def _with_threshold(weights: StoredWeights, threshold: Tensor) -> StoredWeights:
    """Return weights with a JumpReLU threshold, one for all features or one for each."""
    unset = not threshold.is_meta and bool((threshold < 0).any())
    notes = ("its threshold was never set: it acts as a ReLU",) if unset else ()
    return replace(weights, activation="jumprelu", threshold=per_feature(threshold, weights.b_enc), notes=notes)


def _inferred_class(checkpoint: Checkpoint, stored: Tensors) -> str:
    """Return the class of a file without a configuration. Raises `MatchError` if the tensors fit two classes."""
    for name, kind in _CLASS_OF_TENSOR.items():
        if name in stored:
            return kind
    take(checkpoint, stored, *LINEAR, "encoder.bias", "b_dec", optional=_STORED)
    raise checkpoint.error(
        "TopK or BatchTopK? Put its config.json next to it, which names its dict_class, like "
        '{"trainer": {"dict_class": "AutoEncoderTopK"}}, or BatchTopKSAE'
    )


def _has(stored: Tensors) -> bool:
    return (set(LINEAR) <= stored.keys() and "pre_bias" not in stored) or set(PLAIN) | {"threshold"} <= stored.keys()


DICTIONARY_LEARNING = Family(
    name="dictionary_learning",
    title="dictionary_learning: ae.pt, config.json",
    suffixes=(".pt", ".pth"),
    weights=r"ae(_\d+)?\.pt",
    has=_has,
    entry=_entry,
    config=("config.json", "../config.json"),
)
