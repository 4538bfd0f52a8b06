"""SAEs that the command line names: by `--names`, or by the parts of their paths in which they differ."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from saematch.cli.parser import as_names
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch.sources import StoredSAE


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add the option that names SAEs."""
    parser.add_argument(
        "--names", type=as_names, metavar="NAME,...", help="names of the SAEs (default: where their paths differ)"
    )


def named_saes(sources: Sequence[str], names: Sequence[str] | None) -> dict[str, StoredSAE]:
    """Return all SAEs that the sources lead to, by name.

    Raises:
        MatchError: if a source leads to no SAE, or the names are not one for each SAE.
    """
    from saematch.sources.names import check_names
    from saematch.sources.search import search

    found = [sae for source in sources for sae in search(source)[0]]
    names = _default_names(found) if names is None else names
    if len(names) != len(found):
        shown = ", ".join(sae.shown for sae in found)
        raise MatchError(f"--names has {len(names)} names for {len(found)} SAEs: {shown}")
    check_names(names)
    return dict(zip(names, found, strict=True))


def _default_names(saes: Sequence[StoredSAE]) -> list[str]:
    """Return the names that a list gives, the numbers that a pattern finds, or the parts in which paths differ."""
    given = [sae.name or sae.captured.get("layer", "") for sae in saes]
    if all(given) and len(set(given)) == len(given):
        return given
    return distinct_names([sae.shown for sae in saes])


def distinct_names(paths: list[str]) -> list[str]:
    """Return the parts of paths by which they differ; a number is added where a path is given twice.

    >>> distinct_names(["runs/seed_1/final/sae.npz", "runs/seed_2/final/sae.npz"])
    ['seed_1', 'seed_2']
    >>> distinct_names(["layer_8/params.npz", "layer_8/params.npz"])
    ['layer_8/params.npz', 'layer_8/params.npz (2)']
    >>> distinct_names(["a/seed_1/l0_40/sae.npz", "a/seed_1/l0_80/sae.npz", "a/seed_2/l0_40/sae.npz"])
    ['seed_1/l0_40', 'seed_1/l0_80', 'seed_2/l0_40']
    """
    parts = [path.replace(";", ",").split("/") for path in paths]
    names = ["/".join(own) for own in parts]
    if len(set(names)) > 1:
        start = _alike(parts)
        end = _alike([own[start:][::-1] for own in parts])
        parts = [own[start : len(own) - end] or own for own in parts]
        # If one folder has another name in every path, that name is enough.
        telling = [column for column in zip(*parts, strict=False) if len(set(column)) == len(paths)]
        names = list(telling[0]) if telling else ["/".join(own) for own in parts]
    return [name if name not in names[:i] else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def _alike(parts: list[list[str]]) -> int:
    """Return how many parts are the same in all paths, from their start."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))
