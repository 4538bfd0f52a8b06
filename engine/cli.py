"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import traceback
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import saematch
from saematch.arguments import BAD_INPUT, parser
from saematch.errors import MatchError
from saematch.terminal import (
    EventLog,
    StatusLine,
    decimal,
    print_path,
    print_proof,
    print_saes,
    printable,
    round_text,
    run_output,
    size,
    table,
)

if TYPE_CHECKING:
    from saematch import Matching
    from saematch.report.contents import Contents
    from saematch.sources import StoredSAE

DONE, DEFECT, UNFINISHED, INTERRUPTED = 0, 1, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 all done and certified; 1 a defect of ours; 2 bad input or usage; 3 finished, but something is not certified, or
    (verify) not optimal; 130 interrupted.
    """
    try:
        options = parser(COMMANDS, saematch.__version__).parse_args(arguments)
        try:
            return int(options.run(options))
        finally:
            sys.stdout.flush()
    except MatchError as error:
        return _complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted; what was finished is kept, and the same command goes on from there", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNFINISHED
    except MemoryError:
        return _complain("not enough memory; give a smaller --memory, or match smaller SAEs", BAD_INPUT)
    except OSError as error:
        return _complain(f"{error.filename or 'output'}: {error.strerror or error}", BAD_INPUT)
    except Exception:
        if _interrupted.is_set():  # in the middle of an import, from which anything may come
            return _complain("interrupted before anything was done", INTERRUPTED)
        traceback.print_exc()
        return _complain("this is a defect of ours; please report it with the lines above", DEFECT)


_interrupted = threading.Event()


def program() -> NoReturn:
    """The program: `main`, without waiting for the passes of a run that was interrupted."""

    def interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        code = main()
    except KeyboardInterrupt:  # once more, while the first was being dealt with
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    """One line on stderr, without what could steer a terminal."""
    print("saematch:", printable(" ".join(message.split())), file=sys.stderr)
    return code


def _demo(options: argparse.Namespace) -> int:
    from saematch.layers import match_layers
    from saematch.report import Contents, write_report
    from saematch.sources import load_layers

    _refuse_other_run(options.output)
    print("The sample: SAEs of six consecutive layers of SmolLM2-135M-Instruct, 1,024 features each.\n")
    with run_output() as output:
        chain = match_layers(load_layers("sample"), options.output, overwrite=True, progress=output)
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


def _info(options: argparse.Namespace) -> int:
    from saematch.sources import search

    found, _ = search(options.source)
    rows, unreadable = _described(found)
    warnings = unreadable + _warnings(rows)
    if options.json:
        _print_json({"source": options.source, "layers": rows, "warnings": warnings})
        return UNFINISHED if unreadable else DONE
    print_saes(rows)
    for warning in warnings:
        print(f"warning: {printable(warning)}")
    return UNFINISHED if unreadable else DONE


def _described(found: Sequence[StoredSAE]) -> tuple[list[dict[str, Any]], list[str]]:
    """What the headers of SAEs say, and why those of others say nothing."""
    rows: list[dict[str, Any]] = []
    unreadable = []
    for stored in found:
        try:
            about, sae = stored.describe(), stored.describe().sae
            rows.append({
                "layer": stored.layer, "F": sae.F, "d": sae.d, "activation": sae.activation, "l0": stored.l0,
                "dtype": about.dtype, "bytes": about.bytes, "format": stored.family.name, "path": stored.at.shown,
                "notes": list(sae.notes),
            })  # fmt: skip
        except MatchError as error:
            unreadable.append(str(error))
    return rows, unreadable


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader should know before matching these layers."""
    found = [
        f"layer {row['layer']}: no threshold ({row['activation']}), choose --fold decoder_norm or none"
        for row in rows
        if row["activation"] != "jumprelu"
    ]
    numbered = [row for row in rows if row["layer"] is not None]
    for a, b in pairwise(numbered):
        pair = f"layers {a['layer']} and {b['layer']}"
        if b["layer"] == a["layer"]:
            found.append(
                f"layer {a['layer']}: more than one SAE, {a['path']} and {b['path']}; choose a folder with one a layer"
            )
        elif b["layer"] > a["layer"] + 1:
            found.append(f"{pair}: the layers between them are missing")
        if a["d"] != b["d"]:
            found.append(f"{pair}: activations of different width, cannot be compared")
        if a["l0"] and b["l0"] and max(a["l0"], b["l0"]) > 1.5 * min(a["l0"], b["l0"]):
            found.append(f"{pair}: L0 differs more than 1.5-fold ({a['l0']:g} and {b['l0']:g})")
    return found


