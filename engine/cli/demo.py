"""`saematch demo`: match the sample that ships with the package."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from saematch.cli.common import DONE, UNFINISHED
from saematch.cli.parser import as_path
from saematch.cli.progress import run_output
from saematch.cli.terminal import print_path
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch.runs.chain import Chain, Step

HELP = "match the sample that ships with the package, and show the result"
DESCRIPTION = """Match the sample that ships with the package, print the paths of some features through its layers,
and write the page of the run. No network is needed."""
_PATHS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "-o",
        "--output",
        default="saematch-demo",
        metavar="RUN",
        type=as_path,
        help="the run folder to write (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Match the sample, print some paths, and write the page."""
    from saematch.report import Contents, write_report
    from saematch.runs.api import match_layers
    from saematch.sources import load_layers

    _refuse_other_run(options.output)
    print("The sample: SAEs of six consecutive layers of SmolLM2-135M-Instruct, 1,024 features each.\n")
    with run_output() as output:
        chain = match_layers(load_layers("sample"), options.output, overwrite=True, progress=output)
    if not chain.complete:  # the failures are printed already
        return UNFINISHED
    print("\nThe paths of some features through the layers, with their labels and the cost of each step:\n")
    for path in _best_paths(chain):
        print_path(path)
        print()
    page = Path(options.output) / "report.html"
    write_report(Contents(chain, margins=True), page)
    print(f"Written to {options.output}/. Open {page} in a browser, or follow any feature with")
    command = "saematch" if shutil.which("saematch") else sys.argv[0]
    print(f"  {command} path {options.output} --layer {chain.layers[0]} --feature 17")
    return DONE if chain.certified else UNFINISHED


def _best_paths(chain: Chain) -> list[list[Step]]:
    """Return the cheapest paths from the first layer whose first labels are all different."""
    first = chain.layers[0]
    paths = [chain.path(first, feature) for feature in range(len(chain[first, chain.layers[1]].perm))]
    best: dict[str, list[Step]] = {}
    for path in sorted(paths, key=lambda path: sum(step.cost for step in path)):
        if path[0].label is not None and len(best) < _PATHS:
            best.setdefault(path[0].label, path)
    return list(best.values())


def _refuse_other_run(output: str) -> None:
    """Raise `MatchError` if the folder holds anything but a run of the sample, which the demo may replace."""
    from saematch.runs.folder import RunFolder
    from saematch.runs.locks import check_target

    check_target(output)
    if (Path(output) / "run.json").is_file() and RunFolder.open(output).record["source"] != "sample":
        raise MatchError(f"{output}: holds a run that is not of the sample; choose another folder")
