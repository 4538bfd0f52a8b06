"""`saematch layers`: match the layers of a model."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, complain, for_terminal, in_flags, print_json
from saematch.cli.groups import (
    MAP_OF_LAYERS,
    OF_LAYERS,
    add_comparison,
    add_json,
    add_method,
    add_overwrite,
    add_quiet,
    add_solver,
    add_source,
    comparison_of,
    solver_of,
)
from saematch.cli.info import describe
from saematch.cli.named import add_names, named_saes
from saematch.cli.parser import as_path, as_shard
from saematch.cli.progress import EventLog, Listener, run_output
from saematch.cli.show import as_json, failures_as_json, print_pairs
from saematch.cli.terminal import print_saes, status_line
from saematch.errors import MatchError
from saematch.runs.plan import Pair, is_flow, share_of
from saematch.runs.summary import summary_of
from saematch.text import duration, listing, printable, size

if TYPE_CHECKING:
    from saematch.runs.chain import Chain
    from saematch.runs.records import Progress
    from saematch.sources import Layers, Names

HELP = "match each layer of a model with the next, or the pairs of layers of your choice"
DESCRIPTION = """Match each layer of SOURCE with the next, or the pairs of layers of your choice, and write every pair
to the run folder as soon as it is finished. Rerun the same command to resume a run that was stopped: finished pairs
are skipped. With several sources, --names or --axis, match SAEs that are not layers, such as checkpoints, in the order
in which they are given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    # What is matched, and where the run is written.
    add_source(parser, several="several sources are SAEs with names")
    add_names(parser)
    parser.add_argument(
        "--axis", help="what the SAEs differ in, like step or seed (default: layer, or SAE for SAEs with names)"
    )
    parser.add_argument(
        "-o", "--output", metavar="RUN", type=as_path, help="the run folder, new or to be resumed: a path or a URL"
    )
    add_overwrite(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only show the SAEs, the pairs, and the memory and time that a run would take",
    )
    parser.add_argument(
        "--pairs",
        help="adjacent (default), same (default with --against), all, flow (of residual=SOURCE attention=SOURCE "
        "mlp=SOURCE), or a list of pairs like 0-12,3-5 or of names",
    )
    parser.add_argument("--against", metavar="SOURCE", help="match with the layers of another set of SAEs")
    # How the run is done.
    add_method(parser)
    parser.add_argument("--shard", type=as_shard, metavar="I/N", help="match only part I of N of the pairs, from 1")
    parser.add_argument("--executor", metavar="ray", help="run each pair as a task of a Ray cluster")
    parser.add_argument(
        "--verify-inputs", action="store_true", help="hash the inputs of finished pairs again before resuming"
    )
    # What is printed.
    add_quiet(parser)
    parser.add_argument(
        "--log-json",
        metavar="FILE",
        type=as_path,
        help="append the progress of the run to FILE, one JSON object per line",
    )
    add_json(parser)
    # How features are compared, and what the solver may use.
    add_comparison(parser, OF_LAYERS, MAP_OF_LAYERS)
    add_solver(parser)


