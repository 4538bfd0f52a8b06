"""Output of the commands: tables, numbers, matchings, paths, and a status line."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from saematch.matching.basis import describe_basis
from saematch.options import Side
from saematch.runs.summary import PairSummary, summary_of_matching
from saematch.storage.jsonfile import finite_or_none
from saematch.text import duration, printable, shorten

if TYPE_CHECKING:
    from saematch.analysis.ranking import RankedPair
    from saematch.assignment import Round
    from saematch.matching.result import Matching
    from saematch.runs.chain import Chain, Step
    from saematch.sources.names import Names

# ---- Tables


def row(cells: Sequence[str], widths: Sequence[int], text_last: bool = False) -> str:
    """Return one line of a table: the first cell is aligned to the left, the others to the right.

    With `text_last`, the last cell is a text, which is aligned to the left.
    """
    first, *others = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    if text_last:
        others[-1] = cells[-1]
    return "  ".join([cells[0].ljust(len(first)), *others]).rstrip()


def table(head: Sequence[str], lines: Sequence[Sequence[str]], text_last: bool = False) -> str:
    """Return a table with a head, whose columns are as wide as their content.

    For `text_last` see `row`. A last column of texts is left out if all of them are empty.
    """
    if text_last and lines and not any(line[-1] for line in lines):
        return table(head[:-1], [line[:-1] for line in lines])
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(row(line, widths, text_last) for line in (head, rule, *lines))


def print_legend(meanings: Mapping[str, str]) -> None:
    """Print what the columns of the table above mean: column -> its meaning."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    text = "; ".join(f"{name}: {meaning}" for name, meaning in meanings.items())
    print("\n" + textwrap.fill(f"{text}.", width, break_long_words=False, break_on_hyphens=False))


