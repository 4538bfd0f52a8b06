"""dictionary_learning: `ae.pt` and `config.json`, one file for every class of dictionary.

`AutoEncoder`, Gated, TopK and BatchTopK have `encoder.weight (F, d)` and `decoder.weight (d, F)`, turned here, and see
x - b_dec; `AutoEncoderNew` (saved as `AutoEncoder`, known by its `decoder.bias`) sees x. JumpReLU and Matryoshka have
`W_enc (d, F)`, `W_dec (F, d)`; JumpReLU sees x, Matryoshka x - b_dec.
"""

from __future__ import annotations

from typing import Any

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import (
    Config,
    Entry,
    Family,
    Tensors,
    canonical,
    everywhere,
    gated_as_jumprelu,
    take,
    turned,
)

LINEAR = ("encoder.weight", "decoder.weight")
PLAIN = ("W_enc", "W_dec", "b_enc", "b_dec")
_STORED: tuple[str, ...] = ("k", "group_sizes", "threshold")  # beside weights; not always


def _entry(at: Checkpoint, found: Tensors, config: Config) -> Entry:
    trainer = config["trainer"] if isinstance(config.get("trainer"), dict) else config
    said = trainer.get("dict_class")
    kind = str(said or _guess(at, found))
    layer, hook = trainer.get("layer"), trainer.get("submodule_name")
    made = _made(at, kind, found, trainer) | {"hook": hook if isinstance(hook, str) else None}
    made["model"] = trainer.get("lm_name")
    if not said:
        note = f"no configuration names its class: taken for {kind} by the names of its tensors"
        made["notes"] = (*made.get("notes", ()), note)
    return Entry(canonical(at, **made), made["hook"], layer if type(layer) is int else None)


def _made(at: Checkpoint, kind: str, found: Tensors, trainer: Config) -> dict[str, Any]:
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        others = () if kind == "JumpReluAutoEncoder" else _STORED
        W_enc, W_dec, b_enc, b_dec, threshold = take(at, found, *PLAIN, "threshold", optional=others)
        return {
            "W_enc": W_enc,
            "b_enc": b_enc,
            "W_dec": W_dec,
            "b_dec": b_dec,
            "subtracts": kind != "JumpReluAutoEncoder",
            "activation": "jumprelu",
            "threshold": everywhere(threshold, b_enc),
            "notes": _unset(threshold),
        }
    if kind == "GatedAutoEncoder":
        names = ("decoder_bias", "gate_bias", "mag_bias", "r_mag")
        W_enc, W_dec, b_dec, b_gate, b_mag, r_mag = take(at, found, *LINEAR, *names)
        made = gated_as_jumprelu(turned(W_enc), b_gate, b_mag, r_mag)
        return {**made, "W_dec": turned(W_dec), "b_dec": b_dec, "subtracts": True}
    if kind in ("AutoEncoder", "AutoEncoderNew", "StandardAutoEncoder"):
        new = "decoder.bias" in found
        W_enc, W_dec, b_enc, b_dec = take(at, found, *LINEAR, "encoder.bias", "decoder.bias" if new else "bias")
        return {"W_enc": turned(W_enc), "b_enc": b_enc, "W_dec": turned(W_dec), "b_dec": b_dec, "subtracts": not new}
    if kind not in ("AutoEncoderTopK", "BatchTopKSAE"):
        raise MatchError(
            f"{at.shown}: dict_class {kind!r} is not supported; supported are AutoEncoder, AutoEncoderNew, "
            "GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE and MatryoshkaBatchTopKSAE. A "
            "crosscoder has a decoder for every layer, and no one row for a feature"
        )
    W_enc, W_dec, b_enc, b_dec = take(at, found, *LINEAR, "encoder.bias", "b_dec", optional=_STORED)
    made = {"W_enc": turned(W_enc), "b_enc": b_enc, "W_dec": turned(W_dec), "b_dec": b_dec, "subtracts": True}
    if kind == "AutoEncoderTopK":
        stored = found.get("k")
        return made | {"activation": "topk", "k": at.k(trainer.get("k"), None if _empty(stored) else stored)}
    (threshold,) = take(at, {"threshold": found.get("threshold")}, "threshold")
    return made | {"activation": "jumprelu", "threshold": everywhere(threshold, b_enc), "notes": _unset(threshold)}


def _unset(threshold: Any) -> tuple[str, ...]:
    unset = not threshold.is_meta and bool((threshold < 0).any())
    return ("its threshold was never set: it acts as a ReLU",) if unset else ()


def _empty(value: Any) -> bool:
    return bool(getattr(value, "is_meta", False))


def _guess(at: Checkpoint, found: Tensors) -> str:
    """The class, where no configuration names it. Raises `MatchError` where the tensors fit two."""
    for name, kind in {
        "gate_bias": "GatedAutoEncoder",
        "bias": "AutoEncoder",
        "decoder.bias": "AutoEncoder",
        "group_sizes": "MatryoshkaBatchTopKSAE",
        "W_enc": "JumpReluAutoEncoder",
    }.items():
        if name in found:
            return kind
    take(at, found, *LINEAR, "encoder.bias", "b_dec", optional=_STORED)
    raise MatchError(
        f"{at.shown}: TopK or BatchTopK? Put its config.json beside it, which names its dict_class, like "
        '{"trainer": {"dict_class": "AutoEncoderTopK"}}, or BatchTopKSAE'
    )


def _has(found: Tensors) -> bool:
    return (set(LINEAR) <= found.keys() and "pre_bias" not in found) or set(PLAIN) | {"threshold"} <= found.keys()


DICTIONARY_LEARNING = Family(
    name="dictionary_learning",
    title="dictionary_learning: ae.pt, config.json",
    suffixes=(".pt", ".pth"),
    weights=r"ae(_\d+)?\.pt",
    has=_has,
    entry=_entry,
    config=("config.json", "../config.json"),
)
