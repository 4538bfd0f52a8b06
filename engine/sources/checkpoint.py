"""One file with the weights of an SAE: where the file is, what lies next to it, and the options to read it with."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from saematch.errors import MatchError
from saematch.sources.address import ALLOWABLE, REGISTRY, Address, escaped
from saematch.sources.files.checks import Piece
from saematch.sources.files.tensors import read_headers, read_tensors
from saematch.sources.locations import Location
from saematch.sources.registry import Registered
from saematch.storage.jsonfile import read_json
from saematch.storage.yamlfile import read_yaml

_L0 = re.compile(r"(?:^|[^a-z0-9])l0[_-](\d+(?:\.\d+)?|[a-z]+)", re.IGNORECASE)
_WIDTH = re.compile(r"(?:width[_-]|(?:^|[-_/])W)(\d+(?:\.\d+)?[km]?)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """One file with the weights of an SAE.

    Attributes:
        location: the folder or repository of the file.
        name: the name of the file in that location.
        options: the options of the address that change how the file is read, see `READING` in `address.py`, and the
            layer, if the file holds those of several layers.
        registered: the entry of the file in a registry, if a registry led to the file.
    """

    location: Location
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    registered: Registered | None = None

    @property
    def shown(self) -> str:
        """The name of the file in messages and records: a path, or the address of a file at a commit.

        If the file holds several layers, the name says which of them is meant.
        """
        return self.location.shown(self.name) + (f"?layer={self.options['layer']}" if "layer" in self.options else "")

    @property
    def address(self) -> Address:
        """A permanent address of this file, including the options to read it with; it holds from any folder."""
        if self.registered is None:
            return Address(self.location.address(self.name), self.options)
        known = f"{REGISTRY}{self.registered.release}/{escaped(self.registered.id)}"
        return Address(known, {**self.options, "revision": str(self.location.stamp(self.name))})

    @property
    def l0(self) -> str | None:
        """The last L0 in the path of the file, as it is written: "71" or "small"."""
        named = _L0.findall(f"{self.location.title}/{self.name}")
        return named[-1].lower() if named else None

    @property
    def width(self) -> str | None:
        """The last number of features in the path of the file, as it is written: "16k"."""
        named = _WIDTH.findall(f"{self.location.title}/{self.name}")
        return named[-1].lower() if named else None

    def without_l0(self, span: tuple[int, int] | None) -> str:
        """Return the name of the file without its L0; SAEs that differ in their L0 alone have the same name then.

        Args:
            span: the span of the L0 in the name, if a pattern found the L0 there.
        """
        rest = self.name if span is None else f"{self.name[: span[0]]}/{self.name[span[1] :]}"
        return _L0.sub("", rest)

    @cached_property
    def headers(self) -> dict[str, Any]:
        """Name -> tensor without data; the file is opened once. Raises `MatchError`."""
        with self.location.open(self.name) as file:
            return read_headers(file, self.location.shown(self.name))

    def tensors(self, pieces: Mapping[str, Piece] | None = None) -> dict[str, Any]:
        """Read the file, or pieces of it: name of the tensor or key of the piece -> tensor, on the CPU.

        Raises `MatchError`.
        """
        return read_tensors(self.location.fetch(self.name), self.location.shown(self.name), pieces)

    @cached_property
    def _others(self) -> dict[str, Checkpoint]:
        return {self.name: self}

    def named(self, name: str) -> Checkpoint:
        """Return a file of the same SAE in the same location; its headers are read once."""
        if name not in self._others:
            self._others[name] = replace(self, name=name)
        return self._others[name]

    def of_layer(self, layer: int) -> Checkpoint:
        """Return one layer of a file that holds several; the headers of the file are read once."""
        view = replace(self, options={**self.options, "layer": str(layer)})
        view.__dict__["headers"] = self.headers
        return view

    def next_to(self, *names: str) -> str | None:
        """Return the first of these files that exists; `names` are relative to the folder of the weights."""
        folder = posixpath.dirname(self.name)
        candidates = (posixpath.normpath(posixpath.join(folder, name)) for name in names)
        return next((name for name in candidates if self.location.has(name)), None)

    def config(self, name: str | None) -> dict[str, Any]:
        """Read the object in the JSON or YAML file `name` of the location, with what a registry adds and corrects.

        Without a name, the object is empty. Raises `MatchError`.
        """
        if name is None:
            return {}
        shown = self.location.shown(name)
        kind, read = ("YAML mapping", read_yaml) if name.endswith(".yaml") else ("JSON object", read_json)
        config = read(self.location.fetch(name), shown)
        if not isinstance(config, dict):
            raise MatchError(f"{shown}: expected a {kind}, got {type(config).__name__}")
        known = self.registered
        return {**known.defaults, **config, **known.overrides} if known else config

    def error(self, wrong: str) -> MatchError:
        """Return the `MatchError` that names this file and says what is wrong with it."""
        return MatchError(f"{self.shown}: {wrong}")

    @property
    def allowed(self) -> list[str]:
        """The reasons against a comparison that the address says to ignore."""
        return [*filter(None, self.options.get("allow", "").split(","))]

    def refuse_unless_allowed(self, reason: str, why: str) -> None:
        """Raise `MatchError`, with the option that permits to read the file, unless its address has that option."""
        assert reason in ALLOWABLE
        if reason not in self.allowed:
            raise self.error(
                f"{why}, so its weights cannot be compared with the weights of another layer as they are; to read the "
                f"SAE nevertheless, write ?allow={','.join([*self.allowed, reason])} after its path"
            )

    def scale(self) -> float | None:
        """Return the scale of activations that the address gives, or None if it gives none. Raises `MatchError`."""
        given = self.options.get("scale")
        if given is None:
            return None
        try:
            scale = float(given)
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise self.error(f"?scale={given}: give a positive number")
        return scale

    def missing_scale(self, why: str) -> float | None:
        """Return the scale of activations of a file that does not say it: that of the address, or of a registry.

        Without either, the scale is None if the address allows an unknown scale. Raises `MatchError` otherwise.
        """
        scale = self.scale() or (self.registered and self.registered.scale)
        if scale is None:
            self.refuse_unless_allowed("unknown_scale", f"{why} (?scale=… says it)")
        return scale

    def k(self, *stored: Any) -> int:
        """Return the k of a TopK SAE: that of the address, or else the first stored one that is not None.

        Raises `MatchError` if there is none, or if it is not a whole number.
        """
        given = self.options.get("k")
        candidates = [given] if given else [value for value in stored if value is not None]
        try:
            k = int(candidates[0])
            if isinstance(candidates[0], bool) or float(candidates[0]) != k:
                raise ValueError("not a whole number")
            return k
        except (IndexError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise self.error("a TopK SAE without its k; write ?k=… after its path") from error