def cell(value: str | float | None) -> str:
    """Return a value as tables show it."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def percent(share: float | None) -> str:
    """Return a share as tables show it."""
    return "-" if share is None else f"{share:.1%}"


# ---- Matchings

_MATCHED = {
    "matched": "features that have a partner",
    "cost": "sum of the costs of matched pairs, which are squared distances unless --metric says otherwise",
    "of random": "this cost, relative to that of random pairs",
    "cosine": "mean cosine of the decoder rows of matched features",
    ">= 0.7": "share of the features whose partner has a cosine of at least 0.7",
}
PAIR_LEGEND = _MATCHED | {
    "seconds": "time from reading the SAEs to the proof",
    "certified": "whether no other matching costs less, which is proved",
}
_PROOF_LEGEND = _MATCHED | {
    "proof gap": "the most that the cost can be above that of the best matching",
    "certified": "whether no other matching costs less, which is proved",
}


def pair_head(names: Names) -> tuple[str, ...]:
    """Return the head of the table of the pairs of a run."""
    return (names.several, *PAIR_LEGEND)


def pair_cells(numbers: PairSummary, baseline: bool) -> list[str]:
    """Return the cells below `pair_head` for a pair of layers."""
    seconds = "-" if numbers.seconds is None else f"{numbers.seconds:.2f}"
    layers = f"{numbers.source} -> {numbers.target}"
    return [layers, f"{numbers.matched:,}", *_match_cells(numbers), seconds, _verdict(numbers, baseline)]


def _match_cells(numbers: PairSummary) -> list[str]:
    return [
        "-" if numbers.cost is None else f"{numbers.cost:,.2f}",
        percent(numbers.of_random),
        "-" if numbers.cosine is None else f"{numbers.cosine:.3f}",
        percent(numbers.persistent),
    ]


def _verdict(numbers: PairSummary, baseline: bool) -> str:
    if numbers.certified:
        return "yes"
    return "baseline" if baseline else f"NO ({numbers.status})"


def print_proof(matching: Matching, baseline: bool = False) -> None:
    """Print a table with the numbers of one matching, what they mean, and what its lower bound rests on."""
    numbers = summary_of_matching((0, 0), matching)
    all_matched = numbers.matched == numbers.features
    matched = f"{numbers.matched:,}" if all_matched else f"{numbers.matched:,} of {numbers.features:,}"
    gap = "-" if numbers.proof_gap is None else f"{numbers.proof_gap:.1e}"
    cells = [matched, *_match_cells(numbers), gap, _verdict(numbers, baseline)]
    known = [(name, cell) for name, cell in zip(_PROOF_LEGEND, cells, strict=True) if cell != "-"]
    print(table([name for name, _ in known], [[cell for _, cell in known]]))
    print_legend({name: _PROOF_LEGEND[name] for name, _ in known})
    if baseline and not numbers.certified:
        print("A baseline is not meant to be the best matching, so that no proof is missing.")
    if "map" in matching.options:
        from saematch.sae.maps import describe_map

        print(f"A is written in the basis of B by a map: {describe_map(matching.options['map'])}")
    print_basis([matching.stats])


def print_unproved(rows: Sequence[PairSummary]) -> None:
    """Print, for each pair of layers that is not proved optimal, how far from the optimum it can be."""
    for numbers in rows:
        if not numbers.certified and numbers.proof_gap is not None and numbers.cost:
            layers = f"{numbers.source} -> {numbers.target}"
            share = f"{numbers.proof_gap / numbers.cost:.2g}"
            print(f"{layers}: at most {numbers.proof_gap:.4g} above the optimum, which is {share} of the cost")


def print_basis(searches: Sequence[dict[str, Any]]) -> None:
    """Print a line on what the lower bounds of matchings rest on, if their `stats` say it."""
    basis = describe_basis(searches)
    if basis:
        print(f"\n{basis}")


def matching_as_json(matching: Matching) -> dict[str, Any]:
    """Return everything that a matching holds, for `--json`."""
    from saematch.matching.scalars import scalars

    arrays = {"perm": matching.perm, "pair_cost": matching.pair_cost, "prices": matching.prices}
    lists = {name: values.tolist() for name, values in arrays.items()}
    lists["unmatched_cost"] = [finite_or_none(cost) for cost in matching.unmatched_cost]
    return {**scalars(matching), **lists, "options": matching.options, "stats": matching.stats}


def describe_pass(event: Round) -> str:
    """Describe one pass over all pairs in a few words."""
    proof = event.certificate
    share = f", within {proof.gap / proof.gain:.1e} of the optimum" if proof.gain > 0 else ""
    return f"pass {event.number}, {event.edges:,} candidate pairs{share}"


# ---- Features


def print_path(path: Sequence[Step], axis: str = "layer", asked: int | str | None = None) -> None:
    """Print the path of a feature, one line per layer, and mark the layer that was asked for."""
    has_margins = any(step.margin is not None for step in path)
    head = [axis, "feature", "cost", "cosine", *(["margin"] if has_margins else []), "label"]
    lines = []
    for number, step in enumerate(path):
        numbers = [step.cost if number else None, step.cosine, *([step.margin] if has_margins else [])]
        cells = ["" if value is None else f"{value:.3f}" for value in numbers]
        mark = " *" if step.layer == asked else ""
        lines.append([f"{step.layer}{mark}", str(step.feature), *cells, printable(step.label or "")])
    print(table(head, lines, text_last=True))


def print_ranked(chain: Chain, pairs: Sequence[RankedPair]) -> None:
    """Print matched pairs of features with their labels."""
    has_margins = any(pair.margin is not None for pair in pairs)
    head = [chain.names.several, "feature", "partner", "cost", "cosine", *(["margin"] if has_margins else []), "labels"]
    side = Side.TARGET if chain.of_two_sets else Side.SOURCE
    lines = []
    for pair in pairs:
        numbers = [pair.cost, pair.cosine, *([pair.margin] if has_margins else [])]
        labels = chain.label(pair.layer, pair.feature), chain.label(pair.target, pair.partner, side)
        shown = [shorten(printable(label or "-"), 36) for label in labels]
        lines.append(
            [f"{pair.layer} -> {pair.target}", str(pair.feature), str(pair.partner)]
            + ["-" if value is None else f"{value:.3f}" for value in numbers]
            + [f"{shown[0]} | {shown[1]}" if any(labels) else ""]
        )
    print(table(head, lines, text_last=True))


# ---- SAEs


def print_saes(rows: Sequence[dict[str, Any]], axis: str = "layer") -> None:
    """Print a table of SAEs with their paths, and below it what was changed in each SAE; nothing without rows.

    Args:
        rows: the SAEs; "layer" is the number of the layer, or the name of an SAE that has one.
        axis: what the SAEs differ in.
    """
    if not rows:
        return
    head = ("layer", "F", "d", "activation", "l0", "dtype", "bytes", "format")
    paths = [printable(row["path"]) for row in rows]
    shared = _shared_folder(paths)
    lines = [
        [*(cell(row[name]) for name in head), path.removeprefix(shared)] for row, path in zip(rows, paths, strict=True)
    ]
    print(table([axis, *head[1:], "path"], lines, text_last=True))
    if shared:
        print(f"paths are below {shared}")
    # A note that holds for several layers is printed once, with the layers.
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        layers = [row["layer"] for row in rows if note in row["notes"]]
        where = "" if len(layers) == len(rows) else f"{axis} {', '.join(map(cell, dict.fromkeys(layers)))}: "
        print(f"note: {where}{printable(note)}")


def _shared_folder(paths: Sequence[str]) -> str:
    """Return the folder, with a slash at its end, that all paths begin with; "" if there is none.

    A list of SAEs may mix paths with addresses of the hub. "hf://" alone is not a folder.
    """
    folders = [path.split("/")[:-1] for path in paths]
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    shared = [parts[0] for parts in alike]
    return "" if shared in ([], ["hf:", ""]) else "/".join(shared) + "/"


# ---- Remarks and progress


def print_remarks(lines: Iterable[str]) -> None:
    """Print remarks that are not part of the result: on stderr."""
    for line in lines:
        print(printable(line), file=sys.stderr)


_PAUSES = (10.0, 30.0, 60.0)  # seconds between lines of status in a log


class Status:
    """The status of a command in one line: what it is doing, how long it has taken, and how long it will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._text = ""
        self._ends: float | None = None

    def __call__(self, text: str, left: float | None = None) -> None:
        """Set what the command is doing, and about how many seconds are left, if that is known."""
        self._text, self._ends = text, None if left is None else time.monotonic() + left

    def share(self, text: str, done: float) -> None:
        """Set what the command is doing, and which share of its work is done; the rest takes as long."""
        passed = time.monotonic() - self._began
        self(text, passed * (1 - done) / done if done > 0 else None)

    def counted(self, total: int) -> Callable[[str], None]:
        """Return a function that is called with the name of each of several steps when the step begins."""
        steps = itertools.count()

        def begin(text: str) -> None:
            done = next(steps)
            self.share(f"{text}: {done + 1} of {total}", done / total)

        return begin

    def line(self) -> str:
        """Return the line; "" before anything was set."""
        if not self._text:
            return ""
        now = time.monotonic()
        left = "" if self._ends is None else f", about {duration(max(0, self._ends - now))} left"
        return f"{printable(self._text)} ({duration(now - self._began)} so far{left})"


@contextmanager
def status_line(quiet: bool = False) -> Iterator[Status]:
    """Yield the status of a command, which is shown on stderr: on a terminal in one line, which disappears at the end.

    If stderr is not a terminal, a line is printed after 10 seconds, then after half a minute, and then once a minute.

    Args:
        quiet: whether to show nothing.
    """
    status = Status()
    if quiet:
        yield status
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        # Output to stdout must stay there, so it is not redirected.
        text = lambda: Text(status.line(), no_wrap=True, overflow="ellipsis")  # noqa: E731
        with Live(get_renderable=text, console=Console(stderr=True), transient=True, redirect_stdout=False):
            yield status
    else:
        ended = threading.Event()
        printer = threading.Thread(target=_print_now_and_then, args=(status, ended), daemon=True)
        printer.start()
        try:
            yield status
        finally:
            ended.set()
            printer.join()


def _print_now_and_then(status: Status, ended: threading.Event) -> None:
    pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
    while not ended.wait(next(pauses)):
        with suppress(OSError):  # stderr that is closed or full is no reason to stop
            print(status.line(), file=sys.stderr, flush=True)
