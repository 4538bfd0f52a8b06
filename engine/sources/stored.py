"""One SAE where it lies: what its name and headers say of it, and the way to its weights."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saematch.errors import MatchError, memory_for, refusals
from saematch.numeric.threads import torch_threads
from saematch.sae.autoencoder import SAE
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import widened
from saematch.sources.formats.base import Entry, Family
from saematch.sources.formats.families import identify
from saematch.sources.handle import Description, SAEHandle
from saematch.sources.registry import neuronpedia_names
from saematch.storage.jsonfile import read_json
from saematch.storage.reading import sha256

LAYER = re.compile(
    r"(?:^|[^a-z])(?:layers?|blocks?)[._-]?(\d{1,4})(?!\d)|(?:^|-)L(\d{1,4})(?:R|A|M|TC)(?:-\d+x)?$",
    re.IGNORECASE | re.ASCII,
)  # the second is Llama Scope's
_MOST_LABEL_BYTES = 64 * 2**20
_UNIT = 0.01  # of a norm: float16 rows that were unit are within it
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredSAE(SAEHandle):
    """An SAE that was found: its file, and what the pattern or the registry that found it says: layer, L0, names.

    `l0_at` is where a pattern found the L0 in the file's name.
    """

    checkpoint: Checkpoint
    said: Mapping[str, str] = field(default_factory=dict)
    l0_at: tuple[int, int] | None = None

    @cached_property
    def family(self) -> Family:
        """The format that it is in. Raises `MatchError` if it is in none."""
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
        return self.checkpoint.options

    @cached_property
    @override
    def layer(self) -> int | None:
        """The number in the innermost name from the source's folder on, else in the files, else above that folder."""
        if "layer" in self.said:
            return int(self.said["layer"])
        named = _number(f"{self.checkpoint.location.title}/{self.checkpoint.name}")
        if named is not None:
            return named
        try:
            found = self.describe().layer
        except MatchError:
            return None
        return _number(self.checkpoint.location.address(self.checkpoint.name)) if found is None else found

    @property
    @override
    def l0(self) -> float | None:
        """The mean number of active features that its path, registry or configuration says."""
        try:
            named = float(self.said.get("l0") or self.checkpoint.l0 or "")
        except ValueError:
            named = math.nan
        return named if math.isfinite(named) else self.describe().l0

    @property
    def without_l0(self) -> str:
        """Its file's name without its L0."""
        return self.checkpoint.without_l0(self.l0_at)

    @override
    @torch_threads()
    def read(self) -> SAE:
        """The SAE on the CPU, in float32, or float64 where it was stored or computed so. Raises `MatchError`."""
        with memory_for(self.checkpoint.shown):
            self.checkpoint.location.fetch(self.checkpoint.name)
            self.describe()  # what headers refuse costs no memory
            sae = self._entry(self.checkpoint.tensors()).sae.check_finite()
            norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
        low, high = float(norms.min()), float(norms.max())
        if max(high - 1, 1 - low) < _UNIT:
            return sae
        note = f"decoder rows are not unit: norms from {low:.3g} to {high:.3g}"
        _log.info("%s: %s", self.checkpoint.shown, note)
        return replace(sae, notes=(*sae.notes, note))

    @override
    def read_and_hash(self) -> tuple[SAE, dict[str, str]]:
        with ThreadPoolExecutor(1) as hashing:
            hashes = hashing.submit(self.sha256)
            sae = self.read()
            return sae, hashes.result()

    @override
    def describe(self) -> Description:
        return self._described

    @override
    def header(self) -> SAE | None:
        try:
            return self.describe().sae
        except (MatchError, MemoryError):
            return None

    @cached_property
    def _described(self) -> Description:
        stored = self.checkpoint.headers
        tensors = [each for each in stored.values() if isinstance(each, Tensor)]
        entry = self._entry({name: widened(each) for name, each in stored.items()})
        largest = max(tensors, key=lambda tensor: tensor.numel())
        return Description(
            entry.sae,
            entry.hook,
            entry.layer,
            entry.l0,
            str(largest.dtype).removeprefix("torch."),
            sum(tensor.nbytes for tensor in tensors),
        )

    def _entry(self, found: Mapping[str, Any]) -> Entry:
        entry = self.family.read(self.checkpoint, found)
        notes = tuple(f"read with {name}={value}" for name, value in self.checkpoint.options.items())
        if "layer" in self.said and entry.layer not in (None, int(self.said["layer"])):
            notes += (f"taken for layer {int(self.said['layer'])} as its source says; its files say {entry.layer}",)
        return replace(entry, sae=replace(entry.sae, notes=entry.sae.notes + notes))

    def files(self) -> list[str]:
        """The names of the files that it is read from. Raises `MatchError`."""
        return [self.checkpoint.name, *filter(None, [self.family.config_name(self.checkpoint)])]

    @override
    def sha256(self) -> dict[str, str]:
        return {name.rpartition("/")[2]: sha256(self.checkpoint.location.fetch(name)) for name in self.files()}

    @override
    def stamps(self) -> dict[str, list[int] | str]:
        return {name.rpartition("/")[2]: self.checkpoint.location.stamp(name) for name in self.files()}

    @override
    def neuronpedia_names(self) -> Sequence[str]:
        return neuronpedia_names(self.checkpoint.location.title, self.checkpoint.name)

    @cached_property
    @override
    def labels(self) -> dict[int, str]:
        """What features fire on, from a `labels.json` beside the weights; empty where there is none."""
        name = self.checkpoint.beside("labels.json")
        if name is None:
            return {}
        path, shown = self.checkpoint.location.fetch(name), self.checkpoint.location.shown(name)
        expected = 'expected {"features": [{"feature": 0, "tokens": ["…"]}, …]}'
        with refusals(expected, shown, TypeError, KeyError, ValueError, OverflowError):
            tokens = {
                int(row["feature"]): row["tokens"] for row in read_json(path, shown, _MOST_LABEL_BYTES)["features"]
            }
            if not all(isinstance(listed, list) for listed in tokens.values()):
                raise TypeError("tokens is not a list")
        F = self.describe().sae.F
        beyond = [feature for feature in tokens if not 0 <= feature < F]
        if beyond:
            _log.warning(
                "%s: %d of %d labels are of features that the SAE does not have, the first of feature %d of %d: they "
                "are left out",
                shown,
                len(beyond),
                len(tokens),
                beyond[0],
                F,
            )
        return {
            feature: ", ".join(map(str, listed)) for feature, listed in tokens.items() if listed and 0 <= feature < F
        }


def _number(path: str) -> int | None:
    """The layer in the innermost part of a path that has one."""
    found = next(filter(None, (LAYER.findall(part) for part in reversed(path.split("/")))), None)
    return int(found[-1][0] or found[-1][1]) if found else None
