"""`saematch path`: follow a feature through the layers of a run."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, print_json
from saematch.cli.groups import add_inputs, add_json, add_labels, add_run, chain_of, labelled
from saematch.cli.terminal import print_legend, print_path, status_line

if TYPE_CHECKING:
    from saematch.runs.chain import Chain

HELP = "follow a feature through the layers of a run"
DESCRIPTION = """Print the counterparts of a feature in all earlier and later layers of a run, with the cost of each
step, the cosine of the decoder rows and, if the SAEs have labels, the label of each counterpart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument(
        "--layer", "--sae", required=True, metavar="L", help="the layer of the feature, or the name of its SAE"
    )
    parser.add_argument("--feature", type=int, required=True, metavar="I", help="the number of the feature, from 0")
    parser.add_argument(
        "--margins", action="store_true", help="also compute the margin of each step, with passes over all pairs"
    )
    add_inputs(parser)
    add_json(parser)
    add_labels(parser, two_sets=False)


def run(options: argparse.Namespace) -> int:
    """Print the path of a feature."""
    chain = labelled(chain_of(options), options)
    layer = chain.names.key(_number(chain, options.layer))
    with status_line(options.json) as show:
        path = chain.path(
            layer,
            options.feature,
            margins=options.margins,
            progress=lambda done, total: show.share(f"margin {done + 1} of {total}", done / total),
        )
    if options.json:
        steps = [step._asdict() for step in path]
        print_json({"layer": layer, "feature": options.feature, "complete": chain.complete, "path": steps})
    else:
        print_path(path, chain.names.axis, layer)
        legend = {
            "*": "the feature that was asked for",
            "cost": "of the pair with the feature in the row above, by the metric of the run",
            "cosine": "of the two decoder rows",
        }
        margin = f"how much the cost can rise before another matching of the two {chain.names.several} is cheaper"
        print_legend(legend | ({"margin": margin} if options.margins else {}))
        if not chain.complete:
            print(f"\n{INCOMPLETE}")
    return DONE if chain.complete else UNFINISHED


def _number(chain: Chain, text: str) -> int:
    """Return the number of the layer, or of the named SAE, that a text means. Raises `MatchError`."""
    is_number = not chain.names.names and re.fullmatch("[0-9]{1,9}", text)
    return chain.names.number(int(text) if is_number else text)
