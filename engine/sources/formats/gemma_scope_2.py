"""Gemma Scope 2: `params.safetensors` with a JumpReLU SAE for raw activations, names in lower case, and `config.json`.

`w_enc (d, F)` and `w_dec (F, d)` are in canonical form. Transcoders have an `hf_hook_point_out`, and may have an affine
connection. Some folders have no configuration: there, the name of the folder above says what is read, as in
"attn_out_all/layer_5_width_16k_l0_small".

Cross-layer transcoders have one file for each layer, "clt/width_262k_l0_medium/params_layer_5.safetensors", with
`w_dec (F, L, d)`: a decoder for each of the L layers, of which those before the own layer are not used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Piece
from saematch.sources.formats.base import Config, Entry, Family, Source, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical
from saematch.sources.formats.cross_layer import cross_layer_note, target_layer
from saematch.sources.formats.site import ELSEWHERE, Site

_CLT_LAYER = re.compile(r"layer_(\d{1,4})\.safetensors$")
_FOLDER = re.compile(r"(?:^|/)(attn_out|mlp_out|transcoder|clt|crosscoder)(?:_all)?/layer_(\d{1,4})_[^/]*/[^/]+$")
_HOOKS = {"attn_out": "self_attn.o_proj.input", "mlp_out": "post_feedforward_layernorm.output"}
_READS, _WRITES = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_AFFINE = "affine_skip_connection"


def _sources(checkpoint: Checkpoint, stored: Tensors) -> Mapping[str, Source] | None:
    """Return where the tensors of a layer of a cross-layer transcoder are; None for an SAE or a transcoder."""
    layer = _clt_layer(checkpoint, stored)
    if layer is None:
        return None
    # The bias of what is written to a layer is in the file of that layer.
    to = target_layer(checkpoint, layer, stored["w_dec"].shape[1])
    file = _CLT_LAYER.sub(f"layer_{to}.safetensors", checkpoint.name)
    if not checkpoint.location.has(file) or "b_dec" not in checkpoint.named(file).headers:
        raise checkpoint.error(f"{file} is not there, which holds the b_dec of layer {to}")
    own = {name: Source(Piece(name), checkpoint.name) for name in stored}
    return {**own, "w_dec": Source(Piece("w_dec", (None, to)), checkpoint.name), "b_dec": Source(Piece("b_dec"), file)}


def _clt_layer(checkpoint: Checkpoint, stored: Tensors) -> int | None:
    """Return the layer in the name of a file of a cross-layer transcoder; None for any other file."""
    match = _CLT_LAYER.search(checkpoint.name)
    shapes = [getattr(stored.get(name), "ndim", None) for name in ("w_enc", "w_dec")]
    return int(match[1]) if match and shapes == [2, 3] and _is_clt(checkpoint) else None


def _is_clt(checkpoint: Checkpoint) -> bool:
    """Whether the folders of a file are those of cross-layer transcoders, and not of crosscoders."""
    return bool(re.search(r"(?:^|/)clt/", checkpoint.location.address(checkpoint.name)))


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    of_clt = _clt_layer(checkpoint, checkpoint.headers)
    if of_clt is not None:
        return _entry_of_clt(checkpoint, stored, of_clt)
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


def _entry_of_clt(checkpoint: Checkpoint, stored: Tensors, layer: int) -> Entry:
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    W_enc, W_dec, b_enc, b_dec, threshold = take(checkpoint, stored, *names, optional=(_AFFINE,))
    to = int(checkpoint.options.get("to", layer))
    notes: tuple[str, ...] = (cross_layer_note(layer, to),)
    if _AFFINE in stored:
        notes += ("its affine connection is left out",)
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold, notes=notes)
    site = Site(f"model.layers.{layer}.{_READS}", f"model.layers.{to}.{_WRITES}", model="gemma-3")
    return Entry(canonical(checkpoint, weights, site), site.reads, layer)


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
)
