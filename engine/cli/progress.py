"""Progress of a run: printed as plain lines, shown on a terminal, or written to a log file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from saematch.cli.common import for_terminal
from saematch.cli.terminal import Status, describe_pass, pair_cells, pair_head, row, status_line
from saematch.errors import refusals
from saematch.runs.summary import Keys, summary_of_matching
from saematch.text import size

if TYPE_CHECKING:
    from saematch.runs.plan import Pair
    from saematch.runs.records import Progress

Listener = Callable[["Progress"], None]


class RunLog:
    """Prints one row per finished pair as plain lines, for a log or a pipe, and the status of the run on stderr."""

    _WIDTHS = (7, 12, 9, 6, 6, 7, 9)  # of the columns after the first

    def __init__(self, baseline: bool) -> None:
        self._baseline = baseline
        self._has_rows = False
        self._stages: dict[Keys, str] = {}  # of the pairs in work
        self._finished_before = 0
        self._open = ExitStack()

    def __enter__(self) -> RunLog:
        self._status = self._open.enter_context(status_line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(self, event: Progress) -> None:
        """Print a progress event of the run."""
        if event.stage == "start":
            self._finished_before = event.finished
            self._say(_start(event))
        new, planned = event.finished - self._finished_before, event.total - self._finished_before
        if event.pair is not None:
            self._note(event, event.pair, is_first=new == 0)
        self._status.share(
            f"{event.finished:,} of {event.total:,} pairs of {event.names.several}", new / planned if planned else 0
        )

    def _note(self, event: Progress, pair: Pair, is_first: bool) -> None:
        """Note the stage of a pair, and print its row when it is finished."""
        keys = event.names.keys(pair)
        if event.stage in ("done", "failed"):
            self._stages.pop(keys, None)
        elif event.last_pass is not None:
            self._stages[keys] = describe_pass(event.last_pass)
        else:
            self._stages[keys] = f"reading the SAEs{'; a first run also compiles code' if is_first else ''}"
        widths = (2 * max([2, *map(len, event.names.names)]) + 4, *self._WIDTHS)
        if event.matching is not None:
            if not self._has_rows:
                self._say(row(pair_head(event.names), widths))
            self._has_rows = True
            numbers = summary_of_matching(keys, event.matching, event.seconds)
            self._say(row(pair_cells(numbers, self._baseline), widths))
        elif event.error is not None:
            self._say(f"{_arrow(keys):{widths[0]}}  no matching: {for_terminal(event.error)}")

    def _say(self, text: str) -> None:
        print(text, flush=True)


class RunDisplay(RunLog):
    """Prints the rows of `RunLog` on a terminal, above the status of the run and the stage of each pair in work."""

    def __init__(self, baseline: bool) -> None:
        super().__init__(baseline)
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status = Status()
        self._live = Live(get_renderable=lambda: Text(self._lines()), console=self._console, transient=True)

    @override
    def __enter__(self) -> RunDisplay:
        self._open.enter_context(self._live)
        return self

    def _lines(self) -> str:
        stages = [f"  {_arrow(pair)}: {stage}" for pair, stage in list(self._stages.items())]
        return "\n".join([self._status.line(), *stages])

    @override
    def _say(self, text: str) -> None:
        self._console.print(text)


def _arrow(pair: Keys) -> str:
    return f"{pair[0]} -> {pair[1]}"


def _start(event: Progress) -> str:
    """Describe a run that starts."""
    if not event.total:
        return f"This part of the run has no pairs of {event.names.several}."
    pairs = f"{event.total:,} pair{'' if event.total == 1 else 's'} of {event.names.several}"
    if event.finished == event.total:
        return f"{pairs}, finished before."
    before = f", {event.finished:,} of them finished before" if event.finished else ""
    others = "the others" if event.finished else "them"
    return f"{pairs}{before}. Matching {others} takes at most {size(event.peak_bytes)} of memory.\n"


class EventLog:
    """Appends the progress events of a run to a file, one JSON object per line, each on disk before the next.

    Raises:
        MatchError: if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with refusals("cannot be written", path, OSError):
            # Without a buffer: Python would try again, at its end, to write what a buffer holds after an error.
            self._file = path.open("ab", buffering=0)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, event: Progress) -> None:
        """Write a progress event of the run."""
        entry: dict[str, Any] = {
            "time": time.time(),
            "event": event.stage,
            "of": event.total,
            "finished": event.finished,
        }
        if event.pair is not None:
            entry |= dict(zip(("source", "target"), event.names.keys(event.pair), strict=True))
        if event.stage == "start":
            entry["bytes"] = event.peak_bytes
        if event.last_pass is not None:
            entry |= {
                "pass": event.last_pass.number,
                "edges": event.last_pass.edges,
                "gap": event.last_pass.certificate.gap,
            }
        if event.matching is not None:
            from saematch.matching.scalars import scalars

            entry |= {**scalars(event.matching), "seconds": event.seconds}
        if event.error is not None:
            entry["error"] = event.error
        with refusals("cannot be written", self._path, OSError):
            self._file.write(f"{json.dumps(entry, allow_nan=False)}\n".encode())


def run_output(baseline: bool = False) -> RunLog:
    """Return the display of a run that fits stdout: a `RunDisplay` on a terminal, else a `RunLog`.

    Args:
        baseline: whether the run matches by a baseline, whose matchings are not meant to be proved optimal.
    """
    return RunDisplay(baseline) if sys.stdout.isatty() else RunLog(baseline)
