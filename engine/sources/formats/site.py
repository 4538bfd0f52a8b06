"""The places in a model that an SAE reads and writes, and whether its weights can be compared with another layer's.

Weights can be compared where all layers share a basis, see `basis.py`: in the residual stream, and in what a sublayer
adds to it. A transcoder can be compared by the side that is there: by its decoder if its encoder reads another basis.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from saematch.sae.spaces import WHY, Barrier, Space
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.basis import basis_of, depends_on_model
from saematch.sources.locations import LocalLocation

ELSEWHERE = "another place"  # what a transcoder reads or writes if its files do not say it
# Names of repositories and folders, for files without a configuration.
_PUBLISHED = re.compile(r"gemma-scope-\d+b-(?:pt|it)-(res|mlp|att|transcoders)$")
_INSIDE = re.compile(  # folders in such a repository
    r"layer_\d+|width_\w+|average_l0_\w+|embedding|canonical|snapshots|[0-9a-f]{40}"
)
_LAYER = re.compile(r"(?:^|/)layer_(\d{1,4})/")
_NAMED = {
    "attention": re.compile(r"^(?!.*resid).*(?:^|[-_.])(?:hook_z|o_proj|att(?:n|ention)?)$", re.IGNORECASE),
    "neurons": re.compile(r"mlp_post_act|hook_post$|act_fn$", re.IGNORECASE),
    "transcoder": re.compile(r"(?:^|[-_.])(?:(?:trans|cross)coders?|clt|tc)$", re.IGNORECASE),
}
_READ_WITH = {
    "attention": "attention: every layer has a basis of its own",
    "neurons": "neurons of an MLP: every layer has its own",
    "layer_norm": "its input is layer-normed: read as if it were not",
}


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
        return self.writes == ELSEWHERE or (self.writes is not None and self.writes != self.reads)


class Spaces(NamedTuple):
    """The spaces that an SAE reads and writes, and notes for what `?allow=` permits and for what is doubtful."""

    reads: Space = Space()
    writes: Space = Space()
    notes: tuple[str, ...] = ()


def spaces_of(checkpoint: Checkpoint, site: Site) -> Spaces:
    """Return the spaces that an SAE reads and writes.

    Raises:
        MatchError: if the SAE cannot be compared with that of another layer by any side, because of what it reads or
            writes, unless `?allow=` permits to read the SAE nevertheless.
    """
    for place in (site.reads, site.writes):
        if not isinstance(place, str | None):
            raise checkpoint.error(f"its configuration names {str(place)[:40]} where the name of a place is expected")
    notes: tuple[str, ...] = ()
    if site.reads is None and not site.transcodes:
        reason, named, notes = _reason_in_names(checkpoint)
        if reason != "transcoder":
            return Spaces(notes=notes + _refusals(checkpoint, reason, named))
        site = _site_of_transcoder(checkpoint, named)
    if site.transcodes:
        return _spaces_of_transcoder(checkpoint, site)
    reads = str(site.reads)
    notes = _refusals(checkpoint, _barrier(reads, site.model), reads) + _doubt("reads", reads, site.model)
    return Spaces(Space(reads), Space(reads), notes)


def _spaces_of_transcoder(checkpoint: Checkpoint, site: Site) -> Spaces:
    """Return the spaces of a transcoder, which can be compared by one side if only the other is in another basis."""
    reads, writes = site.reads or "one place", str(site.writes)
    notes: tuple[str, ...] = (f"a transcoder: decoder and b_dec write {writes}, and the encoder reads {reads}",)
    if site.reads is None or writes == ELSEWHERE:
        why = f"a transcoder: it reads {reads} and writes {writes}, and its files do not say more of these places"
        checkpoint.refuse_unless_allowed("transcoder", why)
    sides = {"reads": reads, "writes": writes}
    barriers = {verb: _barrier(place, site.model) for verb, place in sides.items()}
    refused = all(barriers.values())
    for verb, place in sides.items():
        barrier = barriers[verb]
        if barrier and (refused or barrier in checkpoint.allowed):
            notes += _refusals(checkpoint, barrier, place, verb)
            barriers[verb] = None
        elif barrier:
            left = "decoder" if verb == "reads" else "encoder"
            notes += (f"only its {left} can be compared with another layer's: it {verb} {place}, and {WHY[barrier]}",)
        notes += _doubt(verb, place, site.model)
    return Spaces(Space(site.reads, barriers["reads"]), Space(writes, barriers["writes"]), notes)


def _barrier(hook: str, model: Any) -> Barrier | None:
    """Return the reason against comparing weights at a hook with those at another; None if there is none."""
    basis = basis_of(hook, model)
    return basis if basis in ("attention", "layer_norm", "neurons") else None


def _doubt(verb: str, hook: str, model: Any) -> tuple[str, ...]:
    """Return a note for a hook of an unknown name, which may be anywhere."""
    if " " in hook or basis_of(hook, model) != "unknown":
        return ()
    return (f"it {verb} {hook}, a place that is not known: compare it only if all layers share a basis there",)


def _refusals(checkpoint: Checkpoint, reason: str | None, named: str, verb: str = "reads") -> tuple[str, ...]:
    """Raise `MatchError` for a reason against a comparison, or return a note if `?allow=` permits it.

    Args:
        checkpoint: the file of the SAE.
        reason: the reason, by its name for `?allow=`; None if there is none.
        named: the name of a hook, folder or repository that gives the reason.
        verb: what the SAE does at that place.
    """
    if reason is None:
        return ()
    if reason == "attention":
        why = f"it {verb} attention ({named}), where every layer has a basis of its own"
    elif reason == "neurons":
        why = f"it {verb} the neurons of an MLP ({named}), and every layer has its own neurons"
    else:
        what = "its input" if verb == "reads" else "what it writes"
        why = f"{what} is layer-normed ({named}), which is not a linear map of raw activations"
        if depends_on_model(named):
            why += " (in Gemma 2 and 3 and OLMo 2 this norm follows attention, but its files name no such model)"
    checkpoint.refuse_unless_allowed(reason, why)
    return (_READ_WITH[reason],)


def _reason_in_names(checkpoint: Checkpoint) -> tuple[str | None, str, tuple[str, ...]]:
    """Return the reason that names of folders and repositories give against a comparison, that name, and notes.

    A published repository is recognised by its layout, in any folder. Otherwise, the name of a repository and the names
    of folders below the source are trusted, and the name of the source's own folder is worth a note only.
    """
    location = checkpoint.location
    folders = re.split("[/@]", location.address(checkpoint.name))[-2::-1]
    published = _PUBLISHED.search(next((name for name in folders if not _INSIDE.fullmatch(name)), ""))
    if published:
        return {"att": "attention", "transcoders": "transcoder"}.get(published[1]), published.string, ()
    local = isinstance(location, LocalLocation)
    inside = [*([] if local else location.title.split("/")), *checkpoint.name.split("/")[:-1]]
    for reason, pattern in _NAMED.items():
        if name := next(filter(pattern.search, inside), None):
            return reason, name, ()
    meant = [reason for reason, pattern in _NAMED.items() if local and pattern.search(location.title)]
    note = f"its folder is called {location.title!r}, and its files do not say what it reads: if that means "
    return None, "", tuple(f"{note}{reason}, its weights cannot be compared" for reason in meant)


def _site_of_transcoder(checkpoint: Checkpoint, named: str) -> Site:
    """Return the places of a transcoder that only a name tells to be one.

    Those of Gemma Scope read what follows the layer norm before the MLP, without its weights, and write the output of
    the MLP (arXiv 2408.05147; circuit-tracer calls these places by the same names).
    """
    layers = _LAYER.findall(checkpoint.location.address(checkpoint.name))
    if _PUBLISHED.search(named) and layers:
        return Site(f"blocks.{layers[-1]}.ln2.hook_normalized", f"blocks.{layers[-1]}.hook_mlp_out")
    return Site(None, ELSEWHERE)
