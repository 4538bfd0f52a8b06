"""`saematch top`: list the features of a run that stand out."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, print_json
from saematch.cli.groups import add_inputs, add_json, add_labels, add_run, chain_of, labelled
from saematch.cli.terminal import print_legend, print_ranked, status_line, table
from saematch.errors import MatchError
from saematch.text import printable, shorten

if TYPE_CHECKING:
    from saematch.runs.chain import Chain

HELP = "list the features of a run that persist longest, are most alike, or are least certain"
DESCRIPTION = """List features of a run: those that persist through the most layers, the pairs whose decoder rows are
most alike, or the pairs whose partner is least certain. Without an option, list the ten that persist longest or, for
two sets of SAEs, the ten pairs that are most alike."""
_COUNT = 10
_PERSISTENT = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--persistent", type=int, metavar="N", help="the N features that persist through the most layers (default: 10)"
    )
    which.add_argument("--alike", type=int, metavar="N", help="the N matched pairs with the largest decoder cosines")
    which.add_argument(
        "--uncertain",
        type=int,
        metavar="N",
        help="the N matched pairs with the smallest margins, which takes passes over all pairs of features",
    )
    parser.add_argument(
        "--cosine",
        type=float,
        default=_PERSISTENT,
        metavar="X",
        help="for --persistent: the least decoder cosine at which a partner is the same feature (default: %(default)s)",
    )
    add_inputs(parser)
    add_json(parser)
    add_labels(parser)


def run(options: argparse.Namespace) -> int:
    """List features that stand out."""
    chain = labelled(chain_of(options), options)
    if chain.of_two_sets and options.persistent is None and options.uncertain is None:
        options.alike = _COUNT if options.alike is None else options.alike  # features persist only within one set
    if options.alike is not None or options.uncertain is not None:
        _list_pairs(options, chain)
    else:
        _list_lasting(options, chain)
    if not (chain.complete or options.json):
        print(f"\n{INCOMPLETE}")
    return DONE if chain.complete else UNFINISHED


def _list_pairs(options: argparse.Namespace, chain: Chain) -> None:
    from saematch.analysis.ranking import alike, uncertain

    if options.alike is not None:
        name, pairs = "alike", alike(chain, _checked(options.alike, "--alike"))
    else:
        count = _checked(options.uncertain, "--uncertain")
        with status_line(options.json) as show:
            begin = show.counted(len(chain))
            pairs = uncertain(chain, count, lambda pair: begin(f"margins of {chain.names.titles(pair)}"))
        name = "uncertain"
    if options.json:
        print_json({name: [pair._asdict() for pair in pairs], "complete": chain.complete})
        return
    print_ranked(chain, pairs)
    legend = {
        "cost": "of the pair, by the metric of the run (squared distance by default)",
        "cosine": "of their decoder rows",
    }
    margin = "how much the cost of the pair can rise before another matching of all features is cheaper"
    print_legend(legend | ({"margin": margin} if name == "uncertain" else {}))


def _list_lasting(options: argparse.Namespace, chain: Chain) -> None:
    from saematch.analysis.ranking import lasting

    count = _COUNT if options.persistent is None else _checked(options.persistent, "--persistent")
    found = lasting(chain, count, options.cosine)
    if options.json:
        print_json({"persistent": [one._asdict() for one in found], "complete": chain.complete})
        return
    if not found:
        print(f"No feature has a partner whose decoder row has a cosine of at least {options.cosine:g} with its own.")
        return
    lines = []
    for one in found:
        label = shorten(printable(chain.label(one.layer, one.feature) or ""), 60)
        lines.append([f"{one.layer} -> {one.last}", str(one.feature), str(one.layers), f"{one.cosine:.3f}", label])
    several = chain.names.several
    print(table((several, "feature", "persists", "cosine", "label"), lines, text_last=True))
    print_legend(
        {
            "feature": f"its number in the first of the {several}",
            "persists": f"number of {several}, with a decoder cosine of at least {options.cosine:g} from each to the "
            "next",
            "cosine": "the least of these cosines",
        }
    )
    layer = shlex.quote(str(found[0].layer))
    flag = "--sae" if chain.names.names else "--layer"
    example = f"saematch path {options.run_folder} {flag} {layer} --feature {found[0].feature}"
    print(f"\nTo follow the first: {example}")


def _checked(count: int, flag: str) -> int:
    if count < 1:
        raise MatchError(f"{flag} {count}: give the number of features to list, at least 1")
    return count
