"""A run for eyes, and for other programs."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, print_json, refuse_unwritable
from saematch.cli.terminal import StatusLine, remark, size
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch.report import Contents


def report(options: argparse.Namespace) -> int:
    """Write the page of a run."""
    from saematch.report import write_report

    if options.output is None and "://" in options.run_folder:
        raise MatchError("the page of a run in a store is written here: give -o FILE")
    output = str(Path(options.run_folder) / "report.html") if options.output is None else options.output
    contents = _contents(options)
    status = StatusLine()
    try:
        write_report(contents, Path(output), status.show)
    finally:
        status.clear()
    if options.json:
        print_json({"file": output, "bytes": Path(output).stat().st_size, "complete": contents.chain.complete})
    else:
        print(f"Written to {output} ({size(Path(output).stat().st_size)}); it opens in any browser")
    if options.open:
        webbrowser.open(Path(output).absolute().as_uri())
    return DONE if contents.chain.complete else UNFINISHED


def serve(options: argparse.Namespace) -> int:
    """Serve the page of a run until Ctrl-C."""
    from saematch.report.serve import Server

    try:
        server = Server(_contents(options, options.weights or options.firm), options.host, options.port)
    except (OSError, OverflowError, UnicodeError) as error:
        where = f"--host {options.host} --port {options.port}"
        raise MatchError(f"{where}: cannot be served ({error}); choose another host or port") from error
    with server:
        print(f"{server.address}\nCtrl-C ends it.", flush=True)
        if options.open:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return DONE


def _contents(options: argparse.Namespace, weights: bool = True) -> Contents:
    """What the page of a run shows."""
    from saematch.evaluation.explanations import explanations_of
    from saematch.report.contents import Contents
    from saematch.runs.chain import Chain
    from saematch.sources import load_layers

    chain = Chain.load(options.run_folder, None if options.inputs is None else load_layers(options.inputs))
    beside = Path(options.run_folder) / "evaluation"
    evaluation = options.evaluation
    if evaluation is None and (beside / "tables.json").is_file():
        evaluation = beside
    explained = None if options.labels is None else explanations_of(chain, options.labels, options.neuronpedia)
    remark(explained.about if explained else ())
    return Contents(
        chain,
        labels=explained and explained.texts,
        firm=options.firm,
        evaluation=evaluation,
        neuronpedia=options.neuronpedia,
        weights=weights,
    )


def export(options: argparse.Namespace) -> int:
    """Write what is known of every matched feature."""
    from saematch.analysis.export import export
    from saematch.runs.chain import Chain
    from saematch.sources import load_layers

    refuse_unwritable(options.output, options.overwrite)
    chain = Chain.load(options.run_folder, None if options.inputs is None else load_layers(options.inputs))
    status = StatusLine()
    form: Any = Path(options.output).suffix.removeprefix(".") if options.format is None else options.format
    try:
        rows = export(
            chain,
            Path(options.output),
            form,
            firm=options.firm,
            most_cost=options.max_cost,
            least_cosine=options.min_cosine,
            progress=status.show,
        )
    finally:
        status.clear()
    if options.json:
        print_json({"file": options.output, "format": form, "rows": rows, "complete": chain.complete})
    else:
        print(f"{rows:,} matched features written to {options.output}")
    return DONE if chain.complete else UNFINISHED
