"""Two SAEs: match them, or grade somebody's permutation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, comparison_of, limits_of, print_json, refuse_unwritable
from saematch.cli.terminal import StatusLine, print_proof, round_text
from saematch.errors import MatchError
from saematch.storage.jsonfile import finite_or_none

if TYPE_CHECKING:
    from saematch import Matching


def match(options: argparse.Namespace) -> int:
    """Match two SAEs."""
    from saematch.matching.api import match
    from saematch.sources import load

    refuse_unwritable(options.output, options.overwrite)
    name = Path(options.output or ".safetensors").name
    if not name.endswith(".safetensors") or name == "sae_weights.safetensors":
        raise MatchError(f"{options.output}: a matching is a .safetensors file, and sae_weights.safetensors an SAE's")
    status = StatusLine()
    matching = match(
        load(options.a),
        load(options.b),
        **comparison_of(options),
        method=options.method,
        **limits_of(options),
        progress=lambda news: status.show(round_text(news)),
    )
    status.clear()
    if options.output:
        matching.save(options.output)
    if options.json:
        print_json(_matching_json(matching))
    else:
        print_proof(matching)
        print(f"\nWritten to {options.output}" if options.output else "\nNothing written: give -o FILE to keep it")
    return DONE if matching.certified else UNFINISHED


def verify(options: argparse.Namespace) -> int:
    """Grade somebody's permutation."""
    from saematch.matching.api import certify
    from saematch.matching.result import read_permutation
    from saematch.sources import load

    perm, recorded = read_permutation(options.matching)
    asked: dict[str, Any] = {key: recorded[key] for key in ("parts", "weights", "fold", "max_cost") if key in recorded}
    asked.update(comparison_of(options))
    if isinstance(asked.get("fold"), list):
        asked["fold"] = tuple(asked["fold"])
    status = StatusLine()
    matching = certify(
        load(options.a),
        load(options.b),
        perm,
        **asked,
        **limits_of(options),
        progress=lambda news: status.show(round_text(news)),
    )
    status.clear()
    if options.json:
        print_json(_matching_json(matching))
    else:
        print_proof(matching)
        verdict = "Optimal, and proved so." if matching.certified else f"Not proved optimal: {matching.status}."
        if matching.status == "suboptimal":
            share = f" ({matching.gap / matching.objective:.2%})" if matching.objective else ""
            verdict = f"Not optimal: {matching.gap:,.6g}{share} above the optimum."
        print(f"\n{verdict}")
    return DONE if matching.certified else UNFINISHED


def _matching_json(matching: Matching) -> dict[str, Any]:
    arrays = {"perm": matching.perm, "pair_cost": matching.pair_cost, "prices": matching.prices}
    lists = {name: values.tolist() for name, values in arrays.items()}
    lists["staying_free"] = [finite_or_none(cost) for cost in matching.staying_free]
    return {**matching.scalars(), **lists, "options": matching.options, "stats": matching.stats}
