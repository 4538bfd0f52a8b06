"""Output of the commands: tables, numbers, matchings, paths, and a status line."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saematch.matching.basis import describe_basis
from saematch.storage.jsonfile import finite_or_none
from saematch.text import printable

if TYPE_CHECKING:
    from saematch.assignment import Round
    from saematch.matching.result import Matching
    from saematch.runs.chain import Step

# ---- Tables


def row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a table: the first cell is aligned to the left, the others to the right."""
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table with a head, whose columns are as wide as their content."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(row(line, widths) for line in (head, rule, *lines))


def cell(value: str | float | None) -> str:
    """Return a value as tables show it."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def decimal(value: str | float | None) -> str:
    """Return a measured value as tables show it: a float with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else cell(value)


# ---- Matchings

PROOF_HEAD = ("cost", "of random", "proof gap", "certified")


def proof_cells(matching: Matching) -> list[str]:
    """Return the cells below `PROOF_HEAD`.

    They are the cost, the cost as a share of a random pairing's, the gap that the proof leaves, and whether the
    matching is certified.
    """
    return [
        f"{matching.cost:,.2f}",
        f"{matching.cost / matching.random_cost:.1%}" if matching.random_cost > 0 else "-",
        "-" if math.isnan(matching.proof_gap) else f"{matching.proof_gap:.1e}",
        "yes" if matching.certified else f"NO ({matching.status})",
    ]


def print_proof(matching: Matching) -> None:
    """Print a table with the numbers of one matching, and what its lower bound rests on."""
    features, matched = len(matching.perm), int((matching.perm >= 0).sum())
    shown = f"{features:,}" if matched == features else f"{matched:,} of {features:,}"
    print(table(("matched", *PROOF_HEAD), [[shown, *proof_cells(matching)]]))
    print_basis([matching.stats])


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
    share = f", at most {proof.gap / proof.gain:.1e} from the optimum" if proof.gain > 0 else ""
    return f"pass {event.number}, {event.edges:,} candidate pairs{share}"


def print_path(path: Sequence[Step]) -> None:
    """Print the path of a feature, one line per layer."""
    for number, step in enumerate(path):
        cost = f"{step.cost:10.3f}" if number else " " * 10
        print(f"  layer {step.layer:>2}  feature {step.feature:>6}  {cost}  {printable(step.label or '')}".rstrip())


# ---- SAEs


def print_saes(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of SAEs with their paths, and below it what was changed in each SAE; nothing without rows."""
    if not rows:
        return
    head = ("layer", "F", "d", "activation", "l0", "dtype", "bytes", "format")
    paths = [printable(row["path"]) for row in rows]
    shared = _shared_folder(paths)
    # Paths stand in a last column that is aligned to the left.
    lines = table(head, [[cell(row[name]) for name in head] for row in rows]).splitlines()
    ends = ["path", "----", *(path.removeprefix(shared) for path in paths)]
    for line, end in zip(lines, ends, strict=True):
        print(f"{line}  {end}")
    if shared:
        print(f"paths are below {shared}")
    # A note that holds for several layers is printed once, with the layers.
    for note in dict.fromkeys(note for row in rows for note in row["notes"]):
        layers = [row["layer"] for row in rows if note in row["notes"]]
        where = "" if len(layers) == len(rows) else f"layer {', '.join(map(cell, dict.fromkeys(layers)))}: "
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


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text on one line of stderr, in place of the text before.

    The line disappears at the end of the block. If stderr is not a terminal, nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # Output to stdout must stay there, so it is not redirected.
    with Live(console=Console(stderr=True), transient=True, redirect_stdout=False) as live:
        yield lambda text: live.update(Text(printable(text), no_wrap=True, overflow="ellipsis"))
