"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import saematch
from saematch.errors import MatchError
from saematch.terminal import (
    EventLog,
    StatusLine,
    cell,
    print_path,
    print_proof,
    printable,
    round_text,
    run_output,
    table,
)

if TYPE_CHECKING:
    from saematch import Matching

DONE, DEFECT, BAD_INPUT, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 all done and certified; 1 a defect of ours; 2 bad input or usage; 3 finished, but something is not certified, or
    (verify) not optimal; 130 interrupted.
    """
    try:
        options = _parser().parse_args(arguments)
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
        traceback.print_exc()
        return _complain("this is a defect of ours; please report it with the lines above", DEFECT)


def program() -> NoReturn:
    """The program: `main`, without waiting for the passes of a run that was interrupted."""
    code = main()
    if code == INTERRUPTED:
        from saematch.stream import still_at_work

        if still_at_work():
            os._exit(code)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    """One line on stderr, without what could steer a terminal."""
    print("saematch:", printable(" ".join(message.split())), file=sys.stderr)
    return code


def _demo(options: argparse.Namespace) -> int:
    from saematch.layers import match_layers
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
    print(f"Written to {options.output}/. Follow any feature with")
    command = "saematch" if shutil.which("saematch") else sys.argv[0]
    print(f"  {command} path {options.output} --layer {first} --feature 17")
    return DONE if chain.certified else UNFINISHED


def _info(options: argparse.Namespace) -> int:
    from saematch.sources import find

    rows: list[dict[str, Any]] = []
    unreadable = []
    for stored in find(options.source):
        try:
            about = stored.describe()
        except MatchError as error:
            unreadable.append(str(error))
            continue
        sizes = {"F": about.sae.F, "d": about.sae.d, "activation": about.sae.activation, "l0": about.l0}
        bulk = {"dtype": about.dtype, "bytes": about.bytes, "format": stored.family.name, "path": str(stored.path)}
        rows.append({"layer": stored.layer, **sizes, **bulk, "notes": list(about.notes)})
    warnings = unreadable + _warnings(rows)
    if options.json:
        _print_json({"source": options.source, "layers": rows, "warnings": warnings})
        return UNFINISHED if unreadable else DONE
    shown = ("layer", "F", "d", "activation", "l0", "dtype", "bytes", "format")
    print(table(shown, [[cell(row[name]) for name in shown] for row in rows]))
    for warning in warnings:
        print(f"warning: {printable(warning)}")
    return UNFINISHED if unreadable else DONE


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader should know before matching these layers."""
    found = [f"layer {row['layer']}: {note}" for row in rows for note in row["notes"]]
    found += [
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

    listeners: list[Any] = []

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
            method=options.method, **{**_limits(options), "device": _devices(options.device)}, progress=tell,
        )  # fmt: skip
    whole = not chain.failures if options.shard else chain.complete
    if options.json:
        pairs = [{"source": a, "target": b, **numbers} for (a, b), numbers in chain.scalars().items()]
        failed = [{"source": a, "target": b, "error": error} for (a, b), error in chain.failures.items()]
        _print_json({"run": options.output, "layers": chain.layers, "complete": chain.complete,
                     "certified": chain.certified, "pairs": pairs, "failures": failed})  # fmt: skip
    elif not options.quiet:
        print(f"\nWritten to {options.output}{'' if options.output.endswith('/') else '/'}")
        for (a, b), error in chain.failures.items():
            print(f"no matching of layers {a} and {b}: {printable(error)}")
        if chain.failures:
            print("The same command tries these again, and nothing else.")
        if options.time_limit is not None:
            print("With a time limit, answers depend on the time they had: another run may end with others.")
    return DONE if chain.certified and whole else UNFINISHED


