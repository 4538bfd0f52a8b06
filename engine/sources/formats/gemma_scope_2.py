"""Gemma Scope 2: `params.safetensors` with a JumpReLU SAE for raw activations, names in lower case, and `config.json`.

`w_enc (d, F)` and `w_dec (F, d)` are in canonical form. Transcoders have an `hf_hook_point_out`, and may have an affine
connection. Some folders have no configuration: there, the name of the folder above says what is read, as in
"attn_out_all/layer_5_width_16k_l0_small".

Cross-layer transcoders have one file for each layer, "clt/width_262k_l0_medium/params_layer_5.safetensors", with
`w_dec (F, L, d)`: a decoder for each of the L layers, of which those before the own layer are not used. Crosscoders
have the same files for four layers of the residual stream, numbered by their places in the name of the folder: layer 17
of "crosscoder/layer_7_13_17_22_width_262k_l0_medium" is in "params_layer_2.safetensors". They are weakly causal: a
feature reads one layer, and writes it and those after it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical
from saematch.sources.formats.cross_layer import cross_layer_note, target_layer
from saematch.sources.formats.site import ELSEWHERE, Site

_PLACE = re.compile(r"params_layer_(\d{1,4})\.safetensors$")
_KINDS = {"clt": "cross-layer transcoder", "crosscoder": "weakly causal crosscoder"}
# The folders of files of several layers, with the layers of a crosscoder; and these layers in the names of hooks.
_SEVERAL = re.compile(r"(?:^|/)(?:(clt)|(crosscoder)/layer_((?:\d{1,4}_)*\d{1,4})_[^/]*)/")
_IN_HOOK = re.compile(r"\{([^{}]*)\}")
_FOLDER = re.compile(r"(?:^|/)(attn_out|mlp_out|transcoder|clt|crosscoder)(?:_all)?/layer_(\d{1,4})_[^/]*/[^/]+$")
_HOOKS = {"attn_out": "self_attn.o_proj.input", "mlp_out": "post_feedforward_layernorm.output"}
_READS, _WRITES = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_AFFINE = "affine_skip_connection"


class _View(NamedTuple):
    """One layer of a cross-layer transcoder or a crosscoder.

    Attributes:
        kind: the key of `_KINDS`.
        layers: the layers of all files.
        place: the place of the layer among them.
        hooks: the hooks that are read and written, with braces in place of the number of the layer.
    """

    kind: str
    layers: Sequence[int]
    place: int
    hooks: tuple[str, str]

    def target(self, checkpoint: Checkpoint) -> int:
        """Return the layer that is written, as the address says it. Raises `MatchError` if it is not written."""
        return target_layer(checkpoint, self.layers[self.place :])


def _view(checkpoint: Checkpoint, stored: Tensors) -> _View | None:
    """Return which layer of a cross-layer transcoder or crosscoder a file holds; None for any other file."""
    place = _PLACE.search(checkpoint.name)
    shapes = [getattr(stored.get(name), "ndim", None) for name in ("w_enc", "w_dec")]
    if place is None or shapes != [2, 3]:
        return None
    # The kind and the layers are in the configuration, or else in the names of the folders.
    config = checkpoint.config(GEMMA_SCOPE_2.found_config(checkpoint))
    folder = _SEVERAL.search(checkpoint.location.address(checkpoint.name))
    kind = str(config.get("type") or (folder and (folder[1] or folder[2])))
    if kind not in _KINDS:
        return None
    ends = (_READS, _WRITES) if kind == "clt" else ("output", "output")
    reads = config.get("hf_hook_point_in") or f"model.layers.{{}}.{ends[0]}"
    writes = config.get("hf_hook_point_out") or f"model.layers.{{}}.{ends[1]}"
    count = stored["w_dec"].shape[1]
    layers: Sequence[int] = range(count)
    if kind == "crosscoder":
        named = _IN_HOOK.search(reads)
        text = (named and named[1]) or (folder and folder[3]) or ""
        layers = [int(number) for number in re.findall(r"\d{1,4}", text)]
    if len(layers) != count or (kind == "crosscoder" and layers != sorted(set(layers))) or int(place[1]) >= count:
        raise checkpoint.error(
            f"its w_dec has {count} layers, and neither config.json nor the name of its folder says which"
        )
    return _View(kind, layers, int(place[1]), (reads, writes))


def _layers(checkpoint: Checkpoint, stored: Tensors) -> Sequence[int]:
    view = _view(checkpoint, stored)
    return () if view is None else (view.layers[view.place],)


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source] | None:
    """Return where the tensors of a layer of several are; None for an SAE or a transcoder."""
    view = _view(checkpoint, stored)
    if view is None:
        return None
    # The bias of what is written to a layer is in the file of that layer.
    to = view.target(checkpoint)
    place = view.layers.index(to)
    file = _PLACE.sub(f"params_layer_{place}.safetensors", checkpoint.name)
    if not checkpoint.location.has(file) or "b_dec" not in checkpoint.named(file).headers:
        raise checkpoint.error(f"{file} is not there, which holds the b_dec of layer {to}")
    own = {name: Source(Piece(name), checkpoint.name) for name in stored}
    decoder = Source(Piece("w_dec", (None, place)), checkpoint.name)
    return {**own, "w_dec": decoder, "b_dec": Source(Piece("b_dec"), file)}


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    view = _view(checkpoint, checkpoint.headers)
    if view is not None:
        return _entry_of_view(checkpoint, stored, view)
    config = config or _inferred_config(checkpoint)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise checkpoint.error(f"architecture {config['architecture']!r}; Gemma Scope 2 has jump_relu only")
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    W_enc, W_dec, b_enc, b_dec, threshold = take(checkpoint, stored, *names, optional=(_AFFINE,))
    # What the SAE reads and writes, as far as the configuration says it.
    hook, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    kind = str(config.get("type") or "sae").lower()
    if kind in ("clt", "crosscoder"):
        raise checkpoint.error(f"a {kind}: a feature reads or writes several layers, and does not have one row")
    if (kind != "sae" or _AFFINE in stored) and writes in (None, hook):
        writes = ELSEWHERE
    # The SAE, its layer and its L0.
    notes = ("its affine connection is left out",) if _AFFINE in stored else ()
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold, notes=notes)
    sae = canonical(checkpoint, weights, Site(hook, writes, model="gemma-3"))
    layer, l0 = re.search(r"layers\.(\d{1,4})\b", str(hook)), config.get("l0")
    return Entry(
        sae,
        hook,
        layer=int(layer[1]) if layer else None,
        l0=float(l0) if isinstance(l0, int | float) and math.isfinite(l0) else None,
    )


def _entry_of_view(checkpoint: Checkpoint, stored: Tensors, view: _View) -> Entry:
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    W_enc, W_dec, b_enc, b_dec, threshold = take(checkpoint, stored, *names, optional=(_AFFINE,))
    layer, to = view.layers[view.place], view.target(checkpoint)
    notes: tuple[str, ...] = (cross_layer_note(layer, to, _KINDS[view.kind]),)
    if _AFFINE in stored:
        notes += ("its affine connection is left out",)
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold, notes=notes)
    reads, writes = (_IN_HOOK.sub(str(at), hook) for hook, at in zip(view.hooks, (layer, to), strict=True))
    return Entry(canonical(checkpoint, weights, Site(reads, writes, model="gemma-3")), reads, layer)


def _inferred_config(checkpoint: Checkpoint) -> Config:
    """Return what a configuration would say, from the names of the folders in which the files are published."""
    match = _FOLDER.search(checkpoint.location.address(checkpoint.name))
    if match is None:
        return {}
    site, layer = match[1], f"model.layers.{match[2]}"
    if site in _HOOKS:
        return {"hf_hook_point_in": f"{layer}.{_HOOKS[site]}"}
    return {"type": site, "hf_hook_point_in": f"{layer}.{_READS}", "hf_hook_point_out": f"{layer}.{_WRITES}"}


def _has(stored: Tensors) -> bool:
    return {"w_enc", "w_dec"} <= stored.keys()


GEMMA_SCOPE_2 = Family(
    name="gemma_scope_2",
    title="Gemma Scope 2: params.safetensors, config.json",
    suffixes=(".safetensors",),
    weights=r"params(_layer_\d+)?\.safetensors",
    has=_has,
    entry=_entry,
    config=("config.json",),
    sources=_sources,
    option="to",
    layers=_layers,
)