def _match(options: argparse.Namespace) -> int:
    from saematch.pairs import match
    from saematch.sources import load

    _refuse_unwritable(options.output, options.overwrite)
    name = Path(options.output or ".safetensors").name
    if not name.endswith(".safetensors") or name == "sae_weights.safetensors":
        raise MatchError(f"{options.output}: a matching is a .safetensors file, and sae_weights.safetensors an SAE's")
    status = StatusLine()
    matching = match(
        load(options.a), load(options.b), **_comparison(options), method=options.method, **_limits(options),
        progress=lambda news: status.show(round_text(news)),
    )  # fmt: skip
    status.clear()
    if options.output:
        matching.save(options.output)
    if options.json:
        _print_json(_matching_json(matching))
    else:
        print_proof(matching)
        print(f"\nWritten to {options.output}" if options.output else "\nNothing written: give -o FILE to keep it")
    return DONE if matching.certified else UNFINISHED


def _layers(options: argparse.Namespace) -> int:
    from saematch.layers import match_layers
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
        if options.log_json:
            listeners.append(EventLog(held.enter_context(Path(options.log_json).open("a", encoding="utf-8"))))
        chain = match_layers(
            load_layers(options.source), options.output, overwrite=options.overwrite, pairs=options.pairs,
            against=load_layers(options.against) if options.against else None, shard=options.shard,
            executor=options.executor, verify_inputs=options.verify_inputs, **_comparison(options),
            method=options.method, **(_limits(options) | {"device": _devices(options.device, options.executor)}),
            progress=tell,
        )  # fmt: skip
    whole = not failures if options.shard else chain.complete
    if options.json:
        pairs = [{"source": a, "target": b, **numbers} for (a, b), numbers in chain.scalars().items()]
        failed = [{"source": a, "target": b, "error": error} for (a, b), error in failures.items()]
        _print_json({"run": options.output, "layers": chain.layers, "complete": chain.complete,
                     "certified": chain.certified, "pairs": pairs, "failures": failed})  # fmt: skip
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
            _complain(f"no matching of layers {a} and {b}: {error}", UNFINISHED)
    return DONE if chain.certified and whole else UNFINISHED


def _dry_run(options: argparse.Namespace) -> int:
    """What a run would be of, from headers alone."""
    from saematch.features import PARTS
    from saematch.layers import check_headers, share_of_memory
    from saematch.plan import plan_pairs, share_of
    from saematch.problem import Comparison
    from saematch.solver import Solver
    from saematch.sources import load_layers
    from saematch.stream import Work, memory_needed

    layers = load_layers(options.source)
    against = load_layers(options.against) if options.against else None
    pairs = plan_pairs(layers, against, options.pairs)
    pairs = share_of(pairs, *options.shard) if options.shard else pairs
    devices = _devices(options.device, options.executor)
    several = devices if isinstance(devices, list) else [devices]
    memory = options.memory or share_of_memory(several, options.backend, options.precision)
    comparison = Comparison.checked(**({"parts": PARTS, "weights": None, "fold": "threshold"} | _comparison(options)))
    work = Work(layers, layers if against is None else against, comparison, Solver(memory=memory))
    check_headers(work, pairs)
    most = memory_needed(work, pairs) * len(several)
    sets = [(one.source, *_described(list(one.stored.values()))) for one in (layers, against) if one is not None]
    unreadable = [error for _, _, errors in sets for error in errors]
    if options.json:
        found = [{"source": source, "layers": rows, "warnings": errors} for source, rows, errors in sets]
        _print_json({"sets": found, "pairs": [list(pair) for pair in pairs], "bytes": most})
        return UNFINISHED if unreadable else DONE
    for source, rows, _ in sets:
        print(printable(source))
        print_saes(rows)
        print()
    named = ", ".join(f"{a}-{b}" for a, b in pairs[:12]) + (f" and {len(pairs) - 12:,} more" if len(pairs) > 12 else "")
    print(f"{len(pairs):,} pairs: {named}; at most {size(most)} of memory. Nothing was matched: this was a dry run.")
    for error in unreadable:
        print(f"warning: {printable(error)}")
    return UNFINISHED if unreadable else DONE


