"""`saematch verify`: prove or refute that a permutation is an optimal matching."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, print_json
from saematch.cli.estimates import seconds_left
from saematch.cli.groups import add_comparison, add_json, add_pair, add_solver, comparison_of, solver_of
from saematch.cli.parser import as_path
from saematch.cli.terminal import describe_pass, matching_as_json, print_proof, status_line
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch import Matching

HELP = "prove that a permutation from any source is an optimal matching, or say how far from optimal it is"
DESCRIPTION = """Prove that the permutation in MATCHING is an optimal matching of the features of A and B, or say by
how much it costs more than the optimum. If MATCHING was written by saematch, features are compared as the file
records, unless the options say otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_pair(parser)
    parser.add_argument(
        "matching", metavar="MATCHING", type=as_path, help="a matching of saematch, or a .npy file of a permutation"
    )
    add_json(parser)
    add_comparison(parser)
    add_solver(parser)


def run(options: argparse.Namespace) -> int:
    """Grade a permutation."""
    from saematch.matching.api import certify
    from saematch.matching.files import read_permutation
    from saematch.sources import load

    # Features are compared as the file records, unless the options say otherwise.
    perm, recorded = read_permutation(options.matching)
    comparison: dict[str, Any] = {
        name: recorded[name] for name in ("metric", "parts", "weights", "fold", "max_cost") if name in recorded
    }
    comparison.update(comparison_of(options))
    if "map" in recorded and options.map is None:
        raise MatchError(
            f"{options.matching}: was made with a map from the basis of A into that of B; give the same one (map=)"
        )
    if isinstance(comparison.get("fold"), list):
        comparison["fold"] = tuple(comparison["fold"])
    with status_line(options.json) as show:
        show("reading the SAEs")
        a, b = load(options.a), load(options.b)
        left = seconds_left(options, a, b)
        show("looking for a better matching", left())
        matching = certify(
            a, b, perm, **comparison, **solver_of(options), progress=lambda event: show(describe_pass(event), left())
        )
    # Print the verdict.
    if options.json:
        print_json(matching_as_json(matching))
    else:
        print_proof(matching)
        print(f"\n{_verdict(matching)}")
    return DONE if matching.certified else UNFINISHED


def _verdict(matching: Matching) -> str:
    if matching.certified:
        return "Optimal, and proved so."
    if matching.status != "suboptimal":
        return f"Not proved optimal: {matching.status}."
    share = f" ({matching.gap / matching.objective:.2%})" if matching.objective else ""
    return f"Not optimal: {matching.gap:,.6g}{share} above the optimum."