def run(options: argparse.Namespace) -> int:
    """Match the layers of a model, or resume a run."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the hub's bars would mix with the run's own
    if options.dry_run:
        return _dry_run(options)
    if options.output is None:
        raise MatchError("there is no run folder to write to; give -o RUN, or --dry-run to see what a run would match")
    matched: set[Pair] = set()  # in this call, as are the failures: with --shard, those of the shard
    failures: dict[Pair, str] = {}
    chain = _match(options, matched, failures)
    if options.json:
        failed = failures_as_json(chain, failures)
        print_json(as_json(chain, summary_of(chain)) | {"run": options.output, "failures": failed})
    elif options.quiet:
        for pair, error in failures.items():
            complain(f"no matching of {chain.names.titles(pair)}: {error}", UNFINISHED)
    else:
        _print_summary(options, chain, matched, failures)
    mine = chain.planned if options.shard is None else share_of(chain.planned, *options.shard)  # perhaps none
    numbers, baseline = chain.scalars(), options.method != "optimal"
    return DONE if all(pair in numbers and (baseline or numbers[pair]["certified"]) for pair in mine) else UNFINISHED


def _match(options: argparse.Namespace, matched: set[Pair], failures: dict[Pair, str]) -> Chain:
    """Run `match_layers` with all listeners that the options ask for; note which pairs it matches, and which fail."""
    from saematch.runs.api import match_layers
    from saematch.sources import load_layers

    # Every progress event goes to all listeners.
    def note_outcome(event: Progress) -> None:
        if event.pair is not None and event.matching is not None:
            matched.add(event.pair)
        if event.pair is not None and event.error is not None:
            failures[event.pair] = event.error

    listeners: list[Listener] = [note_outcome]

    def notify(event: Progress) -> None:
        for listener in listeners:
            listener(event)

    # Displays and logs are closed when the run ends, also after an error.
    with ExitStack() as stack:
        if not (options.quiet or options.json):
            listeners.append(stack.enter_context(run_output(options.method != "optimal")))
        if options.log_json is not None:
            listeners.append(stack.enter_context(EventLog(Path(options.log_json))))
        return match_layers(
            _layers(options),
            options.output,
            axis=options.axis,
            overwrite=options.overwrite,
            pairs=options.pairs,
            against=None if options.against is None else load_layers(options.against),
            shard=options.shard,
            executor=options.executor,
            verify_inputs=options.verify_inputs,
            **_comparison_of(options),
            method=options.method,
            **(solver_of(options) | {"device": _devices(options)}),
            progress=notify,
        )


def _layers(options: argparse.Namespace) -> Layers:
    """Return the SAEs to match: the layers of one source, of several sites, or SAEs with names."""
    from saematch.sources import Layers, as_sites, load_layers

    if is_flow(options.pairs) and options.names is None:
        return as_sites(_by_site(options.source))
    if len(options.source) == 1 and options.names is None and options.axis in (None, "layer"):
        return load_layers(options.source[0])
    saes = named_saes(options.source, options.names)
    named = Layers.named(saes, {name: str(sae.checkpoint.address) for name, sae in saes.items()})
    return as_sites(named) if is_flow(options.pairs) else named


def _by_site(sources: list[str]) -> Any:
    """Return site -> its source for sources like mlp=SOURCE, or the SAEs of one list that names sites itself."""
    from saematch.sources import Names, load_layers
    from saematch.sources.names import SITES

    given = [(site, source) for site, _, source in (source.partition("=") for source in sources)]
    wrong = [source for source, (site, _) in zip(sources, given, strict=True) if site not in SITES]
    if wrong and len(sources) == 1:
        layers = load_layers(sources[0])
        if Names(layers.names).sites:
            return layers
    if wrong or len(dict(given)) < len(given):
        known = ", ".join(f"{site}=SOURCE" for site in SITES)
        shown = " ".join(wrong or sources)
        raise MatchError(f"{shown}: for --pairs flow, give each of {known} at most once, or one .yaml list of these")
    return dict(given)


def _print_summary(options: argparse.Namespace, chain: Chain, matched: set[Pair], failures: dict[Pair, str]) -> None:
    # The rows of this call are printed already. The whole table follows if an earlier call has matched other pairs.
    rows = summary_of(chain)
    print_pairs(chain, rows, with_table=not matched.issuperset(chain))
    print(f"\nWritten to {options.output}{'' if options.output.endswith('/') else '/'}")
    for pair, error in failures.items():
        print(f"no matching of {chain.names.titles(pair)}: {for_terminal(error)}")
    if failures:
        print("The same command tries these pairs again, and no others.")
    if options.time_limit is not None:
        print("With a time limit, results depend on how fast the machine was: another run may give other matchings.")


def _comparison_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the comparison; one folder of activations is given as it is, two as a list."""
    given = comparison_of(options)
    if len(given.get("activations", ())) == 1:
        given["activations"] = given["activations"][0]
    return given


