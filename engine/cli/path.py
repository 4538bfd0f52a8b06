"""`saematch path`: follow a feature through the layers of a run."""

from __future__ import annotations

import argparse

from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, print_json
from saematch.cli.groups import add_json, add_run
from saematch.cli.terminal import print_path

HELP = "follow a feature through the layers of a run"
DESCRIPTION = """Print the counterparts of a feature in all later layers of a run, with the cost of each step and, if
the SAEs have labels, the label of each counterpart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument("--layer", type=int, required=True, metavar="L", help="the layer to start from")
    parser.add_argument("--feature", type=int, required=True, metavar="I", help="the number of the feature, from 0")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the path of a feature."""
    from saematch.runs.chain import Chain

    chain = Chain.load(options.run_folder)
    path = chain.path(options.layer, options.feature)
    if options.json:
        steps = [step._asdict() for step in path]
        print_json({"layer": options.layer, "feature": options.feature, "complete": chain.complete, "path": steps})
    else:
        print_path(path)
        if not chain.complete:
            print(f"\n{INCOMPLETE}")
    return DONE if chain.complete else UNFINISHED
