"""Cross-layer transcoders of llamascopium, one layer at a time: `sae_weights.safetensors` and `config.json`.

One file holds all L layers: `W_E (L, d, F)`, `b_E (L, F)`, and for each of them `W_D.{j} (j + 1, F, d)`, the decoders
of the first j + 1 layers to it, and `b_D.{j} (d,)`. The configuration has a hook for each layer, whose number is that
of the layer. Weights are for activations of mean norm sqrt(d), as in llamascopium's SAEs. With
`sparsity_include_decoder_norm`, the gate sees codes times the norm of all decoder rows of their feature together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical, in_float64
from saematch.sources.formats.cross_layer import cross_layer_note, target_layer
from saematch.sources.formats.llama_scope import NORMS, hook_points, stored_scales
from saematch.sources.formats.llamascopium import LOG_THRESHOLD

_OTHER = "decoder "  # to a layer that is not asked for; its norms are needed


def _layers(checkpoint: Checkpoint, stored: Tensors) -> Sequence[int]:
    """Return the numbers of the layers: those in the names of their hooks, or else their places in the file."""
    _check_shapes(checkpoint, stored)
    hooks = checkpoint.config(LLAMASCOPIUM_CLT.config_name(checkpoint)).get("hook_points_in")
    count = stored["W_E"].shape[0]
    if not isinstance(hooks, list) or len(hooks) != count:
        raise checkpoint.error(f"its W_E has {count} layers, and its config.json does not name {count} hook_points_in")
    named = [re.findall(r"\bblocks\.(\d{1,4})\.", str(hook)) for hook in hooks]
    numbers = [int(found[0]) for found in named if found]
    return numbers if len(set(numbers)) == count and numbers == sorted(numbers) else range(count)


def _place(checkpoint: Checkpoint, layers: Sequence[int]) -> int:
    """Return the place in the file of the layer that the address names. Raises `MatchError` if it names none."""
    asked = checkpoint.options.get("layer")
    if asked is None and len(layers) == 1:
        return 0
    if asked is None:
        raise checkpoint.error(
            f"a cross-layer transcoder of {len(layers)} layers in one file; write ?layer=… after the path of the file, "
            "in a folder that is not named after a layer"
        )
    return layers.index(int(asked))


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source]:
    layers = _layers(checkpoint, stored)
    place = _place(checkpoint, layers)
    to = layers.index(target_layer(checkpoint, layers[place:]))

    def decoder(target: int) -> Source:
        return Source(Piece(f"W_D.{target}", (place,)), checkpoint.name)

    of_layer = [name for name in ("W_E", "b_E", LOG_THRESHOLD) if name in stored]
    sources = {name: Source(Piece(name, (place,)), checkpoint.name) for name in of_layer}
    sources |= {"W_D": decoder(to), "b_D": Source(Piece(f"b_D.{to}"), checkpoint.name)}
    sources |= {name: Source(Piece(name), checkpoint.name) for name in stored if name.startswith(NORMS)}
    config = checkpoint.config(LLAMASCOPIUM_CLT.config_name(checkpoint))
    if _gate_sees_norms(config):
        sources |= {f"{_OTHER}{target}": decoder(target) for target in range(place, len(layers)) if target != to}
    return sources


def _check_shapes(checkpoint: Checkpoint, stored: Tensors) -> None:
    """Raise `MatchError` unless the tensors have the shapes of one cross-layer transcoder."""
    L, d, F = stored["W_E"].shape
    expected: dict[str, tuple[int, ...]] = {"W_E": (L, d, F), "b_E": (L, F), LOG_THRESHOLD: (L, F)}
    for layer in range(min(L, len(stored))):
        expected |= {f"W_D.{layer}": (layer + 1, F, d), f"b_D.{layer}": (d,)}
    norms = tuple(name for name in stored if name.startswith(NORMS))
    take(checkpoint, stored, *(name for name in expected if name != LOG_THRESHOLD), optional=(LOG_THRESHOLD, *norms))
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            raise checkpoint.error(f"{name} is {tuple(stored[name].shape)}, expected {shape}")


def _gate_sees_norms(config: Config) -> bool:
    return bool(config.get("sparsity_include_decoder_norm", True)) and config.get("act_fn", "relu") != "relu"


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    kind, function = config.get("sae_type", "clt"), config.get("act_fn", "relu")
    if kind != "clt":
        raise checkpoint.error(f"config.json says sae_type {str(kind)[:40]!r}; its tensors are those of a clt")
    if function not in ("relu", "jumprelu", "topk"):
        raise checkpoint.error(
            f"act_fn {str(function)[:40]!r} is not supported; supported are relu, jumprelu and topk, which see one "
            "layer and one token at a time"
        )
    limits = (LOG_THRESHOLD,) if function == "jumprelu" else ()
    others = tuple(name for name in stored if name.startswith((NORMS, _OTHER)))
    W_enc, b_enc, W_dec, b_dec, *limit = take(checkpoint, stored, "W_E", "b_E", "W_D", "b_D", *limits, optional=others)
    # The hooks of the layer that is read and of the one that is written, as if they were those of a transcoder.
    layers = _layers(checkpoint, checkpoint.headers)
    place = _place(checkpoint, layers)
    layer, to = layers[place], target_layer(checkpoint, layers[place:])
    hooks = {"in": config["hook_points_in"][place], "out": config["hook_points_out"][layers.index(to)]}
    config = {**config, **{f"hook_point_{side}": hook for side, hook in hooks.items()}}
    site, _ = hook_points(config)
    weights = StoredWeights(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        activation=function,
        threshold=in_float64(torch.exp, limit[0]) if limit else None,
        k=checkpoint.k(config.get("top_k")) if function == "topk" else None,
        scales=stored_scales(checkpoint, config, stored, b_dec),
        norm_use="gate" if _gate_sees_norms(config) else None,
        norms=_norms(stored) if _gate_sees_norms(config) else None,
        notes=(cross_layer_note(layer, to),),
    )
    return Entry(canonical(checkpoint, weights, site), site.reads, layer)


def _norms(stored: Tensors) -> Tensor:
    """Return the norm of all decoder rows of each feature together."""
    decoders = [W for name, W in stored.items() if name == "W_D" or name.startswith(_OTHER)]
    return in_float64(lambda _, *each: torch.stack([W.norm(dim=1) for W in each]).norm(dim=0), stored["b_E"], *decoders)


def _has(stored: Tensors) -> bool:
    return getattr(stored.get("W_E"), "ndim", None) == 3 and "W_D.0" in stored


LLAMASCOPIUM_CLT = Family(
    name="llamascopium_clt",
    title="llamascopium's cross-layer transcoders: sae_weights.safetensors, config.json",
    suffixes=(".safetensors", ".pt"),
    weights=r"sae_weights\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
    needs_config=True,
    sources=_sources,
    option="to",
    layers=_layers,
)
