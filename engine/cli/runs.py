"""Whole models: match their layers, follow features, measure what a run is worth."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from saematch.cli.common import DONE, UNFINISHED, comparison_of, complain, limits_of, print_json
from saematch.cli.looking import described
from saematch.cli.terminal import EventLog, StatusLine, decimal, print_path, print_saes, run_output, size, table
from saematch.errors import MatchError
from saematch.runs.plan import share_of
from saematch.text import printable

_INCOMPLETE = "The run is not complete: it was stopped, is still going on, or pairs of it have failed."


def demo(options: argparse.Namespace) -> int:
    """Match the sample, show paths, write the page."""
    from saematch.report import Contents, write_report
    from saematch.runs.api import match_layers
    from saematch.sources import load_layers

    _refuse_other_run(options.output)
    print("The sample: SAEs of six consecutive layers of SmolLM2-135M-Instruct, 1,024 features each.\n")
    with run_output() as output:
        chain = match_layers(load_layers("sample"), options.output, overwrite=True, progress=output)
    if not chain.complete:  # the failures are printed
        return UNFINISHED
    print("\nSome features through the layers, with what they fire on and the cost of each step:\n")
    shown: set[str | None] = set()
    first = chain.layers[0]
    paths = [chain.path(first, feature) for feature in range(len(chain[first, chain.layers[1]].perm))]
    for path in sorted(paths, key=lambda path: sum(step.cost for step in path)):
        if path[0].label is None or path[0].label in shown:
            continue
        shown.add(path[0].label)
        print_path(path)
        print()
        if len(shown) == 4:
            break
    page = Path(options.output) / "report.html"
    write_report(Contents(chain, firm=True), page)
    print(f"Written to {options.output}/. Open {page} in a browser, or follow any feature with")
    command = "saematch" if shutil.which("saematch") else sys.argv[0]
    print(f"  {command} path {options.output} --layer {first} --feature 17")
    return DONE if chain.certified else UNFINISHED


def layers(options: argparse.Namespace) -> int:
    """Match the layers of a model, or go on with it."""
    from saematch.runs.api import match_layers
    from saematch.sources import load_layers

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would run into the run's own
    if options.dry_run:
        return _dry_run(options)
    if options.output is None:
        raise MatchError("nowhere to write the run: give -o RUN, or --dry-run to see what it would be of")

    failures: dict[tuple[int, int], str] = {}  # of this call: a shard's own

    def note(news: Any) -> None:
        if news.stage == "failed":
            failures[news.pair] = news.error

    listeners: list[Any] = [note]

    def tell(news: Any) -> None:
        for listener in listeners:
            listener(news)

    with ExitStack() as held:
        if not (options.quiet or options.json):
            listeners.append(held.enter_context(run_output()))
        if options.log_json is not None:
            listeners.append(held.enter_context(EventLog(Path(options.log_json))))
        chain = match_layers(
            load_layers(options.source),
            options.output,
            overwrite=options.overwrite,
            pairs=options.pairs,
            against=None if options.against is None else load_layers(options.against),
            shard=options.shard,
            executor=options.executor,
            verify_inputs=options.verify_inputs,
            **comparison_of(options),
            method=options.method,
            **(limits_of(options) | {"device": devices_of(options.device, options.executor)}),
            progress=tell,
        )
    if options.json:
        pairs = [{"source": a, "target": b, **numbers} for (a, b), numbers in chain.scalars().items()]
        failed = [{"source": a, "target": b, "error": error} for (a, b), error in failures.items()]
        print_json(
            {
                "run": options.output,
                "layers": chain.layers,
                "complete": chain.complete,
                "certified": chain.certified,
                "pairs": pairs,
                "failures": failed,
            }
        )
    elif not options.quiet:
        print(f"\nWritten to {options.output}{'' if options.output.endswith('/') else '/'}")
        for (a, b), error in failures.items():
            print(f"no matching of layers {a} and {b}: {printable(error)}")
        if failures:
            print("The same command tries these again, and nothing else.")
        if options.time_limit is not None:
            print("With a time limit, answers depend on the time they had: another run may end with others.")
    else:
        for (a, b), error in failures.items():
            complain(f"no matching of layers {a} and {b}: {error}", UNFINISHED)
    planned = [(a, b) for a, b in chain.record["pairs"]]
    mine = planned if options.shard is None else share_of(planned, *options.shard)  # which may be none
    numbers = chain.scalars()
    return DONE if all(pair in numbers and numbers[pair]["certified"] for pair in mine) else UNFINISHED


def _dry_run(options: argparse.Namespace) -> int:
    """What a run would be of, from headers alone."""
    from saematch.matching.problem import Comparison
    from saematch.matching.solver import Solver
    from saematch.runs.api import check_headers, share_of_memory
    from saematch.runs.pipeline import Work, memory_needed
    from saematch.runs.plan import plan_pairs
    from saematch.sae.features import PARTS
    from saematch.sources import load_layers

    layers = load_layers(options.source)
    against = None if options.against is None else load_layers(options.against)
    pairs = plan_pairs(layers, against, options.pairs)
    pairs = pairs if options.shard is None else share_of(pairs, *options.shard)
    devices = devices_of(options.device, options.executor)
    several = devices if isinstance(devices, list) else [devices]
    memory = options.memory
    if memory is None:
        memory = share_of_memory(several, options.backend, options.precision)
    comparison = Comparison.checked(**({"parts": PARTS, "weights": None, "fold": "threshold"} | comparison_of(options)))
    work = Work(layers, against, comparison, Solver(memory=memory))
    check_headers(work, pairs)
    most = memory_needed(work, pairs) * len(several)
    sets = [(one.source, *described(list(one.handles.values()))) for one in (layers, against) if one is not None]
    unreadable = [error for _, _, errors in sets for error in errors]
    if options.json:
        found = [{"source": source, "layers": rows, "warnings": errors} for source, rows, errors in sets]
        print_json({"sets": found, "pairs": [list(pair) for pair in pairs], "bytes": most})
        return UNFINISHED if unreadable else DONE
    for source, rows, _ in sets:
        print(printable(source if isinstance(source, str) else ", ".join(source.values())))
        print_saes(rows)
        print()
    named = ", ".join(f"{a}-{b}" for a, b in pairs[:12]) + (f" and {len(pairs) - 12:,} more" if len(pairs) > 12 else "")
    print(f"{len(pairs):,} pairs: {named}; at most {size(most)} of memory. Nothing was matched: this was a dry run.")
    for error in unreadable:
        print(f"warning: {printable(error)}")
    return UNFINISHED if unreadable else DONE


def devices_of(given: str | None, executor: str | None) -> list[str] | str | None:
    """The devices of a run: those listed, else every GPU; an executor's workers find their own."""
    if given is not None:
        return given.split(",") if "," in given else given
    if executor is not None:
        return None
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or None


