"""`saematch flow`: say from which sites the features of a residual stream come."""

from __future__ import annotations

import argparse
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, print_json
from saematch.cli.groups import add_inputs, add_json, add_run, chain_of
from saematch.cli.parser import as_path
from saematch.cli.terminal import cell, print_legend, status_line, table
from saematch.errors import MatchError
from saematch.text import printable, shorten

if TYPE_CHECKING:
    from saematch.analysis.flow import Flow
    from saematch.runs.chain import Chain

HELP = "say from which sites the features of a residual stream come: the stream before, attention, or MLP"
DESCRIPTION = """For a run of 'saematch layers --pairs flow', group the features of the residual stream after each layer
by the sites in which they have a predecessor: a feature of the residual stream before the layer, of its attention or of
its MLP whose decoder row has a large cosine with that of the feature. With --layer and --feature, list the predecessors
of one feature."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument(
        "--least",
        type=float,
        default=0.7,
        metavar="X",
        help="the least decoder cosine at which a feature counts as a predecessor (default: %(default)s)",
    )
    parser.add_argument(
        "--partners-only",
        action="store_true",
        help="only the one-to-one partners of the run, without the nearest features, which take a pass over all pairs",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=as_path,
        help="also write flow.csv, one row for each feature, flow_groups.csv and a figure to this folder",
    )
    parser.add_argument(
        "--layer", "--sae", metavar="L", help="list the predecessors of a feature after layer L, like 8 or residual.8"
    )
    parser.add_argument("--feature", type=int, metavar="I", help="the number of that feature, from 0")
    add_inputs(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Say from which sites features come."""
    if (options.layer is None) != (options.feature is None):
        raise MatchError("--layer and --feature name one feature together; give both, or neither")
    chain = chain_of(options)
    if options.layer is not None:
        return _show_feature(chain, options)
    from saematch.analysis.flow import find_predecessors

    with status_line(options.json) as show:
        begin = show.counted(len(chain))
        flow = find_predecessors(chain, options.least, nearest=not options.partners_only, progress=begin)
        if options.output is not None:
            flow.write(options.output)
            show("drawing the figure")
            _draw(flow, options.output)
    if options.json:
        print_json({"run": options.run_folder, "groups": flow.groups.rows, "complete": chain.complete})
    else:
        _print(flow)
        if options.output is not None:
            print(f"\nWritten to {options.output}")
    return _end(chain, options)


def _end(chain: Chain, options: argparse.Namespace) -> int:
    if not (chain.complete or options.json):
        print(f"\n{INCOMPLETE}")
    return DONE if chain.complete else UNFINISHED


def _draw(flow: Flow, folder: str) -> None:
    if find_spec("matplotlib") is not None:
        from saematch.evaluation.figures import draw_flow

        draw_flow(flow, folder)


def _print(flow: Flow) -> None:
    from saematch.analysis.flow import GROUPS, NONE

    present = {row["group"] for row in flow.groups.rows if row["features"]}
    groups = [group for group in [*GROUPS[1:], NONE] if group in present]
    lines = []
    for one in flow.layers:
        for by in dict.fromkeys(row["by"] for row in flow.groups.rows):
            share = {row["group"]: f"{row['share']:.1%}" for row in flow.groups.where(layer=one.layer, by=by)}
            possible = [share[group] if {*group.split("+")} <= {*one.pairs, NONE} else "-" for group in groups]
            lines.append([str(one.layer), by, f"{one.features:,}", *possible])
    print(table(("layer", "by", "features", *groups), lines))
    print_legend(
        {
            "by": "nearest counts the feature of each site with the largest decoder cosine, and partner the one that "
            "the run has matched one to one",
            "residual, attention, mlp": "share of the features with a predecessor in this site alone: in the residual "
            "stream before the layer, its attention, or its MLP; with +, in each of these; - if a site was not matched",
            NONE: f"share without a predecessor, at a cosine of at least {flow.least:g}",
        }
    )


def _show_feature(chain: Chain, options: argparse.Namespace) -> int:
    """Print the predecessors of one feature."""
    from saematch.analysis.predecessors import predecessors_of

    layer: Any = int(options.layer) if re.fullmatch("[0-9]{1,9}", options.layer) else options.layer
    found = predecessors_of(chain, layer, options.feature)
    if options.json:
        rows = [one._asdict() for one in found]
        print_json({"layer": layer, "feature": options.feature, "predecessors": rows, "complete": chain.complete})
        return _end(chain, options)
    lines = []
    for one in found:
        for by, feature, cosine, label in (
            ("partner", one.partner, one.cosine, one.label),
            ("nearest", one.nearest, one.nearest_cosine, one.nearest_label),
        ):
            shown = "-" if cosine is None else f"{cosine:.3f}"
            lines.append([one.site, by, cell(feature), shown, shorten(printable(label or ""), 60)])
    print(table(("site", "by", "feature", "cosine", "label"), lines, text_last=True))
    print_legend(
        {
            "partner": "the feature that the run has matched, one to one",
            "nearest": "the feature with the largest decoder cosine",
        }
    )
    return _end(chain, options)
