"""Output for eyes: tables, numbers and a line of progress that wipes itself."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from saematch.errors import refusals
from saematch.text import printable

if TYPE_CHECKING:
    from saematch.assignment import Round
    from saematch.matching.result import Matching
    from saematch.runs.chain import Step
    from saematch.runs.pipeline import Progress
    from saematch.runs.plan import Pair


def row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table: the first cell to the left, the others to the right."""
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A head and lines, in columns as wide as their content."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(row(line, widths) for line in (head, rule, *lines))


def cell(value: str | float | None) -> str:
    """A value as a table shows it."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def decimal(value: str | float | None) -> str:
    """A value as a table of measurements shows it."""
    return f"{value:.4g}" if isinstance(value, float) else cell(value)


PROOF_HEAD = ("cost", "of random", "proof gap", "certified")


def proof_cells(matching: Matching) -> list[str]:
    """Cost, its share of as many random pairs', what the proof leaves open, and the verdict."""
    return [
        f"{matching.cost:,.2f}",
        f"{matching.cost / matching.random_cost:.1%}" if matching.random_cost > 0 else "-",
        "-" if math.isnan(matching.proof_gap) else f"{matching.proof_gap:.1e}",
        "yes" if matching.certified else f"NO ({matching.status})",
    ]


def remark(lines: Iterable[str]) -> None:
    """Print what a user should know, next to the answer: on stderr."""
    for line in lines:
        print(printable(line), file=sys.stderr)


class StatusLine:
    """One line on stderr, rewritten in place on a terminal; silent elsewhere."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = True

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def print_proof(matching: Matching) -> None:
    """Print a table of one matching."""
    features, matched = len(matching.perm), int((matching.perm >= 0).sum())
    shown = f"{features:,}" if matched == features else f"{matched:,} of {features:,}"
    print(table(("matched", *PROOF_HEAD), [[shown, *proof_cells(matching)]]))


def print_path(path: Sequence[Step]) -> None:
    """Print a feature's way through the layers, one line a layer."""
    for number, step in enumerate(path):
        cost = f"{step.cost:10.3f}" if number else " " * 10
        print(f"  layer {step.layer:>2}  feature {step.feature:>6}  {cost}  {printable(step.label or '')}".rstrip())


def round_text(news: Round) -> str:
    """One pass over all pairs, in a few words."""
    proof = news.certificate
    share = f", at most {proof.gap / proof.scale:.1e} from the optimum" if proof.scale > 0 else ""
    return f"pass {news.number}, {news.edges:,} candidate pairs{share}"


def print_saes(rows: Sequence[dict[str, Any]]) -> None:
    """A table of SAEs, with their paths, and what was changed in each; nothing of no SAE."""
    if not rows:
        return
    head = ("layer", "F", "d", "activation", "l0", "dtype", "bytes", "format")
    paths = [printable(row["path"]) for row in rows]
    start = _shared_folder(paths)
    lines = table(head, [[cell(row[name]) for name in head] for row in rows]).splitlines()
    ends = ["path", "----", *(path.removeprefix(start) for path in paths)]
    for line, end in zip(lines, ends, strict=True):
        print(f"{line}  {end}")
    if start:
        print(f"paths are below {start}")
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        those = [row["layer"] for row in rows if note in row["notes"]]
        where = "" if len(those) == len(rows) else f"layer {', '.join(map(cell, dict.fromkeys(those)))}: "
        print(f"note: {where}{printable(note)}")


def _shared_folder(paths: Sequence[str]) -> str:
    """What all of these begin with, up to a slash; "" for nothing. Addresses are no paths, and lists mix both."""
    folders = [path.split("/")[:-1] for path in paths]
    together = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    shared = [parts[0] for parts in together]
    return "" if shared in ([], ["hf:", ""]) else "/".join(shared) + "/"


class RunLog:
    """Prints a row a pair as it is finished: plain lines, for a log or a pipe."""

    _widths = (10, 14, 9, 9, 9, 7)

    def __init__(self) -> None:
        self._rows = 0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, news: Progress) -> None:
        """Take the news of a run."""
        if news.stage == "start" and not news.of:
            self._say("This part of the run has no pairs of layers.")
        elif news.stage == "start" and news.finished == news.of:
            self._say(f"{_count(news.of, 'pair')} of layers, finished before.")
        elif news.stage == "start":
            kept = f", {news.finished:,} of them finished before" if news.finished else ""
            self._say(
                f"{_count(news.of, 'pair')} of layers{kept}; at most {size(news.bytes)} of memory for the rest.\n"
            )
        if news.pair is None:
            return
        name = f"{news.pair[0]} -> {news.pair[1]}"
        if news.matching is not None:
            if not self._rows:
                self._say(row(("layers", *PROOF_HEAD, "seconds"), self._widths))
            self._rows += 1
            self._say(row((name, *proof_cells(news.matching), f"{news.seconds:.2f}"), self._widths))
        elif news.error is not None:
            self._say(f"{name:10}  no matching: {printable(news.error)}")

    def _say(self, text: str) -> None:
        print(text, flush=True)


class RunDisplay(RunLog):
    """The same on a terminal, above a bar with what is done and left, and the pairs in work with their stage."""

    def __init__(self) -> None:
        super().__init__()
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
        self._whole = self._bar.add_task("", total=None, rate="")
        self._stages: dict[Pair, str] = {}
        self._began, self._before = time.monotonic(), 0
        self._live = Live(
            get_renderable=lambda: Group(self._bar, *(Text(line) for line in list(self._stages.values()))),
            console=console,
            transient=True,
        )

    def __enter__(self) -> RunDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, news: Progress) -> None:
        """Take the news of a run."""
        super().__call__(news)
        if news.stage == "start":
            self._began, self._before = time.monotonic(), news.finished
        self._bar.update(self._whole, total=news.of, completed=news.finished, rate=self._rate(news.finished))
        if news.stage in ("done", "failed"):
            self._stages.pop(news.pair or (0, 0), None)
        elif news.pair is not None:
            stage = round_text(news.round) if news.round else "reading the SAEs; a first run also compiles its loops"
            self._stages[news.pair] = f"  {news.pair[0]} -> {news.pair[1]}: {stage}"

    def _rate(self, finished: int) -> str:
        passed = time.monotonic() - self._began
        return f"{60 * (finished - self._before) / passed:.1f} a minute" if finished > self._before else ""

    def _say(self, text: str) -> None:
        self._live.console.print(text)


class EventLog:
    """Appends the news of a run to a file as lines of JSON, each on disk before the next.

    Raises `MatchError` where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with refusals("cannot be written", path, OSError):
            self._file = path.open("ab", buffering=0)  # with a buffer, what cannot be written would be tried again

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, news: Progress) -> None:
        """Take the news of a run."""
        event: dict[str, Any] = {"time": time.time(), "event": news.stage, "of": news.of, "finished": news.finished}
        if news.pair is not None:
            event |= {"source": news.pair[0], "target": news.pair[1]}
        if news.stage == "start":
            event["bytes"] = news.bytes
        if news.round is not None:
            event |= {"pass": news.round.number, "edges": news.round.edges, "gap": news.round.certificate.gap}
        if news.matching is not None:
            event |= {**news.matching.scalars(), "seconds": news.seconds}
        if news.error is not None:
            event["error"] = news.error
        with refusals("cannot be written", self._path, OSError):
            self._file.write(f"{json.dumps(event, allow_nan=False)}\n".encode())


def run_output() -> RunLog:
    """What fits where the output goes."""
    return RunDisplay() if sys.stdout.isatty() else RunLog()


def size(number: float) -> str:
    """Bytes, for eyes."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
