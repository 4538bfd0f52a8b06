"""`saematch info`: list the SAEs of a source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, for_terminal, in_flags, print_json
from saematch.cli.groups import add_json, add_source
from saematch.cli.terminal import print_saes
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch.sources import SAEHandle

HELP = "list SAEs: sizes, activation, L0, precision, and what to know before matching them"
DESCRIPTION = """List the SAEs that SOURCE names, with their sizes, activation, L0 and precision, and warn of anything
that makes neighbouring layers hard to compare. Only headers are read, also from the hub."""
_L0_RATIO = 1.5  # L0s of neighbouring layers that differ by more than this factor make features differ


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_source(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the SAEs that a source names."""
    from saematch.sources.search import search

    saes, _ = search(options.source)
    rows, unreadable = describe(saes)
    warnings = [*unreadable, *_warnings(rows)]
    if options.json:
        print_json({"source": options.source, "layers": rows, "warnings": list(map(in_flags, warnings))})
        return UNFINISHED if unreadable else DONE
    print_saes(rows)
    for warning in warnings:
        print(f"warning: {for_terminal(warning)}")
    return UNFINISHED if unreadable else DONE


def describe(saes: Sequence[SAEHandle]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each SAE whose header can be read, and the error messages of the others."""
    rows: list[dict[str, Any]] = []
    unreadable = []
    for handle in saes:
        try:
            description, sae = handle.describe(), handle.describe().sae
            sizes = {"layer": handle.layer, "F": sae.F, "d": sae.d, "activation": sae.activation, "l0": handle.l0}
            files = {"dtype": description.dtype, "bytes": description.bytes, "format": handle.format}
            rows.append({**sizes, **files, "path": handle.shown, "notes": list(sae.notes)})
        except MatchError as error:
            unreadable.append(str(error))
    return rows, unreadable


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Return what a user should know before matching these layers."""
    warnings = [
        f"layer {row['layer']}: {row['activation']} has no threshold; choose --fold decoder_norm or --fold none"
        for row in rows
        if row["activation"] != "jumprelu"
    ]
    numbered = [row for row in rows if row["layer"] is not None]
    for a, b in pairwise(numbered):
        pair = f"layers {a['layer']} and {b['layer']}"
        if b["layer"] == a["layer"]:
            warnings.append(
                f"layer {a['layer']}: more than one SAE, {a['path']} and {b['path']}; choose a folder with one SAE per "
                "layer"
            )
        elif b["layer"] > a["layer"] + 1:
            warnings.append(f"{pair}: the layers between them are missing")
        if a["d"] != b["d"]:
            warnings.append(f"{pair}: activations of different width, cannot be compared")
        if a["l0"] and b["l0"] and max(a["l0"], b["l0"]) > _L0_RATIO * min(a["l0"], b["l0"]):
            warnings.append(f"{pair}: L0 differs more than {_L0_RATIO}-fold ({a['l0']:g} and {b['l0']:g})")
    return warnings
