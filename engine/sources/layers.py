"""One SAE a layer, read when asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saematch.errors import MatchError
from saematch.numeric.numbers import whole_number
from saematch.sae.autoencoder import SAE
from saematch.sources.address import SAMPLE, Address
from saematch.sources.handle import SAEHandle, SAEInMemory
from saematch.sources.lists import SourceLike
from saematch.sources.locations import LocalLocation
from saematch.sources.search import search
from saematch.sources.stored import LAYER, StoredSAE
from saematch.text import listing

IN_MEMORY = "in memory"  # the source of layers that a caller's mapping holds
_MOST_DIGITS = 4  # of a layer's number
_TRAINING = re.compile(  # what numbers count that follow these: not layers
    r"(?:seeds?|train(?:er|ing)?s?|steps?|tokens?|samples?|epochs?|iter(?:ation)?s?|checkpoints?|ckpts?|final)[-_.=]?/?$|"
    r"(?:run|trial|version|(?<![a-z])[vs])[-_.=]?$|(?:checkpoints?|ckpts?)/.*/$",
    re.IGNORECASE,
)


class Layers(Mapping[int, SAE]):
    """The SAEs of a model by layer number, in ascending order; each is read on access and not kept.

    `source` says where they are from anywhere, and later: a folder's whole path, a repository at its commit. Of a list
    it says so for each layer.
    """

    def __init__(self, handles: Mapping[int, SAEHandle], source: str | dict[str, str]) -> None:
        self.handles = dict(sorted(handles.items()))
        self.source = source

    def __getitem__(self, layer: int) -> SAE:
        number = whole_number(layer)
        return self.handles[layer if number is None else number].read()

    def __iter__(self) -> Iterator[int]:
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def __contains__(self, layer: object) -> bool:
        return whole_number(layer) in self.handles

    def __repr__(self) -> str:
        return f"Layers({self.source!r}, {list(self)})"


def load(source: SourceLike) -> SAE:
    """The one SAE that a source means; sources are those of `load_layers`.

    Weights are on the CPU in float32, or float64 where they were stored so or had to be scaled. Formats are recognised
    by content; `notes` of the SAE say what was changed.

    Raises:
        MatchError: if there is no SAE, more than one, or one that is damaged; the message says which and why.
    """
    found, _ = search(source)
    if len(found) > 1:
        raise MatchError(f"{source}: {len(found)} SAEs in it, name one of them: {_listing(found)}")
    return found[0].read()


def load_layers(source: SourceLike) -> Layers:
    """The SAEs of a source, one a layer; weights are neither read nor fetched yet.

    Args:
        source: a file or folder, nested as published (`layer_8/width_2k/average_l0_40/`) or flat (`layer_08/`); a
            pattern with `*`, `**`, `{layer}`, `{l0}`; `hf://organisation/name/path`; `saelens://release`; a list of
            these or a mapping of layer numbers to them, in Python or a YAML file. `?l0=near:100&layer=8-13&width=16k`
            after it chooses among several of a layer. `"sample"` names the SAEs that ship with the package. A layer's
            number is read from the innermost folder or file name that holds one, else from the SAE's configuration.
            `docs/formats.md` has all of it.

    Raises:
        MatchError: if there is no SAE, a layer's folder is empty, or two SAEs claim one layer.
    """
    found, pinned = search(source)
    stored: dict[int, StoredSAE] = {}
    for each in found:
        if each.layer is None:
            each.describe()  # which may say why it is not known
            raise MatchError(
                f"{each.shown}: no layer number in its path or configuration; name its folder layer_<number>, or "
                f"say where the number is by a pattern with {{layer}}{_pattern(each, found)}, or which layer it is by "
                "a mapping of layers to files (in Python, or a list in YAML), or leave it out with ?layer=…"
            )
        if each.layer in stored:
            those = [other for other in found if other.layer == each.layer]
            raise MatchError(
                f"{source}: {_count(len(those))} SAEs for layer {each.layer}, {_listing(those)}; choose a folder that "
                f"holds one a layer, or say which, {_choices(those)}"
            )
        stored[each.layer] = each
    _check_no_layer_is_empty(source, found)
    addresses = {str(layer): str(sae.checkpoint.address) for layer, sae in sorted(stored.items())}
    return Layers(stored, pinned or addresses)


def as_layers(given: Mapping[Any, SAE]) -> Layers:
    """The layers themselves, or those of a caller's mapping of layer numbers to SAEs, which keeps its SAEs.

    Raises `MatchError` for anything else.
    """
    if isinstance(given, Layers):
        return given
    if isinstance(given, Mapping):
        numbers = [(key, whole_number(key)) for key in given]
        layers = {number: SAEInMemory(given, key, number) for key, number in numbers if number is not None}
        if len(layers) == len(given):
            return Layers(layers, IN_MEMORY)
    shown = list(given) if isinstance(given, Mapping) else given
    raise MatchError(f"{shown!r:.200}: this takes a mapping of layer numbers to SAEs; saematch.load_layers makes one")


def _check_no_layer_is_empty(source: SourceLike, found: list[StoredSAE]) -> None:
    """Of a folder that is meant as a whole. Raises `MatchError`."""
    if not isinstance(source, str | os.PathLike):
        return
    address = Address.parse(source)
    if address.where == SAMPLE or address.options or not Path(address.where).is_dir():
        return
    homes = [Path(each.checkpoint.location.address(each.checkpoint.name)).parent for each in found]
    for folder, _ in LocalLocation(Path(address.where)).folders():
        whole = Path(os.path.abspath(folder))
        inside = any(home.is_relative_to(whole) or whole.is_relative_to(home) for home in homes)
        if LAYER.search(folder.name) and not inside:
            raise MatchError(f"{folder}: the folder of a layer without an SAE; fill it or remove it")


def _choices(those: list[StoredSAE]) -> str:
    """Advice that tells the SAEs of a layer apart, for a message."""
    l0s, widths = {each.checkpoint.l0 for each in those}, {each.checkpoint.width for each in those}
    ways = ["?l0=near:100"] * (len(l0s) > 1 and None not in l0s)
    ways += [f"?width={those[0].checkpoint.width}"] * (len(widths) > 1 and None not in widths)
    if ways:
        return f"like {' or '.join(ways)}"
    pattern = _numbered(those[0])
    # What tells them apart is no layer: a seed, a step of training.
    return f"by a pattern{pattern}" if pattern else f"by naming its file, like {those[0].shown}"


def _numbered(sae: StoredSAE) -> str:
    """The pattern of files that are called as this one, by the number of its layer; "" if its name has none."""
    parts = sae.checkpoint.name.split("/")
    for number, part in reversed([*enumerate(parts)]):
        for layer in LAYER.finditer(part):
            start, end = layer.span(layer.lastindex or 0)
            return _like(sae, "/".join([*parts[:number], f"{part[:start]}{{layer}}{part[end:]}", *parts[number + 1 :]]))
    return ""


def _pattern(sae: StoredSAE, found: list[StoredSAE]) -> str:
    """A pattern by what may be the number of a layer where no name says so, for a message; "" if nothing may be."""
    words = re.split("([0-9]+)", sae.checkpoint.name)
    for other in found:
        theirs = re.split("([0-9]+)", other.checkpoint.name)
        differing = [at for at, (one, two) in enumerate(zip(words, theirs, strict=False)) if one != two]
        if len(words) == len(theirs) and len(differing) == 1 and differing[0] % 2:
            at = differing[0]
            before = "".join(words[:at])
            if max(len(words[at]), len(theirs[at])) <= _MOST_DIGITS and not _TRAINING.search(before):
                return _like(sae, "".join([before, "{layer}", *words[at + 1 :]]))
    return ""


def _like(sae: StoredSAE, name: str) -> str:
    return f", like {sae.checkpoint.location.shown(name).replace('%7Blayer%7D', '{layer}')}"


def _listing(found: list[StoredSAE]) -> str:
    return listing(each.shown for each in found)


def _count(number: int) -> str:
    return "two" if number == 2 else str(number)
