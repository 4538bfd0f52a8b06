"""Where in a model an SAE reads, and whether its weights can be compared with those of another layer there.

They can where all layers share a basis: in the residual stream, and in what a sublayer adds to it, which is the output
of attention (after W_O) and of an MLP, and of a layer norm that follows either. They cannot where each layer has a
basis of its own: in the heads of attention before W_O, and among the neurons of an MLP. Nor can they after a layer norm
that comes before a sublayer, since its output is not a linear map of the residual stream.
"""

from __future__ import annotations

import re
from typing import Any

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.places import LocalFolder

_SIDE = re.compile(r"(.+)\.(?:hook_)?(in|out)(?:put)?")  # of a module; without one, its output is meant
_SUBLAYER = re.compile(
    r"(?:^|[._])(?:(?:self|encdec)?att(?:n|ention)?|mlp|feed_?forward|ffn?|densereludense|(?:block_sparse_)?moe)$",
    re.IGNORECASE,
)
_FIRST = re.compile(  # matrices of a sublayer whose input is its layer-normed input
    r"(?:^|[._])(?:(?:[qkv]|qkv|gate|up|gate_up)_proj|c_attn|query_key_value|w?qkv|w[qkv13]|[qkv]_lin|c_fc|fc_in|"
    r"dense_h_to_4h|fc1|lin(?:ear)?1|wi(?:_\d)?|att(?:n|ention)?\.(?:[qkv]|qkv)|mlp\.(?:in|gate))(?:$|[._])",
    re.IGNORECASE,
)
_LAST = re.compile(  # matrices whose output a sublayer adds to the residual stream
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
# In these models this norm follows attention; in Llama, Qwen, Pythia and others it comes before the MLP.
_NORM_AFTER_ATTENTION = re.compile(r"post_att(?:n|ention)_?(?:layer_?)?norm$", re.IGNORECASE)
_NORMS_AFTER = re.compile(r"(?:gemma|olmo)[-_]?(?:3n|[2-9])(?![0-9.]*b)", re.IGNORECASE)
# Without a configuration: names of repositories and folders.
_PUBLISHED = re.compile(r"gemma-scope-\d+b-(?:pt|it)-(res|mlp|att|transcoders)$")
_INSIDE = re.compile(r"layer_\d+|width_\w+|average_l0_\w+|embedding|canonical|snapshots|[0-9a-f]{40}")  # of such
_NAMED = {
    "attention": re.compile(r"^(?!.*resid).*(?:^|[-_.])(?:hook_z|o_proj|att(?:n|ention)?)$", re.IGNORECASE),
    "neurons": re.compile(r"mlp_post_act|hook_post$|act_fn$", re.IGNORECASE),
    "transcoder": re.compile(r"(?:^|[-_.])(?:(?:trans|cross)coders?|clt|tc)$", re.IGNORECASE),
}
_PUBLISHED_AS = {"att": "attention", "transcoders": "transcoder"}


def check_site(at: Checkpoint, hook: str | None, writes: str | None, model: Any = None) -> tuple[str, ...]:
    """Refuse SAEs that cannot be compared for what they read or write, unless `?allow=` permits it.

    Args:
        hook: what it reads; None if its files do not say it, and names of folders and repositories have to.
        writes: what it reconstructs, where that is something else.
        model: the name of the model, which may tell where a layer norm is.

    Returns the notes for what was permitted, or seems doubtful. Raises `MatchError`.
    """
    found, shown, notes = (why_not(hook, model), hook, ()) if hook else _named(at)
    if found == "attention":
        at.refuse_unless_allowed(found, f"it reads attention ({shown}): every layer has a basis of its own there")
        notes += ("attention: every layer has a basis of its own",)
    if found == "neurons":
        at.refuse_unless_allowed(found, f"it reads the neurons of an MLP ({shown}), which every layer has of its own")
        notes += ("neurons of an MLP: every layer has its own",)
    if found == "layer_norm":
        unsure = " (in Gemma 2 and 3 and OLMo 2 this norm follows attention, but its files name no such model)"
        at.refuse_unless_allowed(
            found,
            f"its input is layer-normed ({shown}), no linear map of raw activations"
            + unsure * bool(_NORM_AFTER_ATTENTION.search(_sided(shown)[0])),
        )
        notes += ("its input is layer-normed: read as if it were not",)
    if (writes is not None and writes != hook) or found == "transcoder":
        read, written = hook or "one place", writes or "another place"
        at.refuse_unless_allowed("transcoder", f"a transcoder: it reads {read} and writes {written}")
        notes += (f"a transcoder: decoder and b_dec write {written}, and the encoder reads {read}",)
    if hook and found is None and not _is_known(hook):
        notes += (f"it reads {hook}, a place that is not known: compare it only if all layers share a basis there",)
    return notes


def why_not(hook: str, model: Any = None) -> str | None:
    """The name for `?allow=` of what speaks against comparing weights at a hook; None where nothing does."""
    module, side = _sided(hook)
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
    """Whether a hook that `why_not` lets pass is known to be in the basis of the residual stream."""
    module, side = _sided(hook)
    if _LAYER.search(hook) or _LAYER.search(module) or _NORM.search(module):
        return True
    return side != "in" and bool(_SUBLAYER.search(module) or _LAST.search(module))


def _sided(hook: str) -> tuple[str, str]:
    """A module, and which side of it is read; "" where the hook does not say it."""
    found = _SIDE.fullmatch(hook)
    return (found[1], found[2]) if found else (hook, "")


def _named(at: Checkpoint) -> tuple[str | None, str, tuple[str, ...]]:
    """What the names of folders and repositories say against comparing, which name says so, and notes.

    A published repository is known by its layout, wherever it lies. Else only the name of a repository, and those of
    folders below the source, are taken for what they say; that of the source's own folder is worth a note.
    """
    folders = re.split("[/@]", at.place.address(at.name))[-2::-1]
    published = _PUBLISHED.search(next((name for name in folders if not _INSIDE.fullmatch(name)), ""))
    if published:
        return _PUBLISHED_AS.get(published[1]), published.string, ()
    local = isinstance(at.place, LocalFolder)
    inside = [*([] if local else at.place.title.split("/")), *at.name.split("/")[:-1]]
    for reason, pattern in _NAMED.items():
        if found := next(filter(pattern.search, inside), None):
            return reason, found, ()
    note = f"its folder is called {at.place.title!r}, and its files do not say what it reads: if that means "
    meant = [reason for reason, pattern in _NAMED.items() if local and pattern.search(at.place.title)]
    return None, "", tuple(f"{note}{reason}, its weights cannot be compared" for reason in meant)
