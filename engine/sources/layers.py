"""The layers of a model: one SAE for each layer, which is read when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saematch.errors import MatchError, NoSuchKey
from saematch.numeric.numbers import whole_number
from saematch.sae.autoencoder import SAE
from saematch.sae.maps import Map, MapLike
from saematch.sources.address import SAMPLE, Address
from saematch.sources.advice import how_to_choose, how_to_number
from saematch.sources.handle import SAEHandle, SAEInMemory
from saematch.sources.lists import SourceLike
from saematch.sources.locations import LocalLocation
from saematch.sources.names import SITES, LayerSite, numbered
from saematch.sources.search import search
from saematch.sources.stored import LAYER, StoredSAE
from saematch.text import html_table, listing

IN_MEMORY = "in memory"  # the source of layers that are in a caller's mapping


class Layers(Mapping[int, SAE]):
    """The SAEs of a model by layer number, in ascending order.

    `layers[8]` reads the SAE of layer 8 and does not keep it. `layers.handles[8]` knows its headers, labels and files
    without reading its weights. SAEs that are not layers have names, and are numbered from 0 in the order of the names:
    `layers["step_1000"]` reads the SAE of that name.

    Attributes:
        handles: layer -> the handle of the SAE (`saematch.sources.SAEHandle`).
        source: a permanent address of the layers, such as the absolute path of a folder or a repository at its commit;
            for a list of addresses, a dictionary of layer (as text) or name -> address; "in memory" for a caller's
            dictionary.
        names: the names of SAEs that are not layers, in their order; empty for layers.

    Examples:
        >>> import saematch as sm
        >>> layers = sm.load_layers("sample")
        >>> layers
        Layers('sample', [8, 9, 10, 11, 12, 13])
        >>> layers[8].F, layers[8].d
        (1024, 576)
        >>> layers.handles[8].labels[384]
        'Kn, Ex, Module, Dist, Gn'
    """

    def __init__(
        self, handles: Mapping[int, SAEHandle], source: str | dict[str, str], names: Sequence[str] = ()
    ) -> None:
        self.handles = dict(sorted(handles.items()))
        self.source = source
        self.names = tuple(names)

    @classmethod
    def named(cls, handles: Mapping[str, SAEHandle], source: str | dict[str, str]) -> Layers:
        """Return the SAEs of some names, in their order. If all names are whole numbers, they are numbers of layers.

        Raises:
            MatchError: if a name cannot be one.
        """
        found = numbered(handles)
        if found is None:
            raise MatchError(f"two of the names {listing(handles)} are the same number")
        return cls(dict(zip(found[0], handles.values(), strict=True)), source, found[1])

    def numbered_by(self, names: Sequence[str]) -> Layers:
        """Return those of the SAEs that have one of these names, numbered by them; layers, if there are no names.

        Raises:
            MatchError: if these are layers although there are names, or the other way round.
        """
        if bool(names) != bool(self.names):
            has, lacks = ("names", "these have layer numbers") if names else ("layer numbers", "these have names")
            raise MatchError(
                f"the SAEs of this run have {has}, and {lacks}; give a mapping of {has} to SAEs, or a .yaml list of it"
            )
        if not names:
            return self
        places = {name: at for at, name in enumerate(names)}
        handles = {places[self.names[at]]: handle for at, handle in self.handles.items() if self.names[at] in places}
        return Layers(handles, self.source, names)

    def mapped(self, map: MapLike | Mapping[int, MapLike] | Mapping[str, MapLike]) -> Layers:
        """Return the SAEs in the basis of another model, see `SAE.mapped`.

        If all SAEs and maps are in files, and no SAE is mapped yet, the result has a permanent `source`, as these SAEs
        have. SAEs that are mapped already are mapped again, by one map after the other.

        Args:
            map: one map for all, such as the path of a file, in which `{layer}` stands for the number or the name of
                each SAE; or layer or name -> map, which leaves out all other SAEs.

        Raises:
            MatchError: for SAEs that are not there, and for anything but a map.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sm.Map(torch.eye(576)).save("map.safetensors")
            >>> sm.load_layers("sample").mapped({8: "map.safetensors"})[8].notes[-1]
            'written in another basis by a map: orthogonal'
        """
        maps = self.maps_of(map)
        handles = {key: self.handles[self.names.index(key) if isinstance(key, str) else key] for key in maps}
        stored = {
            key: handle.mapped(path)
            for key, handle in handles.items()
            # An address names one map: an SAE with two is made in memory.
            if isinstance(handle, StoredSAE) and not handle.map and isinstance(path := maps[key], str | os.PathLike)
        }
        if len(stored) < len(handles):
            return as_layers(_MappedSAEs(self, {key: Map.of(one) for key, one in maps.items()}))
        source = {str(key): str(handle.checkpoint.address) for key, handle in stored.items()}
        return Layers.named({str(key): handle for key, handle in stored.items()}, source)

    def maps_of(self, map: MapLike | Mapping[Any, MapLike]) -> dict[int | str, MapLike]:
        """Return layer or name -> the map of `mapped`. Raises `MatchError` for SAEs that are not there."""
        keys: list[int | str] = [self.names[at] if self.names else at for at in self.handles]
        if not isinstance(map, Mapping):
            is_pattern = isinstance(map, str | os.PathLike) and "{layer}" in str(map)
            return {key: str(map).replace("{layer}", str(key)) if is_pattern else map for key in keys}
        known = {key if isinstance(key, str) else whole_number(key): one for key, one in map.items()}
        missing = [repr(key) for key, number in zip(map, known, strict=True) if number not in keys]
        if missing or not known:
            given, there = listing(missing) or "no SAE", listing(repr(key) for key in keys)
            raise MatchError(f"maps are given for {given}, and the SAEs are {there}")
        return {key: known[key] for key in keys if key in known}

    def __getitem__(self, layer: int | str) -> SAE:
        if isinstance(layer, str) and layer in self.names:
            return self.handles[self.names.index(layer)].read()
        number = whole_number(layer)
        if number is None or number not in self.handles:
            one, several = ("SAE", "names") if self.names else ("layer", "layers")
            raise NoSuchKey(
                f"there is no {one} {layer!r:.60}; the {several} are {listing(map(repr, self.names or self))}"
            )
        return self.handles[number].read()

    def __iter__(self) -> Iterator[int]:
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def __contains__(self, layer: object) -> bool:
        return layer in self.names if isinstance(layer, str) else whole_number(layer) in self.handles

    def __repr__(self) -> str:
        return f"Layers({self.source!r}, {list(self.names) or list(self)})"

    def _repr_html_(self) -> str:
        several, one = ("SAEs", "name") if self.names else ("layers", "layer")
        title = f"{len(self)} {several} of {self.source if isinstance(self.source, str) else 'a list of SAEs'}"
        rows = [[self.names[at] if self.names else at, handle.shown] for at, handle in self.handles.items()]
        return html_table(title, [one, "SAE"], rows)


class _MappedSAEs(Mapping[Any, SAE]):
    """SAEs in the basis of another model, which are mapped whenever they are asked for."""

    def __init__(self, saes: Layers, maps: Mapping[Any, Map]) -> None:
        self._saes, self._maps = saes, maps

    def __getitem__(self, key: int | str) -> SAE:
        return self._saes[key].mapped(self._maps[key])

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)


def load(source: SourceLike) -> SAE:
    """Load the one SAE that a source leads to.

    The weights are on the CPU in float32, or in float64 if they were stored in float64 or had to be scaled. The file
    format is recognised by the content of the file. The `notes` of the SAE say what was changed while it was read.

    Args:
        source: a source as described in `load_layers`, which leads to one SAE.

    Raises:
        MatchError: if the source leads to no SAE, to more than one, or to one that is damaged.

    Examples:
        >>> import saematch as sm
        >>> sae = sm.load("sample?layer=8")
        >>> sae.F, sae.d, sae.activation
        (1024, 576, 'jumprelu')
    """
    saes, _ = search(source)
    if len(saes) > 1:
        raise MatchError(f"{source}: {len(saes)} SAEs in it, name one of them: {_listed(saes)}")
    return saes[0].read()


def load_layers(source: SourceLike) -> Layers:
    """Find the SAEs of a source, one for each layer. Their weights are neither read nor downloaded yet.

    The number of a layer is read from the innermost folder or file name that has one, or else from the configuration
    of the SAE. `docs/formats.md` describes all sources and file formats.

    Args:
        source: one of

            - a file or a folder, nested as published (`layer_8/width_2k/average_l0_40/`) or flat (`layer_08/`);
            - a pattern with `*`, `**`, `{layer}` or `{l0}`;
            - `hf://organisation/name/path`, a repository of the Hugging Face hub;
            - `saelens://release`, a release that sae-lens knows;
            - "sample", the SAEs that are part of this package;
            - a list of sources, or a mapping of layer numbers to sources, in Python or in a YAML file;
            - a mapping of names to sources, for SAEs that are not layers, such as the checkpoints of a training run;
            - a mapping of "residual", "attention" and "mlp" to sources of the layers of these sites, whose SAEs are
              then named like "mlp.8".

            Options after a question mark choose among several SAEs of a layer, such as
            `?l0=near:100&layer=8-13&width=16k`.

    Raises:
        MatchError: if there is no SAE, the folder of a layer is empty, or two SAEs are of the same layer.

    Examples:
        >>> import saematch as sm
        >>> sm.load_layers("sample?layer=8-10")
        Layers('sample?layer=8-10', [8, 9, 10])
        >>> sm.load_layers({0: "sample?layer=8", 1: "sample?layer=13"})[1].F
        1024
        >>> sm.load_layers({"early": "sample?layer=8", "late": "sample?layer=13"}).names
        ('early', 'late')
    """
    saes, address = search(source)
    if saes[0].name is not None:
        return _of_names(saes)
    by_layer = _by_layer(source, saes)
    _check_no_layer_is_empty(source, saes)
    addresses = {str(layer): str(sae.checkpoint.address) for layer, sae in sorted(by_layer.items())}
    return Layers(by_layer, address or addresses)


def as_layers(given: Mapping[Any, SAE]) -> Layers:
    """Return `Layers` as they are, and wrap any other mapping of layer numbers, or of names, to SAEs.

    The SAEs stay in the caller's mapping, which is asked for an SAE whenever the SAE is read.

    Raises:
        MatchError: if this is not a mapping, or its keys are neither layer numbers nor names.
    """
    if isinstance(given, Layers):
        return given
    found = numbered(list(given)) if isinstance(given, Mapping) else None
    if found is None:
        shown = list(given) if isinstance(given, Mapping) else given
        raise MatchError(
            f"{shown!r:.200}: this takes a mapping of layer numbers, or of names, to SAEs; saematch.load_layers makes "
            "one"
        )
    numbers, names = found
    pairs = zip(numbers, given, strict=True)
    return Layers({at: SAEInMemory(given, key, None if names else at) for at, key in pairs}, IN_MEMORY, names)


def as_sites(given: Any) -> Layers:
    """Return the SAEs of several sites of the layers of a model, in the order in which the model computes the sites.

    Args:
        given: "residual", "attention" or "mlp" -> the layers of that site: a mapping of layer numbers to SAEs, or a
            source as described in `load_layers`. Or SAEs that are named like "mlp.8".

    Returns:
        SAEs that are named like "mlp.8".

    Raises:
        MatchError: if the names are not those of sites, or the SAEs of a site have no layer numbers.

    Examples:
        >>> import saematch as sm
        >>> from saematch.sources.layers import as_sites
        >>> as_sites({"residual": sm.load_layers("sample?layer=8-9"), "mlp": "sample?layer=9"}).names
        ('residual.8', 'mlp.9', 'residual.9')
    """
    handles: dict[LayerSite, SAEHandle] = {}
    if isinstance(given, Mapping) and given and all(key in SITES for key in given):
        for site in given:
            layers = _of_site(given[site])
            if layers.names:
                raise MatchError(
                    f"{site}: its SAEs have names, {listing(layers.names)}; give a mapping of layer numbers"
                )
            handles |= {LayerSite(layer, site): handle for layer, handle in layers.handles.items()}
    else:
        layers = as_layers(given)
        found = [LayerSite.of(name) for name in layers.names]
        if None in found or not found:
            shown = listing(map(str, layers.names or layers))
            raise MatchError(
                f"{shown}: these are not sites of layers; give a mapping of {' or '.join(SITES)} to layers, or SAEs "
                'with names like "mlp.8"'
            )
        handles = {
            site: handle for site, handle in zip(found, layers.handles.values(), strict=True) if site is not None
        }
    sites = sorted(handles, key=lambda site: site.place)
    stored = {site.name: sae.checkpoint.address for site in sites if isinstance(sae := handles[site], StoredSAE)}
    source = {name: str(address) for name, address in stored.items()} if len(stored) == len(sites) else IN_MEMORY
    return Layers({at: handles[site] for at, site in enumerate(sites)}, source, [site.name for site in sites])


def _of_site(given: Any) -> Layers:
    """Return the layers of a site: `Layers`, a mapping to SAEs, or what a source leads to."""
    if isinstance(given, Layers):
        return given
    is_source = not isinstance(given, Mapping) or isinstance(next(iter(given.values()), None), str | os.PathLike)
    return load_layers(given) if is_source else as_layers(given)


def _by_layer(source: SourceLike, saes: list[StoredSAE]) -> dict[int, StoredSAE]:
    """Return the SAEs by layer. Raises `MatchError` if the layer of an SAE is not known, or two are of one layer."""
    by_layer: dict[int, StoredSAE] = {}
    for sae in saes:
        if sae.layer is None:
            sae.describe()  # a header that cannot be read is the reason why the layer is not known
            raise MatchError(
                f"{sae.shown}: no layer number in its path or configuration; name its folder layer_<number>, or "
                f"say where the number is by a pattern with {{layer}}{how_to_number(sae, saes)}, or which layer it is "
                "by a mapping of layers to files (in Python, or a list in YAML), or leave it out with ?layer=…; SAEs "
                "that are not layers have names instead: `--axis step` of `saematch layers`, or a mapping of names"
            )
        if sae.layer in by_layer:
            rivals = [other for other in saes if other.layer == sae.layer]
            count = "two" if len(rivals) == 2 else len(rivals)
            raise MatchError(
                f"{source}: {count} SAEs for layer {sae.layer}, {_listed(rivals)}; choose a folder that holds one SAE "
                f"per layer, or say which, {how_to_choose(rivals)}"
            )
        by_layer[sae.layer] = sae
    return by_layer


def _of_names(saes: list[StoredSAE]) -> Layers:
    """Return the SAEs of a mapping of names to sources. Raises `MatchError` if a source has several SAEs."""
    if all(sae.name in SITES and sae.layer is not None for sae in saes):
        of = {str(sae.name): [other for other in saes if other.name == sae.name] for sae in saes}
        return as_sites({site: Layers(_by_layer(site, layers), "") for site, layers in of.items()})
    by_name: dict[str, SAEHandle] = {}
    for sae in saes:
        rivals = [other for other in saes if other.name == sae.name]
        if len(rivals) > 1:
            raise MatchError(f"{sae.name}: {len(rivals)} SAEs have this name, {_listed(rivals)}; name one of them")
        by_name[str(sae.name)] = sae
    return Layers.named(by_name, {str(sae.name): str(sae.checkpoint.address) for sae in saes})


def _check_no_layer_is_empty(source: SourceLike, saes: list[StoredSAE]) -> None:
    """Raise `MatchError` if a folder that is named like a layer has no SAE. Patterns and options are not checked."""
    if not isinstance(source, str | os.PathLike):
        return
    address = Address.parse(source)
    if address.where == SAMPLE or address.options or not Path(address.where).is_dir():
        return
    homes = [Path(sae.path).parent for sae in saes]
    for folder, _ in LocalLocation(Path(address.where)).folders():
        absolute = Path(os.path.abspath(folder))
        has_sae = any(home.is_relative_to(absolute) or absolute.is_relative_to(home) for home in homes)
        if LAYER.search(folder.name) and not has_sae:
            raise MatchError(f"{folder}: the folder of a layer without an SAE; fill it or remove it")


def _listed(saes: list[StoredSAE]) -> str:
    return listing(sae.shown for sae in saes)
