"""What there is: SAEs, and what would run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, print_json
from saematch.cli.terminal import print_saes, size, table
from saematch.errors import MatchError
from saematch.text import printable

if TYPE_CHECKING:
    from saematch.sources import SAEHandle


def info(options: argparse.Namespace) -> int:
    """Print what SAEs a source means, from headers alone."""
    from saematch.sources import search

    found, _ = search(options.source)
    rows, unreadable = described(found)
    warnings = unreadable + _warnings(rows)
    if options.json:
        print_json({"source": options.source, "layers": rows, "warnings": warnings})
        return UNFINISHED if unreadable else DONE
    print_saes(rows)
    for warning in warnings:
        print(f"warning: {printable(warning)}")
    return UNFINISHED if unreadable else DONE


def described(found: Sequence[SAEHandle]) -> tuple[list[dict[str, Any]], list[str]]:
    """What the headers of SAEs say, and why those of others say nothing."""
    rows: list[dict[str, Any]] = []
    unreadable = []
    for handle in found:
        try:
            about, sae = handle.describe(), handle.describe().sae
            rows.append(
                {
                    "layer": handle.layer,
                    "F": sae.F,
                    "d": sae.d,
                    "activation": sae.activation,
                    "l0": handle.l0,
                    "dtype": about.dtype,
                    "bytes": about.bytes,
                    "format": handle.format,
                    "path": handle.shown,
                    "notes": list(sae.notes),
                }
            )
        except MatchError as error:
            unreadable.append(str(error))
    return rows, unreadable


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader should know before matching these layers."""
    found = [
        f"layer {row['layer']}: no threshold ({row['activation']}), choose --fold decoder_norm or none"
        for row in rows
        if row["activation"] != "jumprelu"
    ]
    numbered = [row for row in rows if row["layer"] is not None]
    for a, b in pairwise(numbered):
        pair = f"layers {a['layer']} and {b['layer']}"
        if b["layer"] == a["layer"]:
            found.append(
                f"layer {a['layer']}: more than one SAE, {a['path']} and {b['path']}; choose a folder with one a layer"
            )
        elif b["layer"] > a["layer"] + 1:
            found.append(f"{pair}: the layers between them are missing")
        if a["d"] != b["d"]:
            found.append(f"{pair}: activations of different width, cannot be compared")
        if a["l0"] and b["l0"] and max(a["l0"], b["l0"]) > 1.5 * min(a["l0"], b["l0"]):
            found.append(f"{pair}: L0 differs more than 1.5-fold ({a['l0']:g} and {b['l0']:g})")
    return found


def env(options: argparse.Namespace) -> int:
    """Print versions, devices, and what would run the passes."""
    from saematch.matching.backend import choose_backend, machine, versions

    backend = choose_backend()
    if options.json:
        chosen = {"backend": backend.name, "device": str(backend.device), "reason": backend.reason}
        print_json({"versions": versions(), "machine": machine(), **chosen})
        return DONE
    print(table(("package", "version"), [[name, version or "not installed"] for name, version in versions().items()]))
    print()
    about = machine()
    shown = {**about, "memory": size(about["memory"]), "gpus": ", ".join(about["gpus"]) or "none"}
    print(table(("machine", ""), [[name, str(value)] for name, value in shown.items()]))
    print(f"\nPasses over all pairs run on {backend.device} through {backend.name}: {backend.reason}.")
    return DONE
