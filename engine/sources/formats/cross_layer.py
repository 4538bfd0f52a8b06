"""Cross-layer transcoders, one layer at a time: the encoder of a layer, and its decoder to one layer.

A feature of layer i reads layer i, and writes layer i and those after it. `?to=` says which of these is meant; it is
layer i by default. circuit-tracer stores two files for each layer i: `W_enc_{i}.safetensors` with `W_enc_{i} (F, d)`,
its biases and perhaps a threshold, and `W_dec_{i}.safetensors` with `W_dec_{i} (F, L - i, d)`. The bias `b_dec_{j}` of
what all layers write to layer j is in the file of layer j.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed
from saematch.sources.formats.circuit_tracer import hook_of_layer
from saematch.sources.formats.site import ELSEWHERE, Site

_ENCODER = re.compile(r"W_enc_(\d{1,4})")


def target_layer(checkpoint: Checkpoint, written: Sequence[int]) -> int:
    """Return the layer that `?to=` names, by default the first. Raises `MatchError` if it is not written.

    Args:
        checkpoint: the file of a layer of a cross-layer transcoder.
        written: the layer, and those after it, which it writes too.
    """
    asked = checkpoint.options.get("to", str(written[0]))
    if not re.fullmatch(r"[0-9]{1,4}", asked) or int(asked) not in written:
        layers = f"{written[0]} to {written[-1]}" if isinstance(written, range) else ", ".join(map(str, written))
        raise checkpoint.error(f"?to={asked}: layer {written[0]} writes the layers {layers}")
    return int(asked)


def cross_layer_note(layer: int, to: int, kind: str = "cross-layer transcoder") -> str:
    """Return the note on a layer of a cross-layer transcoder that is read as if it was a transcoder."""
    return f"layer {layer} of a {kind}: its decoder to layer {to}, and the b_dec of all decoders to it"


def _layer(stored: Tensors) -> int | None:
    """Return the layer in the names of the tensors; None if there is not one encoder."""
    layers = [int(match[1]) for name in stored if (match := _ENCODER.fullmatch(name))]
    return layers[0] if len(layers) == 1 else None


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source]:
    # The encoder's file, and the decoder's next to it.
    layer = _layer(stored)
    if layer is None:
        raise checkpoint.error("holds no W_enc_{n} of one layer n, as circuit-tracer writes it")
    known = {f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec", "threshold")}
    take(checkpoint, stored, f"W_enc_{layer}", f"b_enc_{layer}", f"b_dec_{layer}", optional=tuple(known))
    decoder = _next_to(checkpoint, f"W_dec_{layer}")
    W_dec = checkpoint.named(decoder).headers.get(f"W_dec_{layer}")
    if not isinstance(W_dec, Tensor) or W_dec.ndim != 3:
        raise checkpoint.error(f"its {decoder} does not hold a W_dec_{layer} (features, layers, d)")
    # The bias of the layer that is written.
    to = target_layer(checkpoint, range(layer, layer + W_dec.shape[1]))
    bias = checkpoint.name if to == layer else _next_to(checkpoint, f"W_enc_{to}")
    if f"b_dec_{to}" not in checkpoint.named(bias).headers:
        raise checkpoint.error(f"its {bias} does not hold b_dec_{to}")
    encoder = ("W_enc", "b_enc", *(["threshold"] if f"threshold_{layer}" in stored else []))
    return {
        **{name: Source(Piece(f"{name}_{layer}"), checkpoint.name) for name in encoder},
        "W_dec": Source(Piece(f"W_dec_{layer}", (None, to - layer)), decoder),
        "b_dec": Source(Piece(f"b_dec_{to}"), bias),
    }


def _next_to(checkpoint: Checkpoint, stem: str) -> str:
    name = checkpoint.next_to(f"{stem}.safetensors")
    if name is None:
        raise checkpoint.error(f"{stem}.safetensors is not next to it, where circuit-tracer has it")
    return name


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    # Only texts: a few nested aliases of YAML, written as a text, would fill the memory.
    config = {name: value for name, value in config.items() if isinstance(value, str)}
    layer = _layer(checkpoint.headers)
    assert layer is not None
    to = int(checkpoint.options.get("to", layer))
    W_enc, W_dec, b_enc, b_dec = take(checkpoint, stored, "W_enc", "W_dec", "b_enc", "b_dec", optional=("threshold",))
    weights = StoredWeights(
        transposed(W_enc),
        b_enc,
        W_dec,
        b_dec,
        activation="jumprelu" if "threshold" in stored else "relu",
        threshold=stored.get("threshold"),
        notes=(cross_layer_note(layer, to),),
    )
    reads = hook_of_layer(config.get("feature_input_hook"), str(layer))
    writes = hook_of_layer(config.get("feature_output_hook"), str(to))
    site = Site(reads, writes or ELSEWHERE, config.get("model_name"))
    return Entry(canonical(checkpoint, weights, site), reads, layer)


def _has(stored: Tensors) -> bool:
    return _layer(stored) is not None


CIRCUIT_TRACER_CLT = Family(
    name="circuit_tracer_clt",
    title="circuit-tracer: W_enc_{n}.safetensors, W_dec_{n}.safetensors, config.yaml",
    suffixes=(".safetensors",),
    weights=r"W_enc_\d+\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.yaml",),
    sources=_sources,
    option="to",
)
