"""One file with the weights of an SAE, wherever it lies, with what lies beside it and how it was asked to be read."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from saematch.errors import MatchError
from saematch.sources.address import ALLOWABLE, REGISTRY, Address, escaped
from saematch.sources.files.tensors import headers, tensors
from saematch.sources.places import Place
from saematch.sources.registry import Registered
from saematch.storage.jsonfile import read_json

_L0 = re.compile(r"(?:^|[^a-z0-9])l0[_-](\d+(?:\.\d+)?|[a-z]+)", re.IGNORECASE)
_WIDTH = re.compile(r"(?:width[_-]|(?:^|[-_/])W)(\d+(?:\.\d+)?[km]?)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """The file `name` of a place, to be read with the options that its address gave (`READING` in `address.py`).

    `registered` is what a registry knows of it, if it was found by one.
    """

    place: Place
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    registered: Registered | None = None

    @property
    def shown(self) -> str:
        """What it is called in messages and records: a path, or the address of a file at a commit."""
        return self.place.shown(self.name)

    @property
    def address(self) -> Address:
        """What means this very file, read in this way, from anywhere and later."""
        if self.registered is None:
            return Address(self.place.address(self.name), self.options)
        known = f"{REGISTRY}{self.registered.release}/{escaped(self.registered.id)}"
        return Address(known, {**self.options, "revision": str(self.place.stamp(self.name))})

    @property
    def l0(self) -> str | None:
        """The L0 that its path names last, as it is written: "71", or "small"."""
        named = _L0.findall(f"{self.place.title}/{self.name}")
        return named[-1].lower() if named else None

    def without_l0(self, said_at: tuple[int, int] | None) -> str:
        """Its name without its L0, where a pattern found it or `l0` does: equal for SAEs that differ in it alone."""
        rest = self.name if said_at is None else f"{self.name[: said_at[0]]}/{self.name[said_at[1] :]}"
        return _L0.sub("", rest)

    @property
    def width(self) -> str | None:
        """The number of features that its path names last, as it is written: "16k"."""
        named = _WIDTH.findall(f"{self.place.title}/{self.name}")
        return named[-1].lower() if named else None

    def headers(self) -> dict[str, Any]:
        """Name -> tensor without data; read once. Raises `MatchError`."""
        return self._headers

    @cached_property
    def _headers(self) -> dict[str, Any]:
        with self.place.open(self.name) as file:
            return headers(file, self.shown)

    def tensors(self) -> dict[str, Any]:
        """Name -> tensor, on the CPU. Raises `MatchError`."""
        return tensors(self.place.fetch(self.name), self.shown)

    def beside(self, *names: str) -> str | None:
        """The first of these files that is there, relative to the folder of the weights."""
        folder = posixpath.dirname(self.name)
        there = (posixpath.normpath(posixpath.join(folder, name)) for name in names)
        return next((name for name in there if self.place.has(name)), None)

    def config(self, name: str | None) -> dict[str, Any]:
        """The JSON object in this file of the place, as a registry corrects it; empty for None. Raises `MatchError`."""
        if name is None:
            return {}
        found = read_json(self.place.fetch(name), self.place.shown(name))
        if not isinstance(found, dict):
            raise MatchError(f"{self.place.shown(name)}: expected a JSON object, got {type(found).__name__}")
        return {**found, **(self.registered.overrides if self.registered else {})}

    def refuse_unless_allowed(self, reason: str, why: str) -> None:
        """Raise `MatchError`, with the way to read it all the same, unless its address allows this."""
        assert reason in ALLOWABLE
        allowed = [*filter(None, self.options.get("allow", "").split(","))]
        if reason not in allowed:
            raise MatchError(
                f"{self.shown}: {why}, so its weights cannot be compared with another layer's as they are; to read it "
                f"all the same, write ?allow={','.join([*allowed, reason])} after its path"
            )

    def scale(self) -> float | None:
        """The scale of the activations that the weights are for, if the address says it. Raises `MatchError`."""
        asked = self.options.get("scale")
        if asked is None:
            return None
        try:
            scale = float(asked)
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise MatchError(f"{self.shown}: ?scale={asked}: give a positive number")
        return scale

    def missing_scale(self, why: str) -> float | None:
        """The scale that the address or a registry says; without one, None if that is allowed. Raises `MatchError`."""
        found = self.scale() or (self.registered and self.registered.scale)
        if found is None:
            self.refuse_unless_allowed("unknown_scale", f"{why} (?scale=… says it)")
        return found

    def k(self, *stored: Any) -> int:
        """The k of a TopK SAE: what the address says, else the first that is stored. Raises `MatchError`."""
        asked = self.options.get("k")
        found = [asked] if asked else [value for value in stored if value is not None]
        try:
            k = int(found[0])
            if isinstance(found[0], bool) or float(found[0]) != k:
                raise ValueError("no whole number")
            return k
        except (IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise MatchError(f"{self.shown}: a TopK SAE without its k; write ?k=… after its path") from error
