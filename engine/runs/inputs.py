"""The SAEs of a run: their records, and where a chain finds them again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saematch.errors import MatchError
from saematch.options import Side
from saematch.runs.records import InputRecord, RunRecord
from saematch.sources.labels import read_labels
from saematch.sources.names import Names

if TYPE_CHECKING:
    from saematch.sae.autoencoder import SAE
    from saematch.sources import Layers, SAEHandle, SourceLike


def read_input(handle: SAEHandle) -> tuple[SAE, InputRecord]:
    """Read an SAE, and return it with its record.

    Raises:
        MatchError: if a file cannot be read, is damaged, or has no SAE.
    """
    files = handle.stamps()  # taken first, so that a file that changes while it is read differs from its record
    sae, hashes = handle.read_and_hash()
    return sae, {
        "path": handle.path,
        "format": handle.format,
        "options": dict(handle.options),
        "files": files,
        "sha256": hashes,
        "F": sae.F,
        "d": sae.d,
        "activation": sae.activation,
        "notes": list(sae.notes),
    }


def is_unchanged(handle: SAEHandle, record: InputRecord, verify: bool = False) -> bool:
    """Whether an SAE is the one that a record describes.

    A file of the recorded path, size and time is trusted without reading it, unless `verify` is true. Otherwise the
    hashes are compared, so that a file may have moved.

    Raises:
        MatchError: if a file cannot be read.
    """
    if record["options"] != handle.options:
        return False
    same_file = record["path"] is not None and record["path"] == handle.path
    if same_file and not verify and record["files"] == handle.stamps():
        return True
    return handle.sha256() == record["sha256"]


def _recorded_labels(record: InputRecord) -> Mapping[int, str]:
    path = record["path"]
    if path is None or "://" in path:
        return {}
    labels = Path(path).parent / "labels.json"
    return read_labels(labels, str(labels), record["F"]) if labels.is_file() else {}


class LazyLayers:
    """The layers of one side of a chain.

    Args:
        given: the layers that the caller of the chain has passed, if any.
        recorded: the address that the run recorded, where the layers are located on first use if none were given.
        names: what the SAEs of the run are called.
    """

    def __init__(self, given: Layers | None, recorded: SourceLike | None, names: Names) -> None:
        self._located, self._recorded, self._names = given, recorded, names
        self._error: MatchError | None = None
        self._labels: dict[int, Mapping[int, str]] = {}

    def get(self) -> Layers:
        """Return the layers. A search is made once, whether it succeeds or fails.

        Raises:
            MatchError: if no layers were given, and the run recorded no address or one where they no longer are.
        """
        if self._error is not None:
            raise self._error
        if self._located is None:
            try:
                self._located = self._locate()
            except MatchError as error:
                self._error = error
                raise
        return self._located

    def labels(self, layer: int, record: InputRecord | None) -> Mapping[int, str]:
        """Return the labels of a layer; empty if it has none, or if finding them would take a request to a network.

        The labels of an SAE that a run has recorded are read from its folder, without looking at the SAE itself.
        """
        if self._located is not None:
            return self._located.handles[layer].labels if layer in self._located else {}
        if layer not in self._labels:
            self._labels[layer] = {} if record is None else _recorded_labels(record)
        return self._labels[layer]

    def _locate(self) -> Layers:
        from saematch.sources import load_layers

        if self._recorded is None:
            raise MatchError("the SAEs of this chain are needed, and are not known; pass inputs=")
        try:
            return load_layers(self._recorded).numbered_by(self._names.names)
        except MatchError as error:
            missing = "the SAEs of the run are needed, and are no longer where the run found them; pass inputs="
            raise MatchError(f"{missing} ({error})") from error


class ChainInputs:
    """The SAEs of both sides of a chain.

    Args:
        sources: the source layers that the caller has passed, if any.
        targets: the layers of a second set that the caller has passed, if any. By default, they are those that the run
            recorded or, for a run of one set, the source layers.
        record: the record of the run, with the addresses of layers that were not passed.
        names: what the SAEs of the run are called.
    """

    def __init__(self, sources: Layers | None, targets: Layers | None, record: RunRecord, names: Names) -> None:
        against = record.get("against")
        source = LazyLayers(sources, record.get("source"), names)
        one_set = targets is None and against is None
        self._sides = source, source if one_set else LazyLayers(targets, against, names)
        self._names = names
        self._labels: dict[LazyLayers, Mapping[int, Mapping[int, str]]] = {}  # side -> layer -> labels that were given

    def layers(self, side: Side) -> Layers:
        """Return the layers of one side. Raises `MatchError` if they cannot be located."""
        return self._sides[side].get()

    def labels(self, layer: int, side: Side, record: InputRecord | None) -> Mapping[int, str]:
        """Return the labels of a layer; empty if none are known."""
        given = self._labels.get(self._sides[side])
        return self._sides[side].labels(layer, record) if given is None else given.get(layer, {})

    def labelled(self, labels: Mapping[int, Mapping[int, str]], side: Side) -> ChainInputs:
        """Return the same inputs with other labels of one side, layer -> feature -> label."""
        labelled = copy.copy(self)
        labelled._labels = self._labels | {self._sides[side]: labels}
        return labelled

    def handle(self, layer: int, side: Side, record: InputRecord | None) -> SAEHandle:
        """Return the handle of the SAE of a layer.

        Raises:
            MatchError: if the SAE is missing, or is not the one that the record describes.
        """
        layers = self.layers(side)
        if layer not in layers:
            raise MatchError(
                f"the SAE of {self._names.title(layer)} is needed, and is no longer where the run found it; pass "
                "inputs="
            )
        handle = layers.handles[layer]
        if record is not None and not is_unchanged(handle, record):
            path = record["path"] or "SAE"
            raise MatchError(f"{path}: the SAE of {self._names.title(layer)} has changed since the run")
        return handle