def _devices(given: str | None, executor: str | None) -> list[str] | str | None:
    """The devices of a run: those listed, else every GPU; an executor's workers find their own."""
    if given is not None:
        return given.split(",") if "," in given else given
    if executor is not None:
        return None
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or None


def _path(options: argparse.Namespace) -> int:
    from saematch.chain import Chain

    chain = Chain.load(options.run_folder)
    path = chain.path(options.layer, options.feature)
    if options.json:
        steps = [step._asdict() for step in path]
        _print_json({"layer": options.layer, "feature": options.feature, "complete": chain.complete, "path": steps})
    else:
        print_path(path)
        if not chain.complete:
            print("\nThe run is not complete: it was stopped, or is still going on.")
    return DONE if chain.complete else UNFINISHED


def _evaluate(options: argparse.Namespace) -> int:
    from saematch.evaluation.command import evaluation_of, figures_of, summary_of

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
        _print_json({"out": evaluation.folder, "fold": evaluation.fold, "summary": rows, "left": left,
                     "tables": sorted(evaluation.tables), "unfinished": evaluation.unfinished})  # fmt: skip
    elif not quiet:
        print(table(tuple(rows[0]), [[decimal(value) for value in row.values()] for row in rows]))
        print(f"\nWritten to {evaluation.folder}/: {len(evaluation.tables)} tables, defined in tables.json; figures/")
        for name, reason in left.items():
            print(f"  not there: {name} ({reason})")
        if evaluation.unfinished:
            print(f"Unfinished: {printable(evaluation.unfinished)}. The same command goes on from there.")
    return UNFINISHED if evaluation.unfinished else DONE


def _verify(options: argparse.Namespace) -> int:
    from saematch.matching import read_permutation
    from saematch.pairs import certify
    from saematch.sources import load

    perm, recorded = read_permutation(options.matching)
    asked: dict[str, Any] = {key: recorded[key] for key in ("parts", "weights", "fold", "max_cost") if key in recorded}
    asked.update(_comparison(options))
    if isinstance(asked.get("fold"), list):
        asked["fold"] = tuple(asked["fold"])
    status = StatusLine()
    matching = certify(
        load(options.a), load(options.b), perm, **asked, **_limits(options),
        progress=lambda news: status.show(round_text(news)),
    )  # fmt: skip
    status.clear()
    if options.json:
        _print_json(_matching_json(matching))
    else:
        print_proof(matching)
        verdict = "Optimal, and proved so." if matching.certified else f"Not proved optimal: {matching.status}."
        if matching.status == "suboptimal":
            verdict = f"Not optimal: {matching.gap:,.6g} ({matching.gap / matching.cost:.2%}) above the optimum."
        print(f"\n{verdict}")
    return DONE if matching.certified else UNFINISHED


def _env(options: argparse.Namespace) -> int:
    from saematch.backend import choose_backend, machine, versions

    backend = choose_backend()
    if options.json:
        chosen = {"backend": backend.name, "device": str(backend.device), "reason": backend.reason}
        _print_json({"versions": versions(), "machine": machine(), **chosen})
        return DONE
    print(table(("package", "version"), [[name, version or "not installed"] for name, version in versions().items()]))
    print()
    shown = {
        name: ", ".join(value) or "none" if isinstance(value, list) else str(value) for name, value in machine().items()
    }
    print(table(("machine", ""), [[name, value] for name, value in shown.items()]))
    print(f"\nPasses over all pairs run on {backend.device} through {backend.name}: {backend.reason}.")
    return DONE


