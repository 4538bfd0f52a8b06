"""The program: parses, calls, and turns what happens into an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO

import saematch
from saematch.cli.arguments import BAD_INPUT, parser
from saematch.cli.commands import COMMANDS
from saematch.cli.common import DEFECT, INTERRUPTED, UNFINISHED, complain
from saematch.errors import MatchError, about_memory, is_out_of_memory, reason_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 all done and certified; 1 a defect of ours; 2 bad input or usage, or output that cannot be written; 3 finished,
    but something is not certified, or (verify) not optimal, or the reader of the output has left; 130 interrupted.
    """
    try:
        try:
            options = parser(COMMANDS, saematch.__version__).parse_args(arguments)
            return int(options.run(options))
        finally:  # also after --help, which ends the program
            sys.stdout.flush()
    except MatchError as error:
        return complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return complain("interrupted; what was finished is kept, and the same command goes on from there", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has left, for example `head`
        return UNFINISHED
    except Exception as error:
        if is_out_of_memory(error):
            return complain(f"{about_memory(error)}; give a smaller --memory, or match smaller SAEs", BAD_INPUT)
        if isinstance(error, OSError):
            return complain(f"{error.filename or 'output'}: {reason_of(error)}", BAD_INPUT)
        if _interrupted.is_set():  # in the middle of an import, from which anything may come
            return complain("interrupted before anything was done", INTERRUPTED)
        with suppress(OSError):
            traceback.print_exc()
        return complain("this is a defect of ours; please report it with the lines above", DEFECT)


_interrupted = threading.Event()


def program() -> NoReturn:
    """The program: `main`, without waiting for the passes of a run that was interrupted."""
    _open_streams()

    def interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        code = main()
    except KeyboardInterrupt:  # once more, while the first was being dealt with
        code = INTERRUPTED
    except SystemExit as stop:  # of --help, or of arguments that cannot be parsed
        code = int(stop.code or 0)
    for stream in (sys.stdout, sys.stderr):
        _finish(stream)
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Let a stream that was closed lead nowhere, and escape letters that the encoding of a stream lacks."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the next file to be opened would take its place
            nowhere = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _finish(stream: TextIO) -> None:
    """Flush a stream. One that cannot be written leads nowhere from here on: Python would try again at its end."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
