"""The program: parses, calls, and turns what happens into an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

import saematch
from saematch.arguments import BAD_INPUT, parser
from saematch.commands import COMMANDS
from saematch.commands.common import DEFECT, INTERRUPTED, UNFINISHED, complain
from saematch.errors import MatchError, about_memory, is_out_of_memory


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
        return complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return complain("interrupted; what was finished is kept, and the same command goes on from there", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNFINISHED
    except Exception as error:
        if is_out_of_memory(error):
            return complain(f"{about_memory(error)}; give a smaller --memory, or match smaller SAEs", BAD_INPUT)
        if isinstance(error, OSError):
            return complain(f"{error.filename or 'output'}: {error.strerror or error}", BAD_INPUT)
        if _interrupted.is_set():  # in the middle of an import, from which anything may come
            return complain("interrupted before anything was done", INTERRUPTED)
        traceback.print_exc()
        return complain("this is a defect of ours; please report it with the lines above", DEFECT)


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
