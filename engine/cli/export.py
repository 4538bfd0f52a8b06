"""`saematch export`: write every feature of a run and its partner to a file for other programs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from saematch.cli.common import DONE, UNFINISHED, check_output, print_json
from saematch.cli.groups import (
    add_inputs,
    add_json,
    add_labels,
    add_margins,
    add_overwrite,
    add_run,
    chain_of,
    labelled,
)
from saematch.cli.parser import as_path
from saematch.cli.terminal import status_line

HELP = "write every feature and its partner to a file for other programs"
DESCRIPTION = """Write one row for every feature and pair of layers: its partner, the cost, and what else is known of
the two. A .graphml file has features as nodes and matched pairs as edges instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=as_path, required=True, help="the file to write")
    add_overwrite(parser)
    parser.add_argument("--format", help="csv, parquet, json or graphml (default: the suffix of FILE)")
    parser.add_argument(
        "--max-cost",
        type=float,
        default=math.inf,
        metavar="C",
        help="leave out features without a partner, and those whose pair costs more than C",
    )
    parser.add_argument(
        "--min-cosine",
        type=float,
        default=-math.inf,
        metavar="X",
        help="leave out features without a partner, and those whose decoder row has a cosine below X with their "
        "partner's",
    )
    add_margins(parser)
    add_inputs(parser)
    add_json(parser)
    add_labels(parser)


def run(options: argparse.Namespace) -> int:
    """Write every feature and its partner."""
    from saematch.analysis.export import export

    check_output(options.output, options.overwrite)
    chain = labelled(chain_of(options), options)
    suffix: Any = Path(options.output).suffix.removeprefix(".")
    format = suffix if options.format is None else options.format
    with status_line(options.json) as show:
        rows = export(
            chain,
            options.output,
            format,
            margins=options.margins,
            max_cost=options.max_cost,
            min_cosine=options.min_cosine,
            progress=show.counted(len(chain)),
        )
    if options.json:
        print_json({"file": options.output, "format": format, "rows": rows, "complete": chain.complete})
    else:
        what = "edges" if format == "graphml" else "rows"
        matched = min(rows, sum(int((chain.arrays(pair).perm >= 0).sum()) for pair in chain))
        unmatched = f": {matched:,} matched features and {rows - matched:,} without a partner" if matched < rows else ""
        print(f"{rows:,} {what} written to {options.output}{unmatched}")
    return DONE if chain.complete else UNFINISHED
