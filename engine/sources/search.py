"""From an address to the SAEs that it means."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from saematch.errors import MatchError
from saematch.sources.address import HUB, REGISTRY, SAMPLE, Address, matched
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.tensors import SUFFIXES
from saematch.sources.formats.families import identify, published, titles
from saematch.sources.hub import HubRepository
from saematch.sources.lists import AddressLike, SourceLike, entries, is_list, read_list
from saematch.sources.locations import LocalLocation, Location
from saematch.sources.registry import release
from saematch.sources.stored import StoredSAE
from saematch.storage.reading import Unusable
from saematch.text import listing, natural_key

_PACKAGED = Path(__file__).parent.parent / "sample"
Hub = Callable[[str, str | None], HubRepository]


def search(source: SourceLike) -> tuple[list[StoredSAE], str | None]:
    """The SAEs that a source means, by layer and path, and an address that means the same from anywhere, and later.

    A list has no address: those of its SAEs mean the same. Raises `MatchError` if there is none.
    """
    asked: dict[tuple[str, str | None], HubRepository] = {}

    def hub(repo: str, revision: str | None) -> HubRepository:
        """Each repository is asked once for its commit, so that all of one source are of the same."""
        if (repo, revision) not in asked:
            asked[repo, revision] = HubRepository.at(repo, revision)
        return asked[repo, revision]

    if isinstance(source, str | os.PathLike):
        found, pinned = _search(Address.parse(source), hub)
    else:
        found, pinned = _listed(entries(source, "the source"), "the source", {}, hub), None
    found.sort(key=lambda sae: (-1 if sae.layer is None else sae.layer, natural_key(sae.shown)))
    return found, pinned


def _search(address: Address, hub: Hub) -> tuple[list[StoredSAE], str | None]:
    pinned: str | None
    if address.where.startswith(REGISTRY):
        found, pinned = _registered(address, hub)
    elif address.where.startswith(HUB):
        repo, revision, pattern = address.repository()
        location = hub(repo, revision)
        found = _below(location, pattern, address)
        options = {name: value for name, value in address.options.items() if name != "revision"}
        pinned = str(Address(f"{HUB}{repo}@{location.commit}/{pattern}", options))
    else:
        packaged = address.where == SAMPLE
        pinned = str(Address(SAMPLE if packaged else os.path.abspath(address.where), address.options))
        folder, pattern = (_PACKAGED, "") if packaged else address.split()
        if not os.path.exists(folder):
            raise MatchError(f"{address}: no such file or folder")
        if folder.is_dir():
            found = _below(LocalLocation(folder), pattern, address)
        elif is_list(folder.name):
            found, pinned = _listed(read_list(folder), str(folder), address.reading, hub), None
        else:
            found = [StoredSAE(Checkpoint(LocalLocation(folder.parent), folder.name, address.reading))]
            identify(found[0].checkpoint)
    if not found:
        raise MatchError(f"{address}: no SAE in a known format; known are {titles()}")
    return _chosen(found, address), pinned


def _below(location: Location, pattern: str, address: Address) -> list[StoredSAE]:
    """The SAEs of a place whose names match. On this machine files are known by their content too."""
    meant, there = address.matcher(pattern), location.names()
    found, unusable = list[StoredSAE](), list[Unusable]()
    if there and not any(map(meant.fullmatch, there)):
        raise _absent(there, pattern, address)
    for name in there:
        match = meant.fullmatch(name)
        if match is None or not name.endswith(SUFFIXES):
            continue
        each, (said, below) = Checkpoint(location, name, address.reading), matched(match)
        try:
            by_name = not below or bool(published(name))
            if by_name or (isinstance(location, LocalLocation) and identify(each)):
                found.append(StoredSAE(each, said, match.span("l0") if "l0" in said else None))
        except Unusable as error:
            unusable.append(error)
        except MatchError:
            pass  # a file of another kind
    if unusable and not found:
        raise unusable[0]
    return found


def _absent(there: list[str], pattern: str, address: Address) -> MatchError:
    """What there is where a pattern first leads nowhere."""
    parts = pattern.split("/")
    known = {depth: address.matcher("/".join(parts[:depth])) for depth in range(len(parts))}
    depth = max(depth for depth, part in known.items() if any(map(part.fullmatch, there)))
    names = {"/".join(name.split("/")[: depth + 1]) for name in there if known[depth].fullmatch(name)}
    return MatchError(f"{address}: there is no {pattern}; there are {listing(sorted(names, key=natural_key))}")


def _registered(address: Address, hub: Hub) -> tuple[list[StoredSAE], str]:
    """The SAEs of a release of sae-lens, whose ids the rest of the address may narrow down."""
    name, _, pattern = address.where.removeprefix(REGISTRY).partition("/")
    repo, listed = release(name)
    meant = address.matcher(pattern)
    named = [(each, match) for each in listed if (match := meant.fullmatch(each.id))]
    if not named:
        raise MatchError(f"{address}: {name} has no such SAE; it has {listing(each.id for each in listed)}")
    location = hub(repo, address.options.get("revision"))
    files = defaultdict(list)  # by name, and those with weights by every folder that they are below, "." the last
    for file in location.names():
        files[file].append(file)
        for folder in PurePosixPath(file).parents if published(file) else ():
            files[str(folder)].append(file)
    found = []
    for each, match in named:
        said = matched(match)[0] | ({} if each.l0 is None else {"l0": f"{each.l0:g}"})
        found += [StoredSAE(Checkpoint(location, file, address.reading, each), said) for file in files[each.path]]
    if not found:
        paths = listing(each.path for each, _ in named)
        raise MatchError(f"{address}: sae-lens says that {repo} has its weights in {paths}; there are none")
    return found, str(Address(address.where, {**address.options, "revision": location.commit}))


def _listed(
    rows: Iterable[tuple[int | None, AddressLike]], shown: str, reading: Mapping[str, str], hub: Hub
) -> list[StoredSAE]:
    """The SAEs of a list of sources, each with the layer that the list says, if it does."""
    found: list[StoredSAE] = []
    for number, (layer, text) in enumerate(rows, 1):
        try:
            each = Address.parse(text)
            if is_list(each.where):
                raise MatchError(f"{text}: a list names SAEs, no other lists")
            saes, _ = _search(Address(each.where, {**reading, **each.options}), hub)
        except MatchError as error:
            raise MatchError(f"{shown}, row {number}: {error}") from error
        found += [
            sae if layer is None else StoredSAE(sae.checkpoint, {**sae.said, "layer": str(layer)}) for sae in saes
        ]
    return found


def _chosen(found: list[StoredSAE], address: Address) -> list[StoredSAE]:
    """Those that the options of an address mean. Raises `MatchError`, with what there is, where that is none."""
    for name, wanted in sorted(address.choosing.items(), key=lambda option: option[0] == "l0"):
        if name == "l0" and (wanted in ("min", "max") or wanted.startswith("near:")):
            found = _by_l0(found, wanted, address)
            continue
        if name == "layer":
            numbers = _numbers(wanted, address)
            kept = [each for each in found if each.layer in numbers]
            there = {"none" if each.layer is None else str(each.layer) for each in found}
            missing = sorted(numbers - {each.layer for each in found})
            if missing and not re.search(r"\d-\d", wanted):  # a range may have gaps, a number that is listed may not
                kept = []
        else:
            kept = [each for each in found if _says(each, name) in (wanted, wanted.lower())]
            there = {_says(each, name) or "none" for each in found}
        if not kept:
            shown = listing(sorted(there, key=natural_key), 30)
            raise MatchError(f"{address}: there is no SAE of {name} {wanted}; there are {shown}")
        found = kept
    return found


def _says(sae: StoredSAE, name: str) -> str | None:
    """What the path of an SAE says by some name."""
    said = sae.said.get(name)
    return said or {"l0": sae.checkpoint.l0, "width": sae.checkpoint.width}.get(name)


def _numbers(text: str, address: Address) -> set[int]:
    parts = [re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part) for part in text.split(",")]
    if not all(parts):
        raise MatchError(f"{address}: layer={text}: give numbers or ranges, like 8-13 or 8,9")
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if not all(ranges):
        raise MatchError(f"{address}: layer={text}: a range goes upwards, like 8-13")
    return {number for each in ranges for number in each}


def _by_l0(found: list[StoredSAE], wanted: str, address: Address) -> list[StoredSAE]:
    """Of SAEs that differ in their L0 alone, the one whose L0 is wanted."""
    try:
        near = {"min": 0.0, "max": math.inf}.get(wanted)
        if near is None:
            near = float(wanted.removeprefix("near:"))
            if not math.isfinite(near):
                raise ValueError("no number")
    except ValueError as error:
        raise MatchError(f"{address}: l0={wanted}: give a number, near:100, min or max") from error
    best: dict[tuple[int | None, str], tuple[float, float, StoredSAE]] = {}
    for each in found:
        l0 = each.l0
        if l0 is None:
            raise MatchError(f"{address}: the L0 of {each.shown} is not known; choose by name instead")
        distance = -l0 if near == math.inf else abs(l0 - near)
        others = each.layer, each.without_l0
        if others not in best or (distance, l0) < best[others][:2]:
            best[others] = distance, l0, each
    return [each for _, _, each in best.values()]
