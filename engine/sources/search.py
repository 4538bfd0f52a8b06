"""From an address to the SAEs that it means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from saematch.errors import MatchError
from saematch.sources.address import HUB, REGISTRY, SAMPLE, Address, matcher
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.families import identify, known, published
from saematch.sources.files import SUFFIXES
from saematch.sources.hub import HubRepository
from saematch.sources.places import LocalFolder, Place
from saematch.sources.registry import release
from saematch.sources.stored import StoredSAE

_PACKAGED = Path(__file__).parent.parent / "sample"
_MOST_YAML_BYTES = 2**20
Hub = Callable[[str, str | None], HubRepository]


def search(source: str | os.PathLike[str]) -> tuple[list[StoredSAE], str]:
    """The SAEs that a source means, by layer and path, and an address that means the same from anywhere, and later.

    Raises `MatchError` if there is none.
    """
    asked: dict[tuple[str, str | None], HubRepository] = {}

    def hub(repo: str, revision: str | None) -> HubRepository:
        """Each repository is asked once for its commit, so that all of one source are of the same."""
        if (repo, revision) not in asked:
            asked[repo, revision] = HubRepository.at(repo, revision)
        return asked[repo, revision]

    if not isinstance(source, str | os.PathLike):
        raise MatchError(f"a source is a path or an address, got {type(source).__name__}")
    found, pinned = _search(Address.parse(source), hub)
    return sorted(found, key=lambda each: (-1 if each.layer is None else each.layer, natural(each.at.shown))), pinned


def natural(text: str) -> list[Any]:
    """A key by which text is sorted with its numbers as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def listing(found: Iterable[StoredSAE]) -> str:
    """Some SAEs in a message."""
    names = [each.at.shown for each in found]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _search(address: Address, hub: Hub) -> tuple[list[StoredSAE], str]:
    if address.where.startswith(REGISTRY):
        found, pinned = _registered(address, hub)
    elif address.where.startswith(HUB):
        repo, revision, pattern = address.repository()
        place = hub(repo, revision)
        found = _below(place, pattern, address)
        options = {name: value for name, value in address.options.items() if name != "revision"}
        pinned = str(Address(f"{HUB}{repo}@{place.commit}/{pattern}", options))
    else:
        packaged = address.where == SAMPLE
        pinned = str(Address(SAMPLE if packaged else os.path.abspath(address.where), address.options))
        folder, pattern = (_PACKAGED, "") if packaged else address.split()
        if not os.path.exists(folder):
            raise MatchError(f"{address}: no such file or folder")
        if folder.is_dir():
            found = _below(LocalFolder(folder), pattern, address)
        elif folder.suffix in (".yaml", ".yml"):
            found = _listed(folder, address, hub)
        else:
            found = [StoredSAE(Checkpoint(LocalFolder(folder.parent), folder.name, address.reading))]
            identify(found[0].at)
    if not found:
        raise MatchError(f"{address}: no SAE in a known format; known are {known()}")
    return _chosen(found, address), pinned


def _below(place: Place, pattern: str, address: Address) -> list[StoredSAE]:
    """The SAEs of a place whose names match. On this machine files are known by their content too."""
    meant, found = matcher(pattern), []
    for name in place.names():
        match = meant.fullmatch(name)
        if match is None or not name.endswith(SUFFIXES):
            continue
        each = Checkpoint(place, name, address.reading)
        by_name = match["below"] is None or bool(published(name))
        if not by_name and not (isinstance(place, LocalFolder) and _known(each)):
            continue
        said = {key: value for key, value in match.groupdict().items() if key != "below"}
        found.append(StoredSAE(each, said))
    return found


def _known(at: Checkpoint) -> bool:
    try:
        return bool(identify(at))
    except MatchError:
        return False


def _registered(address: Address, hub: Hub) -> tuple[list[StoredSAE], str]:
    """The SAEs of a release of sae-lens, whose ids the rest of the address may narrow down."""
    name, _, pattern = address.where.removeprefix(REGISTRY).partition("/")
    repo, listed = release(name)
    place = hub(repo, address.options.get("revision"))
    meant, there, found = matcher(pattern), place.names(), []
    for each in listed:
        match = meant.fullmatch(each.id)
        if match is None:
            continue
        files = [file for file in there if file == each.path or (published(file) and file.startswith(f"{each.path}/"))]
        said = {key: value for key, value in match.groupdict().items() if key != "below"}
        said |= {} if each.l0 is None else {"l0": f"{each.l0:g}"}
        found += [StoredSAE(Checkpoint(place, file, address.reading, each.scale), said) for file in files]
    return found, str(Address(address.where, {**address.options, "revision": place.commit}))


def _listed(file: Path, address: Address, hub: Hub) -> list[StoredSAE]:
    """The SAEs of a list of sources, or of a mapping of layers to sources; paths are relative to the list's folder."""
    found: list[StoredSAE] = []
    for layer, text in _entries(file):
        each = Address.parse(text if "://" in text else str(file.parent / text))
        if ".." in Path(each.where).parts:
            raise MatchError(f"{file}: {text}: a list says where its SAEs are without going up (..)")
        if each.where.endswith((".yaml", ".yml")):
            raise MatchError(f"{file}: {text}: a list names SAEs, no other lists")
        for sae in _search(Address(each.where, {**address.reading, **each.options}), hub)[0]:
            said = sae.said if layer is None else {**sae.said, "layer": str(layer)}
            found.append(StoredSAE(sae.at, said))
    return found


def _entries(file: Path) -> list[tuple[int | None, str]]:
    try:
        if file.stat().st_size > _MOST_YAML_BYTES:
            raise MatchError(f"{file}: {file.stat().st_size} bytes of YAML, more than a list of SAEs has")
        # Every scalar is text, whatever its tag: nothing is made of it, nor computed from it.
        content = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, MatchError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MatchError(f"{file}: cannot be read ({reason})") from error
    rows: list[Any] = []
    if isinstance(content, list):
        rows = [(None, text) for text in content]
    elif isinstance(content, dict):
        numbers = [int(layer) if re.fullmatch("[0-9]{1,4}", str(layer)) else None for layer in content]
        rows = list(zip(numbers, content.values(), strict=True)) if None not in numbers else []
    if not rows or not all(isinstance(text, str) and text for _, text in rows):
        raise MatchError(f"{file}: expected a list of paths or addresses, or a mapping of layer numbers to them")
    return rows


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
            shown = sorted(there, key=natural)
            more = f" and {len(shown) - 30} more" if len(shown) > 30 else ""
            raise MatchError(f"{address}: there is no SAE of {name} {wanted}; there are {', '.join(shown[:30])}{more}")
        found = kept
    return found


def _says(sae: StoredSAE, name: str) -> str | None:
    """What the path of an SAE says by some name."""
    said = sae.said.get(name)
    return said or {"l0": sae.at.l0, "width": sae.at.width}.get(name)


def _numbers(text: str, address: Address) -> set[int]:
    parts = [re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part) for part in text.split(",")]
    if not all(parts):
        raise MatchError(f"{address}: layer={text}: give numbers or ranges, like 8-13 or 8,9")
    return {number for part in parts if part for number in range(int(part[1]), int(part[2] or part[1]) + 1)}


def _by_l0(found: list[StoredSAE], wanted: str, address: Address) -> list[StoredSAE]:
    """Of SAEs that differ in their L0 alone, the one whose L0 is wanted."""
    try:
        near = {"min": 0.0, "max": float("inf")}.get(wanted)
        near = float(wanted.removeprefix("near:")) if near is None else near
    except ValueError as error:
        raise MatchError(f"{address}: l0={wanted}: give a number, near:100, min or max") from error
    best: dict[tuple[int | None, str], tuple[float, float, StoredSAE]] = {}
    for each in found:
        l0 = each.l0
        if l0 is None:
            raise MatchError(f"{address}: the L0 of {each.at.shown} is not known; choose by name instead")
        distance = -l0 if near == float("inf") else abs(l0 - near)
        named = each.said.get("l0") or each.at.l0 or ""
        others = each.layer, re.sub(rf"(?<![a-z0-9]){re.escape(named)}(?![a-z0-9])", "", each.at.name.lower())
        if others not in best or (distance, l0) < best[others][:2]:
            best[others] = distance, l0, each
    return [each for _, _, each in best.values()]
