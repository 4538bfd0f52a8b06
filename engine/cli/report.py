"""`saematch report`: write a run, or a comparison of SAEs, as one HTML page."""

from __future__ import annotations

import argparse
import os
import webbrowser
from pathlib import Path

from saematch.cli.common import DONE, UNFINISHED, check_output, print_json
from saematch.cli.groups import (
    add_inputs,
    add_json,
    add_margins,
    add_overwrite,
    add_page,
    add_run,
    contents_of,
    is_comparison,
    refuse_options_of_runs,
)
from saematch.cli.parser import as_path
from saematch.cli.terminal import status_line
from saematch.errors import MatchError
from saematch.text import size

HELP = "write a run, or a comparison, as one HTML page that needs no network"
DESCRIPTION = """Write a run as one self-contained HTML page: an overview, charts, and an explorer in which every
feature can be found and followed. The page opens in any browser and needs no network. A folder that
'saematch consistency' wrote becomes a page of its own kind: how far the SAEs agree, and where each feature is found."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=as_path, help="the page to write (default: RUN/report.html)"
    )
    add_overwrite(parser)
    add_inputs(parser)
    add_margins(parser)
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    add_json(parser)
    add_page(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page of a run, or of a comparison of SAEs."""
    if options.output is None and "://" in options.run_folder:
        raise MatchError("the page of a run in a store is written to this machine; give -o FILE")
    if options.output is None and not os.path.isdir(options.run_folder):
        raise MatchError(f"{options.run_folder}: neither a run nor a comparison of SAEs: there is no such folder")
    output = Path(options.run_folder) / "report.html" if options.output is None else Path(options.output)
    _check_page(output, options)
    is_done = _write_comparison(options, output) if is_comparison(options.run_folder) else _write_run(options, output)
    written = output.stat().st_size
    if options.json:
        print_json({"file": str(output), "bytes": written, "complete": is_done})
    else:
        print(f"Written to {output} ({size(written)}); the page opens in any browser")
    if options.open:
        webbrowser.open(output.absolute().as_uri())
    return DONE if is_done else UNFINISHED


def _write_run(options: argparse.Namespace, output: Path) -> bool:
    """Write the page of a run; return whether all its pairs are matched."""
    from saematch.report import write_report

    contents = contents_of(options, weights=True)
    with status_line(options.json) as show:
        write_report(contents, output, show.counted(len(contents.chain)))
    return contents.chain.complete


def _write_comparison(options: argparse.Namespace, output: Path) -> bool:
    """Write the page of a comparison of SAEs; return True, because only finished comparisons are kept."""
    from saematch.dictionaries import Consistency
    from saematch.report import write_comparison

    refuse_options_of_runs(
        options,
        "inputs",
        "against",
        "margins",
        "labels",
        "against_labels",
        "neuronpedia",
        "against_neuronpedia",
        "evaluation",
    )
    with status_line(options.json) as show:
        show("reading the comparison")
        write_comparison(Consistency.load(options.run_folder), output)
    return True


def _check_page(output: Path, options: argparse.Namespace) -> None:
    """Check that the page can be written, and that margins, which took time to compute, are not dropped unsaid."""
    try:
        check_output(str(output), options.overwrite)
    except MatchError as error:
        from saematch.report.page import has_margins

        keep = " (and --margins, to keep its margins)" if not options.margins and has_margins(output) else ""
        raise MatchError(f"{error}{keep}") from error
