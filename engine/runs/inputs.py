"""What a run read: each SAE with a record by which it is known again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saematch.sae.autoencoder import SAE
from saematch.sources import SAEHandle


def read_input(handle: SAEHandle) -> tuple[SAE, dict[str, Any]]:
    """The SAE and its record: where, in which format, files with size and time, hashes, what it is and was.

    Raises:
        MatchError: if its files cannot be read, are damaged, or hold no SAE.
    """
    about: dict[str, Any] = {"path": handle.path, "format": handle.format, "options": dict(handle.options)}
    about["files"] = handle.stamps()  # before the files are read: a later change then shows
    sae, about["sha256"] = handle.read_and_hash()
    return sae, {**about, "F": sae.F, "d": sae.d, "activation": sae.activation, "notes": list(sae.notes)}


def is_unchanged(handle: SAEHandle, record: Mapping[str, Any], verify: bool = False) -> bool:
    """Whether an SAE is the one of the record: by its hashes, or, unless to be verified, by path, size and time.

    Raises `MatchError` if its files cannot be read.
    """
    if record.get("options", {}) != handle.options:
        return False
    on_disk = record["path"] is not None and record["path"] == handle.path
    if on_disk and not verify and record["files"] == handle.stamps():
        return True
    return bool(handle.sha256() == record["sha256"])