def path(options: argparse.Namespace) -> int:
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
            print(f"\n{_INCOMPLETE}")
    return DONE if chain.complete else UNFINISHED


def evaluate(options: argparse.Namespace) -> int:
    """Measure what a run is worth."""
    from saematch.cli.evaluation import evaluation_of, figures_of, summary_of

    quiet = options.quiet or options.json
    status = StatusLine()

    def tell(what: str, news: Any) -> None:
        if not quiet:
            more = f"{what}: {news.finished} of {news.of} pairs" if news is not None and news.of else what
            status.show(more)

    try:
        evaluation, chain = evaluation_of(options, tell)
        status.show("figures")
        undrawn = figures_of(evaluation, chain, options.beside)
    finally:
        status.clear()
    rows = summary_of(evaluation)
    left = evaluation.left | {f"figure {name}": reason for name, reason in undrawn.items()}
    if options.json:
        print_json(
            {
                "out": evaluation.folder,
                "fold": evaluation.fold,
                "summary": rows,
                "left": left,
                "tables": sorted(evaluation.tables),
                "complete": chain.complete,
                "unfinished": evaluation.unfinished,
            }
        )
    elif not quiet:
        if not chain.complete:
            print(f"{_INCOMPLETE}\n")
        print(table(tuple(rows[0]), [[decimal(value) for value in row.values()] for row in rows]))
        print(f"\nWritten to {evaluation.folder}/: {len(evaluation.tables)} tables, defined in tables.json; figures/")
        for name, reason in left.items():
            print(f"  not there: {name} ({reason})")
        if evaluation.unfinished:
            print(f"Unfinished: {printable(evaluation.unfinished)}. The same command goes on from there.")
    return DONE if chain.complete and not evaluation.unfinished else UNFINISHED


def _refuse_other_run(output: str) -> None:
    """The demo replaces a run of the sample, and nothing else."""
    from saematch.runs.folder import RunFolder, check_target

    check_target(output)
    if (Path(output) / "run.json").is_file() and RunFolder.open(output).record["source"] != "sample":
        raise MatchError(f"{output}: holds a run that is not of the sample; choose another folder")