def _devices(given: str | None) -> list[str] | str | None:
    """The devices of a run: those listed, else every GPU."""
    if given is not None:
        return given.split(",") if "," in given else given
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
    """Before any work: the name is a matching's, its folder can be written, a file that is there may be replaced."""
    if output is None:
        return
    path = Path(output)
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise MatchError(f"{output}: cannot be written; name a file in a folder that exists and can be written")
    if path.suffix != ".safetensors" or path.name == "sae_weights.safetensors":
        raise MatchError(f"{output}: a matching is a .safetensors file, and sae_weights.safetensors an SAE's")
    if path.exists() and not overwrite:
        raise MatchError(f"{output}: exists already; choose another name, or overwrite it (--overwrite)")


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


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def _weights(text: str) -> dict[str, float]:
    pairs = [item.partition("=") for item in text.split(",")]
    return {name.strip(): float(value) for name, _, value in pairs}


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    return int(number), int(of)


def _bytes(text: str) -> int:
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    number, unit = text[:-2], text[-2:].lower()
    return int(float(number) * units[unit]) if unit in units else int(text)


def _parser() -> _Parser:
    parser = _Parser(prog="saematch", description="Match SAE features across layers: exact, and proved.")
    parser.add_argument("--version", action="version", version=f"saematch {saematch.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str, *arguments: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        for argument in arguments:
            added.add_argument(argument)
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "match the sample that ships with the package")
    demo.add_argument(
        "-o", "--output", default="saematch-demo", metavar="RUN", help="run folder (default: %(default)s)"
    )
    info = command("info", _info, "what SAEs are there: sizes, activation, L0, precision, warnings", "source")
    match = command("match", _match, "match two SAEs", "a", "b")
    match.add_argument("-o", "--output", metavar="FILE", help="write the matching here (.safetensors)")
    layers = command("layers", _layers, "match every layer with the next, or the pairs of your choice", "source")
    layers.add_argument(
        "-o", "--output", metavar="RUN", required=True, help="run folder: new, or one to go on with; a path or URL"
    )
    layers.add_argument("--pairs", help="adjacent (default), all, or a list like 0-12,3-5")
    layers.add_argument("--against", metavar="SOURCE", help="match with the same layers of another set of SAEs")
    layers.add_argument("--shard", type=_shard, metavar="I/N", help="do part I of N, from 1, of the run")
    layers.add_argument("--executor", metavar="ray", help="run each pair as a task of a Ray cluster")
    layers.add_argument("--verify-inputs", action="store_true", help="hash the inputs of finished pairs again")
    layers.add_argument("--quiet", action="store_true", help="print nothing but errors")
    layers.add_argument("--log-json", metavar="FILE", help="append the news of the run to it, one JSON object a line")
    path = command("path", _path, "follow a feature through the layers of a run")
    path.add_argument("run_folder", metavar="RUN")
    path.add_argument("--layer", type=int, required=True)
    path.add_argument("--feature", type=int, required=True)
    verify = command("verify", _verify, "prove or refute that somebody's permutation is optimal", "a", "b", "matching")
    env = command("env", _env, "versions, devices, and what would run the passes")

    for added in (match, layers, verify):
        added.add_argument("--parts", type=lambda text: tuple(text.split(",")), help="default: encoder,bias,decoder")
        added.add_argument("--weights", type=_weights, help="for example encoder=1,decoder=2 (default: 1 each)")
        added.add_argument("--fold", help="threshold (default), decoder_norm or none")
        added.add_argument("--max-cost", type=float, metavar="C", help="make no pair dearer than this")
        added.add_argument("--max-rounds", type=int, metavar="N", help="stop after so many passes")
        added.add_argument("--time-limit", type=float, metavar="S", help="stop after so many seconds a pair")
        added.add_argument("--memory", type=_bytes, metavar="SIZE", help="for the products of all pairs, like 4GB")
        added.add_argument("--device", help="cpu or cuda (default: a GPU if there is one); layers takes several: a,b")
        added.add_argument("--backend", default="auto", help="torch, triton or auto (default: triton on a GPU)")
        precisions = "ieee (default), tf32x3, bf16x6, bf16x3, tf32, bf16"
        added.add_argument("--precision", default="ieee", help=f"of products in Triton: {precisions}")
    for added in (match, layers):
        added.add_argument(
            "--method", default="optimal", help="optimal (default), or a baseline: greedy, mutual_nearest, nearest"
        )
        added.add_argument("--overwrite", action="store_true", help="replace what is there")
    for added in (info, match, layers, path, verify, env):
        added.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser
