"""From a path to the SAEs in it: one a layer, found by content, read when asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from saematch.errors import MatchError
from saematch.sae import SAE
from saematch.sources.family import Description, Family
from saematch.sources.files import read_json, sha256
from saematch.sources.gemma_scope import GEMMA_SCOPE
from saematch.sources.saelens import SAELENS

SAMPLE = Path(__file__).parent.parent / "sample"
_LAYER = re.compile(r"(?:^|[^a-z])(?:layers?|blocks?)[._-]?(\d+)", re.IGNORECASE)


FAMILIES = (GEMMA_SCOPE, SAELENS)


@dataclass(frozen=True)
class StoredSAE:
    """One SAE on disk; `layer` is None where neither its path nor its configuration names one."""

    path: Path
    family: Family
    layer: int | None

    def read(self) -> SAE:
        """The SAE, in float32 or the wider precision it was stored in, on the CPU. Raises `MatchError`."""
        return self.family.read(self.path)

    def describe(self) -> Description:
        """What its headers say. Raises `MatchError`."""
        return self.family.describe(self.path)

    def sha256(self) -> dict[str, str]:
        """Hash of each of its files, by name. Raises `OSError`."""
        return {file.name: sha256(file) for file in self.family.files(self.path)}

    def stamps(self) -> dict[str, list[int]]:
        """Size in bytes and time of the last change in nanoseconds of each file, by name. Raises `OSError`."""
        found = {file.name: file.stat() for file in self.family.files(self.path)}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}

    @cached_property
    def labels(self) -> dict[int, str]:
        """What features fire on, from a `labels.json` beside the weights; empty where there is none."""
        path = self.path.parent / "labels.json"
        if not path.is_file():
            return {}
        try:
            tokens = {int(row["feature"]): row["tokens"] for row in read_json(path)["features"]}
            if not all(isinstance(listed, list) for listed in tokens.values()):
                raise TypeError("tokens is no list")
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            if isinstance(error, MatchError):
                raise
            raise MatchError(f'{path}: expected {{"features": [{{"feature": 0, "tokens": ["…"]}}, …]}}') from error
        return {feature: ", ".join(map(str, listed)) for feature, listed in tokens.items() if listed}


class Layers(Mapping[int, SAE]):
    """The SAEs of a model by layer number, in ascending order; each is read on access and not kept."""

    def __init__(self, stored: Mapping[int, StoredSAE], source: str) -> None:
        self.stored = dict(sorted(stored.items()))
        self.source = source

    def __getitem__(self, layer: int) -> SAE:
        return self.stored[layer].read()

    def __iter__(self) -> Iterator[int]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, layer: object) -> bool:
        return layer in self.stored

    def __repr__(self) -> str:
        return f"Layers({self.source!r}, {list(self)})"


def load(source: str | os.PathLike[str]) -> SAE:
    """One SAE from a file or from a folder that holds one, at any depth.

    Weights are on the CPU in float32, or float64 where they were stored so. The formats are recognised by content:
    Gemma Scope (`params.npz`) and SAELens (`cfg.json` with `sae_weights.safetensors`).

    Raises:
        MatchError: if there is no SAE, more than one, or one that is damaged; the message says which and why.
    """
    found = find(source)
    if len(found) > 1:
        raise MatchError(f"{source}: {len(found)} SAEs in it, name one of them: {_listing(found)}")
    return found[0].read()


def load_layers(source: str | os.PathLike[str]) -> Layers:
    """The SAEs of a folder, one a layer: nested as published (`layer_8/width_2k/average_l0_40/`) or flat (`layer_08/`).

    `"sample"` names the SAEs that ship with the package. The layer's number is read from the innermost folder or file
    name that holds one, else from the SAE's configuration.

    Raises:
        MatchError: if there is no SAE, a layer's folder is empty, or two SAEs claim one layer.
    """
    stored: dict[int, StoredSAE] = {}
    for found in find(source):
        if found.layer is None:
            raise MatchError(
                f"{found.path}: no layer number in its path or configuration; name its folder layer_<number>"
            )
        if found.layer in stored:
            raise MatchError(
                f"{source}: two SAEs for layer {found.layer}, {_listing([stored[found.layer], found])}; choose a "
                "folder that holds one a layer, or load each with saematch.load and pass a dictionary layer -> SAE"
            )
        stored[found.layer] = found
    homes = [found.path.parent for found in stored.values()]
    for folder, _ in _walk(_existing(source)):
        inside = any(home.is_relative_to(folder) or folder.is_relative_to(home) for home in homes)
        if _LAYER.search(folder.name) and not inside:
            raise MatchError(f"{folder}: the folder of a layer without an SAE; fill it or remove it")
    return Layers(stored, source if source == "sample" else os.path.abspath(source))


def find(source: str | os.PathLike[str]) -> list[StoredSAE]:
    """Every SAE in a file or folder, ordered by layer and path. Raises `MatchError` if there is none."""
    root = _existing(source)
    files = [root] if root.is_file() else [folder / name for folder, names in _walk(root) for name in names]
    found = [
        StoredSAE(file, family, _layer_of(file, family, root))
        for file in files
        for family in FAMILIES
        if family.recognises(file)
    ]
    if not found:
        raise MatchError(
            f"{source}: no SAE in a known format; known are params.npz (Gemma Scope) and cfg.json with "
            "sae_weights.safetensors (SAELens)"
        )
    return sorted(found, key=lambda sae: (-1 if sae.layer is None else sae.layer, sae.path))


def _walk(root: Path) -> list[tuple[Path, list[str]]]:
    """Every folder in `root`, itself among them, with the names of its files; links are followed, hidden names are not.

    Raises `MatchError` where a folder cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise MatchError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found, seen = [], set()
    for folder, inside, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
        if real not in seen:
            found.append((Path(folder), sorted(name for name in names if not name.startswith("."))))
        seen.add(real)
    return found


def _existing(source: str | os.PathLike[str]) -> Path:
    path = SAMPLE if source == "sample" else Path(source)
    if not path.exists():
        raise MatchError(f"{source}: no such file or folder")
    return path


def _layer_of(file: Path, family: Family, root: Path) -> int | None:
    """The number in the innermost folder or file name that has one, not above `root`; else the configuration's."""
    for name in (file.name, *(folder.name for folder in file.parents if folder.is_relative_to(root)), root.name):
        numbers = _LAYER.findall(name)
        if numbers:
            return int(numbers[-1])
    return family.layer(file)


def _listing(found: list[StoredSAE]) -> str:
    shown = ", ".join(str(sae.path) for sae in found[:8])
    return shown + (f" and {len(found) - 8} more" if len(found) > 8 else "")
