"""One SAE in a file: what its name and its headers say, and how its weights are read."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saematch.errors import MatchError, memory_for
from saematch.numeric.threads import torch_threads
from saematch.sae.autoencoder import SAE
from saematch.sae.maps import Map
from saematch.sources.address import permanent_path
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import widened
from saematch.sources.formats.base import Entry, Family
from saematch.sources.formats.families import identify
from saematch.sources.handle import Description, SAEHandle
from saematch.sources.labels import read_labels
from saematch.sources.locations import LocalLocation
from saematch.sources.registry import neuronpedia_names
from saematch.storage.reading import sha256

# "layer_8", "blocks.8" and the like; in the second part, the names of Llama Scope ("L8R-8x"); in the third, those of
# cross-layer transcoders ("W_enc_8.safetensors").
LAYER = re.compile(
    r"(?:^|[^a-z])(?:layers?|blocks?)[._-]?(\d{1,4})(?!\d)|(?:^|-)L(\d{1,4})(?:R|A|M|TC)(?:-\d+x)?$|"
    r"^W_enc_(\d{1,4})\.",
    re.IGNORECASE | re.ASCII,
)
# In Gemma Scope 2, this is the layer of a cross-layer transcoder, or the place of a layer among those of a crosscoder:
# the headers of the file tell which.
_LAYER_OR_PLACE = re.compile(r"(?:^|/)params_layer_\d{1,4}\.safetensors$")
_MAP = "map into another basis"  # its name among the files of an SAE
_UNIT = 0.01  # rows of norm 1 that were stored in float16 have norms within this distance of 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class StoredSAE(SAEHandle):
    """An SAE in a file.

    Attributes:
        checkpoint: the file, and the options to read it with.
        captured: name -> value of what the pattern or the registry that led to the file says, such as "layer" and "l0".
        l0_span: the start and the end of the L0 in the name of the file, if a pattern captured it.
        name: what the list that led to the file calls the SAE, if it has names.
    """

    checkpoint: Checkpoint
    captured: Mapping[str, str] = field(default_factory=dict)
    l0_span: tuple[int, int] | None = None
    name: str | None = None

    @cached_property
    def family(self) -> Family:
        """The file format. Raises `MatchError` if the format is not recognised."""
        return identify(self.checkpoint)

    @property
    @override
    def shown(self) -> str:
        return self.checkpoint.shown

    @property
    @override
    def path(self) -> str:
        return self.checkpoint.location.address(self.checkpoint.name)

    @property
    @override
    def format(self) -> str:
        return self.family.name

    @property
    @override
    def options(self) -> Mapping[str, str]:
        # A map is an input, which is known by its hash as the weights are, and may move.
        return {name: value for name, value in self.checkpoint.options.items() if name != "map"}

    @property
    def map(self) -> Path | None:
        """The file of the map into another basis that the address names; None if it names none."""
        path = self.checkpoint.options.get("map")
        return None if path is None else Path(path)

    def mapped(self, path: str | os.PathLike[str]) -> StoredSAE:
        """Return the same SAE in the basis that the map in a file leads to."""
        options = {**self.checkpoint.options, "map": permanent_path(path)}
        return replace(self, checkpoint=replace(self.checkpoint, options=options))

    def _in_its_basis(self, sae: SAE) -> SAE:
        return sae if self.map is None else sae.mapped(_map_at(self.map, *_stamp(self.map)))

    @property
    def layer_in_path(self) -> int | None:
        """The number of the layer in what led to the file, or else in the names from the folder of the source on."""
        if "layer" in self.captured:
            return int(self.captured["layer"])
        name = f"{self.checkpoint.location.title}/{self.checkpoint.name}"
        return None if _LAYER_OR_PLACE.search(name) else layer_in(name)

    @cached_property
    @override
    def layer(self) -> int | None:
        # Three places, in this order: names from the folder of the source on, the files themselves, and the path above.
        if self.layer_in_path is not None:
            return self.layer_in_path
        try:
            configured = self.describe().layer
        except MatchError:
            return None
        return layer_in(self.path) if configured is None else configured

    @property
    @override
    def l0(self) -> float | None:
        try:
            named = float(self.captured.get("l0") or self.checkpoint.l0 or "")
        except ValueError:  # the path has no L0, or one that is not a number, like "small"
            named = math.nan
        return named if math.isfinite(named) else self.describe().l0

    @property
    def without_l0(self) -> str:
        """The name of the file without its L0; it is equal for SAEs that differ in the L0 alone."""
        return self.checkpoint.without_l0(self.l0_span)

    @override
    @torch_threads()
    def read(self) -> SAE:
        """Return the SAE on the CPU, in float32, or in float64 if it was stored in float64 or had to be scaled."""
        with memory_for(self.shown):
            self.checkpoint.location.fetch(self.checkpoint.name)
            self.describe()  # an SAE whose headers are refused takes no memory
            sae = self._entry(self.family.tensors(self.checkpoint)).sae.check_finite()
            norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
        low, high = float(norms.min()), float(norms.max())
        if max(high - 1, 1 - low) < _UNIT:
            return self._in_its_basis(sae)
        note = f"decoder rows are not unit: norms from {low:.3g} to {high:.3g}"
        _log.info("%s: %s", self.shown, note)
        return self._in_its_basis(replace(sae, notes=(*sae.notes, note)))

    @override
    def read_and_hash(self) -> tuple[SAE, dict[str, str]]:
        with ThreadPoolExecutor(1) as hashing:
            hashes = hashing.submit(self.sha256)
            sae = self.read()
            return sae, hashes.result()

    @override
    def describe(self) -> Description:
        return self._description

    @cached_property
    def _description(self) -> Description:
        headers = self.family.headers(self.checkpoint)
        tensors = [header for header in headers.values() if isinstance(header, Tensor)]
        entry = self._entry({name: widened(header) for name, header in headers.items()})
        largest = max(tensors, key=lambda tensor: tensor.numel())
        dtype, size = str(largest.dtype).removeprefix("torch."), sum(tensor.nbytes for tensor in tensors)
        return Description(self._in_its_basis(entry.sae), entry.hook, entry.layer, entry.l0, dtype, size)

    @override
    def header(self) -> SAE | None:
        try:
            return self.describe().sae
        except (MatchError, MemoryError):
            return None

    def _entry(self, content: Mapping[str, Any]) -> Entry:
        """Convert the content of the file, or its headers, to canonical form, with notes on how the file was read."""
        entry = self.family.read(self.checkpoint, content)
        notes = [f"read with {name}={value}" for name, value in self.options.items() if name != "layer"]
        if "layer" in self.captured and entry.layer not in (None, int(self.captured["layer"])):
            layer = int(self.captured["layer"])
            notes.append(f"used as layer {layer}, as its source says; its files say layer {entry.layer}")
        return replace(entry, sae=replace(entry.sae, notes=(*entry.sae.notes, *notes)))

    def files(self) -> list[str]:
        """Return the names of the files that the SAE is read from. Raises `MatchError`."""
        return self.family.files(self.checkpoint)

    @override
    def sha256(self) -> dict[str, str]:
        hashes = {name.rpartition("/")[2]: sha256(self.checkpoint.location.fetch(name)) for name in self.files()}
        return hashes if self.map is None else {**hashes, _MAP: sha256(self.map)}

    @override
    def stamps(self) -> dict[str, list[int] | str]:
        stamps = {name.rpartition("/")[2]: self.checkpoint.location.stamp(name) for name in self.files()}
        return stamps if self.map is None else {**stamps, _MAP: _stamp(self.map)}

    @override
    def neuronpedia_names(self) -> Sequence[str]:
        return neuronpedia_names(self.checkpoint.location.title, self.checkpoint.name)

    @cached_property
    @override
    def labels(self) -> dict[int, str]:
        name = self.checkpoint.next_to("labels.json")
        if name is None:
            return {}
        location = self.checkpoint.location
        return read_labels(location.fetch(name), location.shown(name), self.describe().sae.F)


def layer_in(path: str) -> int | None:
    """Return the number of the layer in the innermost part of a path that has one."""
    numbers = next(filter(None, (LAYER.findall(part) for part in reversed(path.split("/")))), None)
    return int(next(filter(None, numbers[-1]))) if numbers else None


def _stamp(path: Path) -> list[int]:
    return LocalLocation(path.parent).stamp(path.name)


@lru_cache(maxsize=2)
def _map_at(path: Path, *stamp: int) -> Map:  # noqa: ARG001 (a file that has changed is read again)
    """Return the map in a file, which the SAEs of all layers may share."""
    return Map.load(path)
