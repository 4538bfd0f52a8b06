"""The arguments of the command line: what every command takes, and how it is read."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from saematch.errors import MatchError
from saematch.storage.folders import local_path
from saematch.text import printable

BAD_INPUT = 2
Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors in one line, and help that is not lost without a word."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:  # argparse ignores that it cannot be written
            file.write(message)
        else:
            super()._print_message(message, file)


def _read(convert: Callable[[str], Any], example: str) -> Callable[[str], Any]:
    """A converter whose complaint shows what it takes."""

    def read(text: str) -> Any:
        try:
            return convert(text)
        except MatchError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except (ValueError, KeyError, OverflowError) as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not like {example}") from error

    return read


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


def _path(text: str) -> str:
    """A path, its `~` expanded, which a shell leaves in `--labels=~/x`; or the URL of a store."""
    if "://" in text:
        return text
    return str(local_path(text))


_PATH = _read(_path, "a path")


def parser(commands: Mapping[str, Command], version: str) -> argparse.ArgumentParser:
    """The parser of the program; the function of a command is `run` of what it returns."""
    whole = _Parser(prog="saematch", description="Match SAE features across layers: exact, and proved.")
    whole.add_argument("--version", action="version", version=f"saematch {version}")
    added_to = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        added = added_to.add_parser(name, help=text, description=text)
        for argument in arguments:
            added.add_argument(argument)
        added.set_defaults(run=commands[name])
        return added

    demo = command("demo", "match the sample that ships with the package")
    demo.add_argument(
        "-o", "--output", default="saematch-demo", metavar="RUN", type=_PATH, help="run folder (default: %(default)s)"
    )
    info = command("info", "what SAEs are there: sizes, activation, L0, precision, warnings", "source")
    match = command("match", "match two SAEs", "a", "b")
    match.add_argument("-o", "--output", metavar="FILE", type=_PATH, help="write the matching here (.safetensors)")
    layers = command("layers", "match every layer with the next, or the pairs of your choice", "source")
    layers.add_argument(
        "-o", "--output", metavar="RUN", type=_PATH, help="run folder: a new one, or one to resume; a path or URL"
    )
    layers.add_argument("--dry-run", action="store_true", help="show the SAEs, from headers alone, and the pairs")
    layers.add_argument("--pairs", help="adjacent (default), all, or a list like 0-12,3-5")
    layers.add_argument("--against", metavar="SOURCE", help="match with the same layers of another set of SAEs")
    layers.add_argument("--shard", type=_read(_shard, "2/8"), metavar="I/N", help="do part I of N, from 1, of the run")
    layers.add_argument("--executor", metavar="ray", help="run each pair as a task of a Ray cluster")
    layers.add_argument("--verify-inputs", action="store_true", help="hash the inputs of finished pairs again")
    layers.add_argument("--quiet", action="store_true", help="print nothing but errors")
    layers.add_argument(
        "--log-json", metavar="FILE", type=_PATH, help="append the news of the run to it, one JSON object a line"
    )
    path = command("path", "follow a feature through the layers of a run")
    path.add_argument("run_folder", metavar="RUN", type=_PATH)
    path.add_argument("--layer", type=int, required=True)
    path.add_argument("--feature", type=int, required=True)
    evaluate = command("evaluate", "measure what a run is worth, beside baselines: tables and figures")
    _add_measurements(evaluate)
    shown = _add_showing(command)
    verify = command("verify", "prove or refute that somebody's permutation is optimal", "a", "b")
    verify.add_argument("matching", type=_PATH)
    env = command("env", "versions, devices, and what would run the passes")

    for added in (match, layers, verify):
        _add_comparison(added)
    for added in (match, layers):
        added.add_argument(
            "--method", default="optimal", help="optimal (default), or a baseline: greedy, mutual_nearest, nearest"
        )
        added.add_argument("--overwrite", action="store_true", help="replace what is there")
    for added in (info, match, layers, path, evaluate, *shown, verify, env):
        added.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return whole


def _add_comparison(added: argparse.ArgumentParser) -> None:
    """How two SAEs are compared, and what it may take."""
    added.add_argument("--parts", type=lambda text: tuple(text.split(",")), help="default: encoder,bias,decoder")
    added.add_argument(
        "--weights",
        type=_read(_weights, "encoder=1,decoder=2"),
        help="for example encoder=1,decoder=2 (default: 1 each)",
    )
    added.add_argument("--fold", help="threshold (default), decoder_norm or none")
    added.add_argument("--max-cost", type=float, metavar="C", help="make no pair dearer than this")
    added.add_argument("--max-rounds", type=int, metavar="N", help="stop after so many passes")
    added.add_argument("--time-limit", type=float, metavar="S", help="stop after so many seconds a pair")
    added.add_argument(
        "--memory", type=_read(_bytes, "4GB"), metavar="SIZE", help="for the products of all pairs, like 4GB"
    )
    added.add_argument("--device", help="cpu or cuda (default: a GPU if there is one); layers takes several: a,b")
    added.add_argument("--backend", default="auto", help="torch, triton or auto (default: triton on a GPU)")
    precisions = "ieee (default), tf32x3, bf16x6, bf16x3, tf32, bf16"
    added.add_argument("--precision", default="ieee", help=f"of products in Triton: {precisions}")


def _add_showing(command: Callable[..., argparse.ArgumentParser]) -> Sequence[argparse.ArgumentParser]:
    """A run for eyes and for other programs. Those that can print JSON are returned."""
    report = command("report", "write a run as a page that opens in a browser, with everything in it")
    report.add_argument("run_folder", metavar="RUN", type=_PATH)
    report.add_argument("-o", "--output", metavar="FILE", type=_PATH, help="default: RUN/report.html")
    report.add_argument("--open", action="store_true", help="open it in the browser of this machine")
    _add_page(report)
    serve = command("serve", "the same page on a local address, data in pieces as they are looked at: for large runs")
    serve.add_argument("run_folder", metavar="RUN", type=_PATH)
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: %(default)s; an address of IPv4 or IPv6; another than loopback needs the token that is printed",
    )
    serve.add_argument("--port", type=int, default=0, help="default: any that is free")
    serve.add_argument("--weights", action="store_true", help="costs by part and cosines: reads SAEs when looked at")
    serve.add_argument("--open", action="store_true", help="open it in the browser of this machine")
    _add_page(serve)
    export = command("export", "write what is known of every matched feature, for other programs")
    export.add_argument("run_folder", metavar="RUN", type=_PATH)
    export.add_argument("-o", "--output", metavar="FILE", type=_PATH, required=True, help="the file to write")
    export.add_argument("--format", help="csv, parquet, json or graphml (default: what FILE ends with)")
    export.add_argument("--firm", action="store_true", help="margins and runners-up too: passes over all pairs")
    export.add_argument("--max-cost", type=float, default=math.inf, metavar="C", help="leave out dearer pairs")
    export.add_argument("--min-cosine", type=float, default=-math.inf, metavar="X", help="and pairs less alike")
    export.add_argument("--inputs", metavar="SOURCE", help="the SAEs of the run, where they are no longer found")
    export.add_argument("--overwrite", action="store_true", help="replace what is there")
    return report, export


def _add_page(added: argparse.ArgumentParser) -> None:
    """What the page of a run shows beside the run."""
    added.add_argument(
        "--labels", metavar="PATH", type=_PATH, help=".jsonl of explanations, or a folder of them or of exports"
    )
    added.add_argument(
        "--evaluation", metavar="DIR", type=_PATH, help="of saematch evaluate (default: RUN/evaluation, if there)"
    )
    added.add_argument("--inputs", metavar="SOURCE", help="the SAEs of the run, where they are no longer found")
    added.add_argument("--firm", action="store_true", help="margins and runners-up too: passes over all pairs")
    added.add_argument(
        "--neuronpedia",
        metavar="ID",
        help="what Neuronpedia calls the SAEs, like gemma-2-2b/{layer}-gemmascope-res-16k",
    )


def _add_measurements(evaluate: argparse.ArgumentParser) -> None:
    """What is measured, and of what."""
    evaluate.add_argument("run_folder", metavar="RUN", type=_PATH)
    evaluate.add_argument(
        "-o", "--out", metavar="DIR", type=_PATH, help="where tables and figures go (default: RUN/evaluation)"
    )
    evaluate.add_argument("--inputs", metavar="SOURCE", help="the SAEs of the run, where they are no longer found")
    tokens = evaluate.add_mutually_exclusive_group()
    tokens.add_argument(
        "--activations", metavar="DIR", type=_PATH, help="layer_<n>.npy (tokens, d), for codes that are carried"
    )
    tokens.add_argument("--model", metavar="NAME", help="a causal language model, for its activations and its loss")
    evaluate.add_argument("--document-length", type=int, metavar="N", help="tokens a document, without documents.npy")
    evaluate.add_argument(
        "--texts", metavar="FILE", type=_PATH, help="for --model: .jsonl with a text a line, or plain text"
    )
    evaluate.add_argument("--tokens", type=int, metavar="N", help="for --model: stop after about so many tokens")
    evaluate.add_argument("--context", type=int, default=256, metavar="N", help="for --model (default: %(default)s)")
    evaluate.add_argument("--hook", help="for --model: resid_post (default, unless the SAEs say it) or resid_pre")
    evaluate.add_argument(
        "--explanations", metavar="PATH", type=_PATH, help=".jsonl of explanations, or a folder of them"
    )
    evaluate.add_argument("--neuronpedia", metavar="ID", help="whose explanations are meant, where there are several")
    evaluate.add_argument("--judge", metavar="URL", help="an OpenAI-compatible endpoint that reads the explanations")
    evaluate.add_argument("--judge-model", metavar="NAME", help="what the endpoint calls its model")
    evaluate.add_argument("--judge-calls", type=int, metavar="N", help="ask at most so often in this call")
    evaluate.add_argument("--judged", type=int, default=200, metavar="N", help="pairs read a layer (default: 200)")
    evaluate.add_argument(
        "--human", metavar="FILE", type=_PATH, help="CSV of a person's grades, to compare the judge with"
    )
    evaluate.add_argument("--distance", type=int, metavar="N", help="steps between far layers at most (default: all)")
    evaluate.add_argument(
        "--outliers",
        type=float,
        default=10.0,
        metavar="X",
        help="leave out tokens of a norm above X medians, 0: none (default: 10)",
    )
    evaluate.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="DIR",
        type=_PATH,
        help="another evaluation of these layers, at another L0; may be repeated",
    )
    evaluate.add_argument("--device", default="cpu", help="where codes and the model run (default: %(default)s)")
    evaluate.add_argument("--quiet", action="store_true", help="print nothing but errors")