def _devices(options: argparse.Namespace) -> list[str] | str | None:
    """Return the devices that the user lists, else all GPUs; the workers of an executor find their own."""
    if options.device is not None:
        return options.device.split(",") if "," in options.device else str(options.device)
    if options.executor is not None:
        return None
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or None


def _dry_run(options: argparse.Namespace) -> int:
    """Print what a run would match and the memory that it would take, from headers alone."""
    from saematch.runs.mapped import in_other_basis
    from saematch.sources import Names, load_layers

    layers, against = _layers(options), None if options.against is None else load_layers(options.against)
    names = Names.of(layers, against, options.axis)
    layers, against = layers.numbered_by(names.names), against and against.numbered_by(names.names)
    maps: dict[str, Any] = {}
    if options.map is not None:
        layers, maps = in_other_basis(layers, options.map, against is not None, options.metric)
    with status_line(options.json) as show:
        show("reading headers, and matching random rows to estimate the time")
        pairs, needed, seconds = _plan(options, layers, against, names, maps)
    sets = [(saes.source, *_described(saes, names)) for saes in (layers, against) if saes is not None]
    unreadable = [error for _, _, errors in sets for error in errors]
    if options.json:
        described = [
            {"source": source, "layers": rows, "warnings": list(map(in_flags, errors))} for source, rows, errors in sets
        ]
        print_json({"sets": described, "pairs": list(map(names.keys, pairs)), "bytes": needed, "seconds": seconds})
        return UNFINISHED if unreadable else DONE
    for source, rows, _ in sets:
        print(printable(source if isinstance(source, str) else ", ".join(source.values())))
        print_saes(rows, names.axis)
        print()
    listed = listing(map(names.pair_name, pairs), most=12)
    count = f"{len(pairs):,} pair{'' if len(pairs) == 1 else 's'}"
    print(f"{count}: {listed}")
    print(f"at most {size(needed)} of memory")
    if seconds is not None:
        print(
            f"about {duration(seconds)} on this machine, by a trial with random rows; half or twice as long is possible"
        )
    print("Nothing was matched: this was a dry run.")
    for error in unreadable:
        print(f"warning: {for_terminal(error)}")
    return UNFINISHED if unreadable else DONE


def _described(saes: Layers, names: Names) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each SAE whose header can be read, under its name if it has one, and the messages of others."""
    rows, unreadable = list[dict[str, Any]](), list[str]()
    for layer, handle in saes.handles.items():
        of_one, errors = describe([handle])
        rows += [row | {"layer": names.key(layer)} for row in of_one]
        unreadable += errors
    return rows, unreadable


def _plan(
    options: argparse.Namespace, layers: Layers, against: Layers | None, names: Names, maps: dict[str, Any]
) -> tuple[list[Pair], int, float | None]:
    """Return the pairs that a run would match, the most memory that it would take, and an estimate of its seconds."""
    from saematch.matching.solver import Solver
    from saematch.runs.api import comparison_of_run
    from saematch.runs.estimate import seconds_needed
    from saematch.runs.plan import plan_pairs
    from saematch.runs.work import Work, check_headers, memory_needed, pairs_at_once

    pairs = plan_pairs(layers, against, options.pairs, names)
    pairs = pairs if options.shard is None else share_of(pairs, *options.shard)
    devices = _devices(options)
    workers = len(devices) if isinstance(devices, list) else 1
    limits = solver_of(options) | {"device": devices[0] if isinstance(devices, list) else devices}
    solver = Solver(method=options.method, **limits).checked()
    compared = _comparison_of(options)
    compared.pop("map", None)  # the layers are mapped already
    comparison = comparison_of_run(pairs, against is not None, bool(names.names), is_flow(options.pairs), **compared)
    work = Work(layers, against, comparison, solver, names, maps)
    check_headers(work, pairs)
    memory = memory_needed(work, pairs, pairs_at_once(work, pairs, workers)) * workers
    return pairs, memory, seconds_needed(work, pairs, workers)
