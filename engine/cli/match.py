"""`saematch match`: match two SAEs."""

from __future__ import annotations

import argparse
from pathlib import Path

from saematch.cli.common import DONE, UNFINISHED, check_output, print_json
from saematch.cli.estimates import seconds_left
from saematch.cli.groups import (
    add_comparison,
    add_json,
    add_method,
    add_overwrite,
    add_pair,
    add_solver,
    comparison_of,
    solver_of,
)
from saematch.cli.parser import as_path
from saematch.cli.terminal import describe_pass, matching_as_json, print_proof, status_line
from saematch.errors import MatchError

HELP = "match two SAEs"
DESCRIPTION = """Match every feature of A with a different feature of B so that the total cost is smallest, and prove
that no other matching costs less. The cost of a pair is the squared distance of its folded feature rows, or 1 minus
their cosine (--metric)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_pair(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=as_path, help="write the matching to FILE (.safetensors)"
    )
    add_overwrite(parser)
    add_method(parser)
    add_json(parser)
    add_comparison(parser)
    add_solver(parser)


def run(options: argparse.Namespace) -> int:
    """Match two SAEs."""
    from saematch.matching.api import match
    from saematch.sources import load

    # Refuse an output that cannot be written before any work.
    check_output(options.output, options.overwrite)
    name = Path(options.output or ".safetensors").name
    if not name.endswith(".safetensors") or name == "sae_weights.safetensors":
        raise MatchError(
            f"{options.output}: a matching is a .safetensors file, and sae_weights.safetensors that of an SAE; choose "
            "another name"
        )
    with status_line(options.json) as show:
        show("reading the SAEs")
        a, b = load(options.a), load(options.b)
        left = seconds_left(options, a, b)
        show("matching", left())
        matching = match(
            a,
            b,
            **comparison_of(options),
            method=options.method,
            **solver_of(options),
            progress=lambda event: show(describe_pass(event), left()),
        )
    # Write the matching, and print its numbers.
    if options.output:
        matching.save(options.output)
    if options.json:
        print_json(matching_as_json(matching))
    else:
        print_proof(matching, baseline=options.method != "optimal")
        print(
            f"\nWritten to {options.output}" if options.output else "\nNothing was written; -o FILE keeps the matching"
        )
    return DONE if matching.certified or options.method != "optimal" else UNFINISHED
