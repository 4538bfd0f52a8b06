"""The places in a model that an SAE reads and writes, and whether its weights can be compared with another layer's.

Weights can be compared where all layers share a basis, see `basis.py`: in the residual stream, and in what a sublayer
adds to it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.basis import Basis, basis_of, depends_on_model
from saematch.sources.locations import LocalLocation

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
    basis: Basis = "residual"
    reason: str | None
    if site.reads:
        basis, named = basis_of(site.reads, site.model), site.reads
        reason = basis
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
        if depends_on_model(named):
            why += " (in Gemma 2 and 3 and OLMo 2 this norm follows attention, but its files name no such model)"
        checkpoint.refuse_unless_allowed(reason, why)
        notes += ("its input is layer-normed: read as if it were not",)
    if site.transcodes or reason == "transcoder":
        reads, writes = site.reads or "one place", site.writes or "another place"
        checkpoint.refuse_unless_allowed("transcoder", f"a transcoder: it reads {reads} and writes {writes}")
        notes += (f"a transcoder: decoder and b_dec write {writes}, and the encoder reads {reads}",)
    # A hook of an unknown name may be anywhere.
    if basis == "unknown":
        notes += (
            f"it reads {site.reads}, a place that is not known: compare it only if all layers share a basis there",
        )
    return notes


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
