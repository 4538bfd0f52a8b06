"""Crosscoders, one head at a time: the encoder of one model or layer, and the decoder to it.

A crosscoder of H heads adds up what the encoders of all heads say. The codes of the encoder of one head are those of
the crosscoder where the other heads read 0. `?head=` names the head by its number, or as "base" and "chat" if there are
two, which is their order in model diffing. Two layouts are known:

    crosscoder-model-diff-replication   W_enc (H, d, F), W_dec (F, H, d), b_enc (F,), b_dec (H, d)
    crosscoder_learning                 encoder.weight (H, d, F), decoder.weight (H, F, d), and the same biases

The second has a threshold if it was trained by batch. The threshold is for codes times a norm of the decoder rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Index, Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, in_float64, per_feature
from saematch.sources.formats.site import Site

_REPLICATION = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
_LEARNING = {
    "W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias",
}  # fmt: skip
_TWO = {"base": 0, "chat": 1}
_EXTRA = ("k", "code_normalization_id")
# The norms of crosscoder_learning by their number: the sum over heads, of all heads together, none, and of each head.
_SUM, _TOGETHER, _NONE, _EACH = 1, 2, 4, 5


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source]:
    names = _LEARNING if "encoder.weight" in stored else _REPLICATION
    W_enc, W_dec, _, b_dec = take(checkpoint, stored, *names.values(), optional=("threshold", *_EXTRA))
    heads = len(W_enc)
    if not heads == W_dec.shape[0 if names is _LEARNING else 1] == len(b_dec):
        shapes = ", ".join(f"{names[name]} {tuple(stored[names[name]].shape)}" for name in ("W_enc", "W_dec", "b_dec"))
        raise checkpoint.error(f"its tensors have different numbers of heads: {shapes}")
    head = head_of(checkpoint, heads)

    def decoder(number: int) -> Source:
        at: Index = (number,) if names is _LEARNING else (None, number)
        return Source(Piece(names["W_dec"], at), checkpoint.name)

    sources = {
        "W_enc": Source(Piece(names["W_enc"], (head,)), checkpoint.name),
        "b_enc": Source(Piece(names["b_enc"]), checkpoint.name),
        "W_dec": decoder(head),
        "b_dec": Source(Piece(names["b_dec"], (head,)), checkpoint.name),
    }
    # A threshold is compared with codes times norms, which may be those of all heads.
    if "threshold" in stored:
        shape = tuple(stored["threshold"].shape)
        if shape not in ((), (heads,)):
            raise checkpoint.error(f"threshold has the shape {shape}; expected () or {(heads,)}")
        at = (head,) if stored["threshold"].ndim else ()
        sources["threshold"] = Source(Piece("threshold", at), checkpoint.name)
        sources |= {f"decoder {number}": decoder(number) for number in range(heads) if number != head}
    return sources | {name: Source(Piece(name), checkpoint.name) for name in _EXTRA if name in stored}


def head_of(checkpoint: Checkpoint, heads: int) -> int:
    """Return the number of the head that `?head=` names. Raises `MatchError` if it names none."""
    asked = checkpoint.options.get("head")
    named = " (base and chat)" if heads == 2 else ""
    if asked is None:
        raise checkpoint.error(
            f"a crosscoder of {heads} heads, each with an encoder and a decoder; write ?head=… after its path, a "
            f"number from 0 to {heads - 1}{named}"
        )
    number = int(asked) if re.fullmatch("[0-9]{1,4}", asked) else _TWO.get(asked, heads) if heads == 2 else heads
    if number >= heads:
        raise checkpoint.error(f"?head={asked[:20]}: its heads are 0 to {heads - 1}{named}")
    return number


def note_on_head(checkpoint: Checkpoint, heads: int) -> str:
    """Return the note on a head of a crosscoder that is read as an SAE."""
    return f"head {head_of(checkpoint, heads)} of a crosscoder of {heads}: its codes are those where other heads read 0"


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec = (stored[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    heads = len(checkpoint.headers["encoder.weight" if "encoder.weight" in checkpoint.headers else "W_enc"])
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, notes=(note_on_head(checkpoint, heads),))
    if "threshold" in stored:
        threshold = _threshold(checkpoint, stored)
        weights = replace(weights, activation="jumprelu", threshold=threshold)
    # Files of model diffing are in a folder that is called after the hook.
    folder = re.findall(r"(?:^|/)(blocks\.\d{1,4}\.\w+)(?=/)", f"{checkpoint.location.title}/{checkpoint.name}")
    hook = config.get("hook_point", folder[-1] if folder else None)
    hook = hook if isinstance(hook, str) else None
    layer = re.search(r"\bblocks\.(\d{1,4})\.", str(hook))
    return Entry(canonical(checkpoint, weights, Site(hook)), hook, int(layer[1]) if layer else None)


def _threshold(checkpoint: Checkpoint, stored: Tensors) -> Tensor:
    """Return the threshold of each code: the stored one, divided by the norm that it is compared with."""
    limit, kind = per_feature(stored["threshold"], stored["b_enc"]), stored.get("code_normalization_id", _SUM)
    if limit.is_meta or (isinstance(kind, Tensor) and kind.is_meta):
        return in_float64(lambda t: t, limit)
    if int(kind) not in (_SUM, _TOGETHER, _NONE, _EACH):
        raise checkpoint.error(f"code_normalization_id {int(kind)} is not supported: its factors are not in the file")
    others = [W for name, W in stored.items() if name.startswith("decoder ")]
    decoders = {_NONE: [], _EACH: [stored["W_dec"]]}.get(int(kind), [stored["W_dec"], *others])
    power = 2 if int(kind) == _TOGETHER else 1

    def divided(threshold: Tensor, *decoders: Tensor) -> Tensor:
        if not decoders:
            return threshold
        norms: Tensor = torch.stack([W.norm(dim=1) for W in decoders]).norm(power, dim=0)
        return threshold / norms.clamp(min=1e-30)

    return in_float64(divided, limit, *decoders)


def is_crosscoder(stored: Tensors) -> bool:
    """Whether tensors with the names of an SAE are those of a crosscoder, with a dimension for the heads."""
    for names in (_REPLICATION, _LEARNING):
        shapes = [getattr(stored.get(name), "ndim", None) for name in names.values()]
        if shapes == [3, 3, 1, 2]:
            return True
    return False


CROSSCODER = Family(
    name="crosscoder",
    title="crosscoders: cc_weights.pt, model.safetensors",
    suffixes=(".pt", ".pth", ".safetensors"),
    weights=r"cc_weights\.pt",
    has=is_crosscoder,
    entry=_entry,
    config=("cfg.json", "{stem}_cfg.json", "cc_cfg.json", "config.json"),
    sources=_sources,
    option="head",
)
