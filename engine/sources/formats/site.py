"""The places in a model that an SAE reads and writes, and whether its weights can be compared with another layer's.

Weights can be compared where all layers share a basis: in the residual stream, and in what a sublayer adds to the
residual stream, which is the output of attention (after W_O) or of an MLP, or of a layer norm that follows either.

Weights cannot be compared where each layer has a basis of its own: in the heads of attention before W_O, and among the
neurons of an MLP. Nor can they be compared after a layer norm that comes before a sublayer, because its output is not a
linear map of the residual stream.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.locations import LocalLocation

# The input or output of a module; a hook that says neither means the output.
_SIDE = re.compile(r"(.+)\.(?:hook_)?(in|out)(?:put)?")
_SUBLAYER = re.compile(
    r"(?:^|[._])(?:(?:self|encdec)?att(?:n|ention)?|mlp|feed_?forward|ffn?|densereludense|(?:block_sparse_)?moe)$",
    re.IGNORECASE,
)
# The first matrices of a sublayer: their input is the layer-normed input of the sublayer.
_FIRST = re.compile(
    r"(?:^|[._])(?:(?:[qkv]|qkv|gate|up|gate_up)_proj|c_attn|query_key_value|w?qkv|w[qkv13]|[qkv]_lin|c_fc|fc_in|"
    r"dense_h_to_4h|fc1|lin(?:ear)?1|wi(?:_\d)?|att(?:n|ention)?\.(?:[qkv]|qkv)|mlp\.(?:in|gate))(?:$|[._])",
    re.IGNORECASE,
)
# The last matrices of a sublayer: their output is added to the residual stream.
_LAST = re.compile(
    r"(?:^|[._])(?:(?:o|out|down|c)_proj|(?<!intermediate\.)dense|dense_4h_to_h|fc2|fc_out|lin(?:ear)?2|out_lin|w2|wo|"
    r"(?:self|encdec)?att(?:n|ention)?\.o|mlp\.out)(?:$|[._])",
    re.IGNORECASE,
)
_HEADS = re.compile(
    r"hook_(?:[qkvz]|rot_[qk]|result|pattern|attn_scores)(?![a-z])|"
    r"(?:^|[._])(?:(?:[qkvo]|qkv|out)_proj|c_attn|query_key_value|w?qkv|w[qkv]|[qkv]_lin|out_lin)(?:$|[._])|"
    r"(?:^|[._])(?:self|encdec)?att(?:n|ention)?\.",
    re.IGNORECASE,
)
_NEURONS = re.compile(
    r"act(?:ivation)?_fn|mlp_post_act|(?:^|[._])intermediate|(?:^|[._])(?:(?:gate|up|gate_up|down)_proj|c_fc|fc_(?:in|out)|"
    r"dense_h_to_4h|dense_4h_to_h|fc[12]|lin(?:ear)?[12]|w[123]|wi(?:_\d)?|wo)(?:$|[._])|"
    r"(?:^|[._])(?:mlp|feed_?forward|ffn?|densereludense|(?:block_sparse_)?moe)\.",
    re.IGNORECASE,
)
_NORM = re.compile(r"hook_normalized|(?:layer|rms)_?norm|norm[^.]*$|(?:^|\.)ln_?\w*$", re.IGNORECASE)
_LAYER = re.compile(
    r"resid|embed|wte|(?:^|[._])(?:layers?|blocks?|h)[._]?\d+$|(?:att(?:n|ention)?|mlp)_(?:in|out)", re.IGNORECASE
)
_NORM_AFTER = re.compile(
    r"post_(?:feed_?forward|ffw?|mlp|self_attn|per_layer_input)_?(?:layer_?)?norm$|(?:^|\.)ln\d_post$", re.IGNORECASE
)
# A norm of this name follows attention in the models of `_NORMS_AFTER`; in Llama, Qwen, Pythia and others it comes
# before the MLP.
_NORM_AFTER_ATTENTION = re.compile(r"post_att(?:n|ention)_?(?:layer_?)?norm$", re.IGNORECASE)
_NORMS_AFTER = re.compile(r"(?:gemma|olmo)[-_]?(?:3n|[2-9])(?![0-9.]*b)", re.IGNORECASE)
# Names of repositories and folders, for files without a configuration.
_PUBLISHED = re.compile(r"gemma-scope-\d+b-(?:pt|it)-(res|mlp|att|transcoders)$")
_INSIDE = re.compile(  # folders in such a repository
    r"layer_\d+|width_\w+|average_l0_\w+|embedding|canonical|snapshots|[0-9a-f]{40}"
)
_NAMED = {
    "attention": re.compile(r"^(?!.*resid).*(?:^|[-_.])(?:hook_z|o_proj|att(?:n|ention)?)$", re.IGNORECASE),
    "neurons": re.compile(r"mlp_post_act|hook_post$|act_fn$", re.IGNORECASE),
    "transcoder": re.compile(r"(?:^|[-_.])(?:(?:trans|cross)coders?|clt|tc)$", re.IGNORECASE),
}
_PUBLISHED_AS = {"att": "attention", "transcoders": "transcoder"}


class Site(NamedTuple):
    """The places in a model that an SAE reads and writes, as far as its files say them.

    Attributes:
        reads: the hook whose activations the encoder sees; None if only names of folders and repositories may say it.
        writes: the hook whose activations the decoder reconstructs; None if it is `reads`.
        model: the name of the model, which may tell where a layer norm is.
    """

    reads: str | None = None
    writes: str | None = None
    model: Any = None

    @property
    def transcodes(self) -> bool:
        """Whether the decoder reconstructs other activations than the encoder sees."""
        return self.writes is not None and self.writes != self.reads


def check_site(checkpoint: Checkpoint, site: Site) -> tuple[str, ...]:
    """Refuse an SAE that cannot be compared with another layer's, because of what it reads or writes.

    Returns:
        Notes for what `?allow=` permits, and for what is doubtful.

    Raises:
        MatchError: unless `?allow=` permits to read the SAE nevertheless.
    """
    # The reason against a comparison, the name that gives the reason, and notes.
    notes: tuple[str, ...] = ()
    if site.reads:
        reason, named = why_not(site.reads, site.model), site.reads
    else:
        reason, named, notes = _reason_in_names(checkpoint)
    # Each reason that `?allow=` permits becomes a note.
    if reason == "attention":
        why = f"it reads attention ({named}), where every layer has a basis of its own"
        checkpoint.refuse_unless_allowed(reason, why)
        notes += ("attention: every layer has a basis of its own",)
    if reason == "neurons":
        why = f"it reads the neurons of an MLP ({named}), and every layer has its own neurons"
        checkpoint.refuse_unless_allowed(reason, why)
        notes += ("neurons of an MLP: every layer has its own",)
    if reason == "layer_norm":
        why = f"its input is layer-normed ({named}), which is not a linear map of raw activations"
        if _NORM_AFTER_ATTENTION.search(_split_side(named)[0]):
            why += " (in Gemma 2 and 3 and OLMo 2 this norm follows attention, but its files name no such model)"
        checkpoint.refuse_unless_allowed(reason, why)
        notes += ("its input is layer-normed: read as if it were not",)
    if site.transcodes or reason == "transcoder":
        reads, writes = site.reads or "one place", site.writes or "another place"
        checkpoint.refuse_unless_allowed("transcoder", f"a transcoder: it reads {reads} and writes {writes}")
        notes += (f"a transcoder: decoder and b_dec write {writes}, and the encoder reads {reads}",)
    # A hook of an unknown name may be anywhere.
    if site.reads and reason is None and not _is_known(site.reads):
        notes += (
            f"it reads {site.reads}, a place that is not known: compare it only if all layers share a basis there",
        )
    return notes


def why_not(hook: str, model: Any = None) -> str | None:
    """Return the reason against comparing weights at a hook, by its name for `?allow=`; None if there is none.

    >>> why_not("blocks.5.hook_resid_post"), why_not("blocks.5.attn.hook_z"), why_not("blocks.5.mlp.hook_post")
    (None, 'attention', 'neurons')
    """
    module, side = _split_side(hook)
    if side == "in" and (_SUBLAYER.search(module) or _FIRST.search(module)):
        return "layer_norm"
    if side == "out" and _LAST.search(module):
        return None
    if _HEADS.search(module):
        return "attention"
    if _NEURONS.search(module):
        return "neurons"
    if side == "in" or not _NORM.search(module) or _NORM_AFTER.search(module):
        return None
    after = _NORM_AFTER_ATTENTION.search(module) and _NORMS_AFTER.search(str(model))
    return None if after else "layer_norm"


def _is_known(hook: str) -> bool:
    """Whether a hook that `why_not` accepts is known to be in the basis of the residual stream."""
    module, side = _split_side(hook)
    if _LAYER.search(hook) or _LAYER.search(module) or _NORM.search(module):
        return True
    return side != "in" and bool(_SUBLAYER.search(module) or _LAST.search(module))


def _split_side(hook: str) -> tuple[str, str]:
    """Split a hook into a module and the side of the module that is read; "" if the hook names no side."""
    match = _SIDE.fullmatch(hook)
    return (match[1], match[2]) if match else (hook, "")


def _reason_in_names(checkpoint: Checkpoint) -> tuple[str | None, str, tuple[str, ...]]:
    """Return the reason that names of folders and repositories give against a comparison, that name, and notes.

    A published repository is recognised by its layout, in any folder. Otherwise, the name of a repository and the names
    of folders below the source are trusted, and the name of the source's own folder is worth a note only.
    """
    location = checkpoint.location
    folders = re.split("[/@]", location.address(checkpoint.name))[-2::-1]
    published = _PUBLISHED.search(next((name for name in folders if not _INSIDE.fullmatch(name)), ""))
    if published:
        return _PUBLISHED_AS.get(published[1]), published.string, ()
    local = isinstance(location, LocalLocation)
    inside = [*([] if local else location.title.split("/")), *checkpoint.name.split("/")[:-1]]
    for reason, pattern in _NAMED.items():
        if name := next(filter(pattern.search, inside), None):
            return reason, name, ()
    meant = [reason for reason, pattern in _NAMED.items() if local and pattern.search(location.title)]
    note = f"its folder is called {location.title!r}, and its files do not say what it reads: if that means "
    return None, "", tuple(f"{note}{reason}, its weights cannot be compared" for reason in meant)
