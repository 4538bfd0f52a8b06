"""The basis of the activations at a place in a model, by the name of the place: one table for the names of all suites.

The table knows the names of modules in Hugging Face models, as nnsight writes them too (`model.layers[5].output[0]`),
the hooks of TransformerLens and its bridge (`blocks.5.hook_resid_post`, `blocks.5.mlp.hook_in`), and the names that
suites of SAEs use themselves (`resid_post_layer_5`, `resid_delta_attn`).

All layers share the basis of the residual stream, in which a sublayer writes too: the output of attention (after W_O),
that of an MLP, and that of a layer norm which follows either. Each layer has a basis of its own in the heads of
attention before W_O, and among the neurons of an MLP. The output of a layer norm that comes before a sublayer is not a
linear map of the residual stream.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

Basis = Literal["residual", "write", "layer_norm", "attention", "neurons", "unknown"]
Side = Literal["in", "out", ""]

# The input or output of a module; a hook that says neither means the output.
_SIDE = re.compile(r"(.+)\.(?:hook_)?(in|out)(?:put)?")
# Indices as in nnsight: those of modules are parts of the name, and those of a tuple of outputs mean the first of them.
_INDEX, _FIRST_OF_TUPLE = re.compile(r"\[(\d+)\]"), re.compile(r"(\.(?:in|out)put)s?(?:\[0\])*$")


def _names(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


_ATTENTION = r"(?:self|encdec)?att(?:n|ention)?"
_MLP = r"mlp|feed_?forward|ffn?|densereludense|(?:block_sparse_)?moe"
_SUBLAYER = _names(rf"(?:^|[._])(?:{_ATTENTION}|{_MLP}|mixer)$")
# The first matrices of a sublayer: their input is the layer-normed input of the sublayer.
_FIRST = _names(
    r"(?:^|[._])(?:(?:[qkv]|qkv|gate|up|gate_up)_proj|c_attn|query_key_value|w?qkv|w[qkv13]|[qkv]_lin|c_fc|fc_in|"
    r"dense_h_to_4h|fc1|lin(?:ear)?1|wi(?:_\d)?|att(?:n|ention)?\.(?:[qkv]|qkv)|mlp\.(?:in|gate))(?:$|[._])"
)
# The last matrices of a sublayer: their output is added to the residual stream.
_LAST = _names(
    r"(?:^|[._])(?:(?:o|out|down|c)_proj|(?<!intermediate\.)dense|dense_4h_to_h|fc2|fc_out|lin(?:ear)?2|out_lin|w2|wo|"
    rf"{_ATTENTION}\.(?:o|proj)|mlp\.out)(?:$|[._])"
)
_HEADS = _names(
    r"hook_(?:[qkvz]|rot_[qk]|result|pattern|attn_scores)(?![a-z])|"
    r"(?:^|[._])(?:(?:[qkvo]|qkv|out)_proj|c_attn|query_key_value|w?qkv|w[qkv]|[qkv]_lin|out_lin)(?:$|[._])|"
    rf"(?:^|[._]){_ATTENTION}\."
)
_NEURONS = _names(
    r"act(?:ivation)?_fn|mlp_post_act|(?:^|[._])intermediate|(?:^|[._])(?:(?:gate|up|gate_up|down)_proj|c_fc|fc_(?:in|out)|"
    r"dense_h_to_4h|dense_4h_to_h|fc[12]|lin(?:ear)?[12]|w[123]|wi(?:_\d)?|wo)(?:$|[._])|"
    rf"(?:^|[._])(?:{_MLP})\."
)
_NORM = _names(r"hook_normalized|(?:layer|rms)_?norm|norm[^.]*$|(?:^|\.)ln_?\w*$")
_NORM_AFTER = _names(r"post_(?:feed_?forward|ffw?|mlp|self_attn|per_layer_input)_?(?:layer_?)?norm$|(?:^|\.)ln\d_post$")
# A norm of this name follows attention in the models of `_NORMS_AFTER`; in Llama, Qwen, Pythia and others it comes
# before the MLP.
_NORM_AFTER_ATTENTION = _names(r"post_att(?:n|ention)_?(?:layer_?)?norm$")
_NORMS_AFTER = _names(r"(?:gemma|olmo)[-_]?(?:3n|[2-9])(?![0-9.]*b)")
_WRITE = _names(r"(?:att(?:n|ention)?|mlp)_out|resid_delta")
_RESIDUAL = _names(r"resid_(?:pre|mid|post)")
_STREAM = _names(r"resid|embed|wte|(?:^|[._])(?:layers?|(?:res)?blocks?|h)[._]?\d+$|(?:att(?:n|ention)?|mlp)_in")


class _Row(NamedTuple):
    """One row of the table: the basis at places whose name has a part that matches.

    Attributes:
        basis: the basis.
        names: the names of modules and hooks.
        sides: the sides of a module for which the row holds.
        models: the models for which the row holds; None for all.
    """

    basis: Basis
    names: re.Pattern[str]
    sides: tuple[Side, ...] = ("in", "out", "")
    models: re.Pattern[str] | None = None


# The first row that matches says the basis.
_TABLE = (
    _Row("residual", _RESIDUAL),
    _Row("layer_norm", _SUBLAYER, ("in",)),
    _Row("layer_norm", _FIRST, ("in",)),
    _Row("write", _LAST, ("out",)),
    _Row("attention", _HEADS),
    _Row("neurons", _NEURONS),
    _Row("write", _NORM_AFTER),
    _Row("write", _NORM_AFTER_ATTENTION, models=_NORMS_AFTER),
    _Row("residual", _NORM, ("in",)),
    _Row("layer_norm", _NORM),
    _Row("write", _SUBLAYER, ("out", "")),
    _Row("write", _WRITE),
    _Row("residual", _STREAM),
)


def basis_of(hook: str, model: Any = None) -> Basis:
    """Return the basis of the activations at a hook, "unknown" for a hook of an unknown name.

    Args:
        hook: the name of the hook or module, with ".input" or ".output" if it says the side of a module.
        model: the name of the model, which may tell where a layer norm is.

    >>> basis_of("blocks.5.hook_resid_post"), basis_of("blocks.5.hook_mlp_out"), basis_of("blocks.5.attn.hook_z")
    ('residual', 'write', 'attention')
    """
    module, side = _split(hook)
    for row in _TABLE:
        fits = side in row.sides and (row.models is None or row.models.search(str(model)))
        if fits and row.names.search(module):
            return row.basis
    return "unknown"


def depends_on_model(hook: str) -> bool:
    """Whether the basis at a hook is another in other models."""
    return bool(_NORM_AFTER_ATTENTION.search(_split(hook)[0]))


def _split(hook: str) -> tuple[str, Side]:
    """Split a hook into a module and the side of the module that is read; "" if the hook names no side."""
    name = _INDEX.sub(r".\1", _FIRST_OF_TUPLE.sub(r"\1", hook))
    match = _SIDE.fullmatch(name)
    if match is None:
        return name, ""
    return match[1], "in" if match[2] == "in" else "out"
