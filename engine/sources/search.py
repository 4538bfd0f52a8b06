"""The search for the SAEs that a source means: in folders, repositories, registries and lists."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from saematch.errors import MatchError
from saematch.sources.address import HUB, REGISTRY, SAMPLE, Address, placeholder_values
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.choice import choose
from saematch.sources.files.tensors import SUFFIXES
from saematch.sources.formats.families import identify, published, titles
from saematch.sources.hub import HubRepository
from saematch.sources.lists import AddressLike, SourceLike, entries, is_list, read_list
from saematch.sources.locations import LocalLocation, Location
from saematch.sources.registry import Registered, release
from saematch.sources.stored import StoredSAE, layer_in
from saematch.storage.reading import Unusable
from saematch.text import listing, natural_key

_SAMPLE_FOLDER = Path(__file__).parent.parent / "sample"
OpenRepository = Callable[[str, str | None], HubRepository]  # its name and its revision


def search(source: SourceLike) -> tuple[list[StoredSAE], str | None]:
    """Search for the SAEs that a source means.

    Returns:
        The SAEs, sorted by layer and path, or in the order of their names, and a permanent address of the source: it
        means the same SAEs from any folder, and later. A list of sources has no address of its own; the addresses of
        its SAEs mean the same.

    Raises:
        MatchError: if the source means no SAE.
    """
    repositories: dict[tuple[str, str | None], HubRepository] = {}

    def open_repository(repo: str, revision: str | None) -> HubRepository:
        """Ask each repository once for its commit, so that all SAEs of a source are of the same commit."""
        if (repo, revision) not in repositories:
            repositories[repo, revision] = HubRepository.at_revision(repo, revision)
        return repositories[repo, revision]

    if isinstance(source, str | os.PathLike):
        saes, permanent = _search(Address.parse(source), open_repository)
    else:
        saes, permanent = _in_list(entries(source, "the source"), "the source", {}, open_repository), None
    if not any(sae.name for sae in saes):  # names have the order of their list
        saes.sort(key=lambda sae: (-1 if sae.layer is None else sae.layer, natural_key(sae.shown)))
    return saes, permanent


def _search(address: Address, open_repository: OpenRepository) -> tuple[list[StoredSAE], str | None]:
    """Search for the SAEs of one address, and return them with a permanent address. Raises `MatchError`."""
    permanent: str | None
    # A registry or a repository; a permanent address has its commit.
    if address.where.startswith(REGISTRY):
        saes, permanent = _in_registry(address, open_repository)
    elif address.where.startswith(HUB):
        repo, revision, pattern = address.repository()
        repository = open_repository(repo, revision)
        saes = _in_location(repository, pattern, address)
        options = {name: value for name, value in address.options.items() if name != "revision"}
        permanent = str(Address(f"{HUB}{repo}@{repository.commit}/{pattern}", options))
    else:
        # A path of this machine: a folder with a pattern, a list, or one file.
        packaged = address.where == SAMPLE
        permanent = str(Address(SAMPLE if packaged else os.path.abspath(address.where), address.options))
        path, pattern = (_SAMPLE_FOLDER, "") if packaged else address.split()
        if not os.path.exists(path):
            raise MatchError(f"{address}: no such file or folder")
        if path.is_dir():
            saes = _in_location(LocalLocation(path), pattern, address)
        elif is_list(path.name):
            saes, permanent = _in_list(read_list(path), str(path), address.reading, open_repository), None
        else:
            saes = [StoredSAE(Checkpoint(LocalLocation(path.parent), path.name, address.reading))]
            identify(saes[0].checkpoint)
    if not saes:
        raise MatchError(f"{address}: no SAE in a known format; known are {titles()}")
    return choose([view for sae in saes for view in _views(sae)], address), permanent


def _views(sae: StoredSAE) -> list[StoredSAE]:
    """Return the SAEs in a file: one for each layer that its headers tell, or else the SAE itself.

    A file whose path says the layer is not opened, nor is a remote file whose name is not that of such files.
    """
    checkpoint = sae.checkpoint
    may = isinstance(checkpoint.location, LocalLocation) or any(each.layers for each in published(checkpoint.name))
    if not may or sae.layer_in_path is not None:
        return [sae]
    try:
        layers = sae.family.layers_in(checkpoint)
    except MatchError:
        return [sae]  # reading the file then reports what is wrong with it
    of = [checkpoint] if len(layers) == 1 else [checkpoint.of_layer(layer) for layer in layers]
    views = zip(of, layers, strict=True)
    return [replace(sae, checkpoint=view, captured={**sae.captured, "layer": str(n)}) for view, n in views] or [sae]


def _in_location(location: Location, pattern: str, address: Address) -> list[StoredSAE]:
    """Return the SAEs of a folder or repository whose names match a pattern.

    On this machine, files under unusual names are recognised by their content too. Raises `MatchError` if no name
    matches the pattern, or if the only files that seem to hold SAEs cannot be used.
    """
    matcher, names = address.matcher(pattern), location.names()
    if names and not any(map(matcher.fullmatch, names)):
        raise _nothing_matches(names, pattern, address)
    # The name is enough if the pattern means the file itself, or if SAEs are published under that name.
    saes, unusable = list[StoredSAE](), list[Unusable]()
    for name in names:
        match = matcher.fullmatch(name)
        if match is None or not name.endswith(SUFFIXES):
            continue
        checkpoint, (values, is_below) = Checkpoint(location, name, address.reading), placeholder_values(match)
        try:
            by_name = not is_below or bool(published(name))
            if by_name or (isinstance(location, LocalLocation) and identify(checkpoint)):
                saes.append(StoredSAE(checkpoint, values, match.span("l0") if "l0" in values else None))
        except Unusable as error:
            unusable.append(error)
        except MatchError:
            pass  # a file of another kind
    if unusable and not saes:
        raise unusable[0]
    return saes


def _nothing_matches(names: list[str], pattern: str, address: Address) -> MatchError:
    """Return the error for a pattern that matches no name: it lists the names where the pattern first fails."""
    parts = pattern.split("/")
    beginnings = {depth: address.matcher("/".join(parts[:depth])) for depth in range(len(parts))}
    depth = max(depth for depth, matcher in beginnings.items() if any(map(matcher.fullmatch, names)))
    near = {"/".join(name.split("/")[: depth + 1]) for name in names if beginnings[depth].fullmatch(name)}
    return MatchError(f"{address}: there is no {pattern}; there are {listing(sorted(near, key=natural_key))}")


def _in_registry(address: Address, open_repository: OpenRepository) -> tuple[list[StoredSAE], str]:
    """Return the SAEs of a release of sae-lens whose ids match the rest of the address, and a permanent address.

    Raises `MatchError` if there are none.
    """
    # The entries of the release that the address means.
    name, _, pattern = address.where.removeprefix(REGISTRY).partition("/")
    repo, registered = release(name)
    matcher = address.matcher(pattern)
    matches = [(entry, match) for entry in registered if (match := matcher.fullmatch(entry.id))]
    if not matches:
        raise MatchError(f"{address}: {name} has no such SAE; it has {listing(entry.id for entry in registered)}")
    # The files of the repository, by the paths that an entry may have.
    repository = open_repository(repo, address.options.get("revision"))
    files = _files_by_path(repository)
    saes = []
    for entry, match in matches:
        values = _layer_of(entry) | placeholder_values(match)[0] | _l0_of(entry)
        saes += [StoredSAE(Checkpoint(repository, file, address.reading, entry), values) for file in files[entry.path]]
    if not saes:
        paths = listing(entry.path for entry, _ in matches)
        raise MatchError(
            f"{address}: sae-lens says that {repo} has its weights in {paths}; there are none of a known format"
        )
    return saes, str(Address(address.where, {**address.options, "revision": repository.commit}))


def _files_by_path(repository: HubRepository) -> Mapping[str, list[str]]:
    """Return the files at each path: every file by its name, and files with weights by every folder above them too.

    A file with weights under an unusual name is only at its own folder, if there is no other: reading it then reports
    what it is.
    """
    files, others = defaultdict(list), defaultdict(list)
    for name in repository.names():
        files[name].append(name)
        for folder in PurePosixPath(name).parents if published(name) else ():
            files[str(folder)].append(name)
        if name.endswith(SUFFIXES):
            others[str(PurePosixPath(name).parent)].append(name)
    return defaultdict(list, others | files)


def _layer_of(entry: Registered) -> dict[str, str]:
    """Return the layer that an id like "blocks.19.hook_resid_post" names; the path of the file may not."""
    layer = layer_in(entry.id)
    return {} if layer is None else {"layer": str(layer)}


def _l0_of(entry: Registered) -> dict[str, str]:
    return {} if entry.l0 is None else {"l0": f"{entry.l0:g}"}


def _in_list(
    rows: Iterable[tuple[int | str | None, AddressLike]],
    shown: str,
    reading: Mapping[str, str],
    open_repository: OpenRepository,
) -> list[StoredSAE]:
    """Return the SAEs of a list of addresses, with the layers or the names that the list says, if it says them.

    Args:
        rows: layers or names, and addresses.
        shown: the name of the list in messages.
        reading: the options by which all SAEs of the list are read.
        open_repository: opens a repository of the Hub.

    Raises:
        MatchError: with the number of the row, if an address means no SAE.
    """
    # Options of a row take precedence over those of the list, and the layer of a row over that of the file.
    saes: list[StoredSAE] = []
    for number, (key, text) in enumerate(rows, 1):
        try:
            address = Address.parse(text)
            if is_list(address.where):
                raise MatchError(f"{text}: a list may name SAEs, but no other lists")
            of_row, _ = _search(Address(address.where, {**reading, **address.options}), open_repository)
        except MatchError as error:
            raise MatchError(f"{shown}, row {number}: {error}") from error
        for sae in of_row:
            if isinstance(key, str):
                saes.append(replace(sae, name=key))
            else:
                saes.append(sae if key is None else StoredSAE(sae.checkpoint, {**sae.captured, "layer": str(key)}))
    return saes
