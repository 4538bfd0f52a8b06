"""The program: it parses the arguments, runs the command, and turns the outcome into an exit code."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol, TextIO

import saematch
from saematch.cli import (
    consistency,
    demo,
    encode,
    env,
    evaluate,
    export,
    flow,
    info,
    layers,
    map,
    match,
    path,
    report,
    serve,
    show,
    top,
    verify,
)
from saematch.cli.common import BAD_INPUT, DEFECT, INTERRUPTED, UNFINISHED, complain
from saematch.cli.parser import Parser
from saematch.errors import MatchError, about_memory, is_out_of_memory, reason_of


class Command(Protocol):
    """A command of the program: each command is a module with these members.

    Attributes:
        HELP: one line, for the list of commands.
        DESCRIPTION: a few sentences, for the help of the command.
    """

    HELP: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the arguments of the command to its parser."""

    def run(self, options: argparse.Namespace, /) -> int:
        """Run the command and return its exit code."""
        ...


COMMANDS: Mapping[str, Command] = {
    "demo": demo, "info": info, "match": match, "layers": layers, "show": show, "top": top, "path": path, "flow": flow,
    "consistency": consistency, "encode": encode, "map": map,
    "evaluate": evaluate, "report": report, "serve": serve, "export": export, "verify": verify, "env": env,
}  # fmt: skip
DESCRIPTION = """Match the features of sparse autoencoders across the layers of a model. Matchings are optimal, and
each comes with a proof."""
EXIT_CODES = """Exit codes: 0 everything is done and certified; 1 an error in saematch itself; 2 bad input or usage,
or output that cannot be written; 3 finished, but something failed, is not certified, (verify) is not
optimal, or (consistency) is below --fail-under; 130 interrupted."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the program. What it returns has the name of the command as `command`."""
    parser = Parser(prog="saematch", description=DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"saematch {saematch.__version__}")
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=Parser)
    for name, command in COMMANDS.items():
        command.add_arguments(added.add_parser(name, help=command.HELP, description=command.DESCRIPTION))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    The exit code is 0 if everything is done and certified; 1 after an error in saematch itself; 2 for bad input or
    usage, or output that cannot be written; 3 if the command finished, but something failed, is not certified,
    (verify) is not optimal or (consistency) is below the given limit, or if the reader of the output has left; and
    130 if the command was interrupted.
    """
    try:
        try:
            options = make_parser().parse_args(arguments)
            return COMMANDS[options.command].run(options)
        finally:  # also after --help, which ends the program
            sys.stdout.flush()
    except MatchError as error:
        return complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return complain("interrupted; finished work is kept, and the same command resumes it", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has left, for example `head`
        return UNFINISHED
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print the reason for an error that is not a `MatchError`, and return the exit code."""
    if is_out_of_memory(error):
        return complain(f"{about_memory(error)}; use smaller SAEs, or give the process more memory", BAD_INPUT)
    if isinstance(error, OSError):
        return complain(f"{error.filename or 'output'}: {reason_of(error)}", BAD_INPUT)
    if _interrupted.is_set():  # an interrupt in the middle of an import may raise any error
        return complain("interrupted before anything was done", INTERRUPTED)
    with suppress(OSError):
        traceback.print_exception(error)
    return complain("this is an error in saematch itself; please report it with the lines above", DEFECT)


_interrupted = threading.Event()


def program() -> NoReturn:
    """Run `main` and exit, without waiting for the passes of a run that was interrupted."""
    _open_streams()

    def interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        code = main()
    except KeyboardInterrupt:  # a second interrupt, while the first was handled
        code = INTERRUPTED
    except SystemExit as stop:  # of --help, or of arguments that cannot be parsed
        code = int(stop.code or 0)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Open streams that are closed onto the null device, and escape letters that the encoding of a stream lacks."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Otherwise the next file that is opened would take the number of the closed stream.
            null = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
            setattr(sys, name, null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush(stream: TextIO) -> None:
    """Flush a stream. If it cannot be written, redirect it to the null device, since Python flushes again at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