def _matching_json(matching: Matching) -> dict[str, Any]:
    arrays = {"perm": matching.perm, "pair_cost": matching.pair_cost, "prices": matching.prices}
    lists = {name: values.tolist() for name, values in arrays.items()}
    return {**matching.scalars(), **lists, "options": matching.options, "stats": matching.stats}


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, allow_nan=False))


def _refuse_unwritable(output: str | None, overwrite: bool) -> None:
    """Before any work: its folder can be written, a file that is there may be replaced."""
    if output is None:
        return
    path = Path(output)
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise MatchError(f"{output}: cannot be written; name a file in a folder that exists and can be written")
    if path.exists() and not overwrite:
        raise MatchError(f"{output}: exists already; choose another name, or overwrite it (--overwrite)")


def _report(options: argparse.Namespace) -> int:
    from saematch.report import write_report

    if options.output is None and "://" in options.run_folder:
        raise MatchError("the page of a run in a store is written here: give -o FILE")
    output = options.output or str(Path(options.run_folder) / "report.html")
    contents = _contents(options)
    status = StatusLine()
    try:
        write_report(contents, Path(output), status.show)
    finally:
        status.clear()
    if options.json:
        _print_json({"file": output, "bytes": Path(output).stat().st_size, "complete": contents.chain.complete})
    else:
        print(f"Written to {output} ({size(Path(output).stat().st_size)}); it opens in any browser")
    if options.open:
        webbrowser.open(Path(output).absolute().as_uri())
    return DONE if contents.chain.complete else UNFINISHED


def _serve(options: argparse.Namespace) -> int:
    from saematch.report.serve import Server

    try:
        server = Server(_contents(options, options.weights or options.firm), options.host, options.port)
    except (OSError, OverflowError) as error:
        raise MatchError(f"{options.host}:{options.port}: cannot be served ({error}); choose another --port") from error
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
    from saematch.chain import Chain
    from saematch.evaluation import read_explanations
    from saematch.report.contents import Contents
    from saematch.sources import load_layers

    chain = Chain.load(options.run_folder, load_layers(options.inputs) if options.inputs else None)
    evaluation = Path(options.evaluation or Path(options.run_folder) / "evaluation")
    return Contents(
        chain, labels=read_explanations(options.labels) if options.labels else None, firm=options.firm,
        evaluation=evaluation if options.evaluation or (evaluation / "tables.json").is_file() else None,
        neuronpedia=options.neuronpedia, weights=weights,
    )  # fmt: skip


def _export(options: argparse.Namespace) -> int:
    from saematch.chain import Chain
    from saematch.export import export
    from saematch.sources import load_layers

    _refuse_unwritable(options.output, options.overwrite)
    chain = Chain.load(options.run_folder, load_layers(options.inputs) if options.inputs else None)
    status = StatusLine()
    form = options.format or Path(options.output).suffix.removeprefix(".")
    try:
        rows = export(chain, Path(options.output), form, firm=options.firm, most_cost=options.max_cost,
                      least_cosine=options.min_cosine, progress=status.show)  # fmt: skip
    finally:
        status.clear()
    if options.json:
        _print_json({"file": options.output, "format": form, "rows": rows, "complete": chain.complete})
    else:
        print(f"{rows:,} matched features written to {options.output}")
    return DONE if chain.complete else UNFINISHED


def _refuse_other_run(output: str) -> None:
    """The demo replaces a run of the sample, and nothing else."""
    from saematch.run_folder import RunFolder, check_target

    check_target(output)
    if (Path(output) / "run.json").is_file() and RunFolder.open(output).record["source"] != "sample":
        raise MatchError(f"{output}: holds a run that is not of the sample; choose another folder")


def _comparison(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a comparison that were given."""
    given = {name: getattr(options, name) for name in ("parts", "weights", "fold", "max_cost")}
    return {name: value for name, value in given.items() if value is not None}


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_rounds": options.max_rounds,
        "time_limit": options.time_limit,
        "memory": options.memory,
        "device": options.device,
        "backend": options.backend,
        "precision": options.precision,
    }


COMMANDS = {
    "demo": _demo, "info": _info, "match": _match, "layers": _layers, "path": _path, "evaluate": _evaluate,
    "report": _report, "serve": _serve, "export": _export, "verify": _verify, "env": _env,
}  # fmt: skip
