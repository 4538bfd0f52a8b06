"""The SAEs that a run read: their records, by which they are known again, and where a chain finds them."""

from __future__ import annotations

from collections.abc import Mapping

from saematch.errors import MatchError
from saematch.options import Side
from saematch.runs.records import InputRecord, RunRecord
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, SAEHandle, SourceLike, load_layers


def read_input(handle: SAEHandle) -> tuple[SAE, InputRecord]:
    """Return the SAE with its weights, and its record.

    Raises:
        MatchError: if its files cannot be read, are damaged, or hold no SAE.
    """
    files = handle.stamps()  # before the files are read: a change while they are read then shows
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
    """Whether an SAE is the one of the record: by its hashes, or, unless to be verified, by path, size and time.

    Raises `MatchError` if its files cannot be read.
    """
    if record["options"] != handle.options:
        return False
    same_file = record["path"] is not None and record["path"] == handle.path
    if same_file and not verify and record["files"] == handle.stamps():
        return True
    return handle.sha256() == record["sha256"]


class LazyLayers:
    """Layers that a caller gave, or else those at the address that a run recorded, which are located on first use."""

    def __init__(self, given: Layers | None, recorded: SourceLike | None) -> None:
        self._located, self._recorded = given, recorded
        self._error: MatchError | None = None

    def get(self) -> Layers:
        """Return the layers, which are located once. Raises `MatchError` if they are unknown, or no longer there."""
        if self._error is not None:
            raise self._error
        if self._located is None:
            try:
                self._located = self._locate()
            except MatchError as error:
                self._error = error
                raise
        return self._located

    def labels(self, layer: int) -> Mapping[int, str]:
        """Return feature -> what it fires on; empty where no labels are known without asking the network."""
        if self._located is None and "://" in str(self._recorded):
            return {}
        try:
            layers = self.get()
        except MatchError:
            return {}
        return layers.handles[layer].labels if layer in layers else {}

    def _locate(self) -> Layers:
        if self._recorded is None:
            raise MatchError("the SAEs of this chain are not known, and this needs them; pass inputs=")
        try:
            return load_layers(self._recorded)
        except MatchError as error:
            missing = "the SAEs of the run, which this needs, are not where they were; pass inputs="
            raise MatchError(f"{missing} ({error})") from error


class ChainInputs:
    """The SAEs of a chain, of both sides."""

    def __init__(self, sources: Layers | None, targets: Layers | None, record: RunRecord) -> None:
        against = record.get("against")
        source = LazyLayers(sources, record.get("source"))
        one_set = targets is None and (sources is not None or against is None)
        self._sides = source, source if one_set else LazyLayers(targets, against)

    def layers(self, side: Side) -> Layers:
        """Return the layers of one side. Raises `MatchError` if they are not known, or no longer where they were."""
        return self._sides[side].get()

    def labels(self, layer: int) -> Mapping[int, str]:
        """Return what the features of a source layer fire on; empty where no labels are known."""
        return self._sides[Side.SOURCE].labels(layer)

    def handle(self, layer: int, side: Side, record: InputRecord | None) -> SAEHandle:
        """Return the SAE of a layer. Raises `MatchError` if it is missing, or is not the one of the record."""
        layers = self.layers(side)
        if layer not in layers:
            raise MatchError(f"the SAE of layer {layer}, which this needs, is not where it was; pass inputs=")
        handle = layers.handles[layer]
        if record is not None and not is_unchanged(handle, record):
            raise MatchError(f"{record['path'] or 'SAE'}: the SAE of layer {layer} has changed since the run")
        return handle
