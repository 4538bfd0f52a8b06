"""Progress of a run: printed as plain lines, shown on a terminal, or written to a log file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from saematch.cli.common import for_terminal
from saematch.cli.terminal import PAIR_HEAD, describe_pass, pair_cells, row
from saematch.errors import refusals
from saematch.runs.summary import summary_of_matching
from saematch.text import size

if TYPE_CHECKING:
    from saematch.runs.plan import Pair
    from saematch.runs.records import Progress

Listener = Callable[["Progress"], None]


class RunLog:
    """Prints one row per finished pair as plain lines, for a log or a pipe."""

    _WIDTHS = (8, 7, 12, 9, 6, 6, 7, 9)

    def __init__(self, baseline: bool) -> None:
        self._baseline = baseline
        self._rows = 0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, event: Progress) -> None:
        """Print a progress event of the run."""
        if event.stage == "start":
            self._say(self._start(event))
        if event.pair is None:
            return
        name = f"{event.pair[0]} -> {event.pair[1]}"
        if event.matching is not None:
            if not self._rows:
                self._say(row(PAIR_HEAD, self._WIDTHS))
            self._rows += 1
            numbers = summary_of_matching(event.pair, event.matching, event.seconds)
            self._say(row(pair_cells(numbers, self._baseline), self._WIDTHS))
        elif event.error is not None:
            self._say(f"{name:8}  no matching: {for_terminal(event.error)}")

    def _start(self, event: Progress) -> str:
        if not event.total:
            return "This part of the run has no pairs of layers."
        pairs = f"{event.total:,} pair{'' if event.total == 1 else 's'} of layers"
        if event.finished == event.total:
            return f"{pairs}, finished before."
        before = f", {event.finished:,} of them finished before" if event.finished else ""
        return f"{pairs}{before}; at most {size(event.peak_bytes)} of memory for the rest.\n"

    def _say(self, text: str) -> None:
        print(text, flush=True)


class RunDisplay(RunLog):
    """Prints the rows of `RunLog` on a terminal, above a progress bar and the stage of each pair in work."""

    def __init__(self, baseline: bool) -> None:
        super().__init__(baseline)
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        console = Console(highlight=False, markup=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("pairs"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, rate="")
        self._stages: dict[Pair, str] = {}
        self._started, self._finished_before = time.monotonic(), 0
        self._live = Live(
            get_renderable=lambda: Group(self._bar, *(Text(line) for line in list(self._stages.values()))),
            console=console,
            transient=True,
        )

    @override
    def __enter__(self) -> RunDisplay:
        self._live.start()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    @override
    def __call__(self, event: Progress) -> None:
        super().__call__(event)
        if event.stage == "start":
            self._started, self._finished_before = time.monotonic(), event.finished
        self._bar.update(self._task, total=event.total, completed=event.finished, rate=self._rate(event.finished))
        if event.stage in ("done", "failed"):
            self._stages.pop(event.pair or (0, 0), None)
        elif event.pair is not None:
            reading = "reading the SAEs; a first run also compiles its loops"
            stage = describe_pass(event.last_pass) if event.last_pass else reading
            self._stages[event.pair] = f"  {event.pair[0]} -> {event.pair[1]}: {stage}"

    def _rate(self, finished: int) -> str:
        seconds = time.monotonic() - self._started
        done = finished - self._finished_before
        return f"{60 * done / seconds:.1f} per minute" if done > 0 else ""

    @override
    def _say(self, text: str) -> None:
        self._live.console.print(text)


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
            entry |= {"source": event.pair[0], "target": event.pair[1]}
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
