"""Output for eyes: tables, numbers and a line of progress that wipes itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saematch.assignment import Round
    from saematch.chain import Step
    from saematch.layers import Progress
    from saematch.matching import Matching


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


PROOF_HEAD = ("cost", "of random", "proof gap", "certified")


def proof_cells(matching: Matching) -> list[str]:
    """Cost, its share of a random pairing's, what the proof leaves open, and the verdict."""
    return [
        f"{matching.cost:,.2f}",
        f"{matching.cost / matching.random_cost:.1%}" if matching.random_cost > 0 else "-",
        f"{matching.gap + matching.error:.1e}",
        "yes" if matching.certified else f"NO ({matching.status})",
    ]


def printable(text: str) -> str:
    """Text of unknown origin without control characters, which could steer the terminal."""
    return "".join(character if character.isprintable() else "·" for character in text)


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
    print(table(("features", *PROOF_HEAD), [[f"{len(matching.perm):,}", *proof_cells(matching)]]))


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


class PairTable:
    """Prints a row a pair as it is finished, with the pass in progress below it."""

    _widths = (10, 14, 9, 9, 9, 7)

    def __init__(self) -> None:
        self._status = StatusLine()
        self._status.show("reading the SAEs; a first run also compiles its loops")

    def __call__(self, news: Progress) -> None:
        """Take the news of a run."""
        name = f"{news.pair[0]} -> {news.pair[1]}"
        if news.round is not None:
            self._status.show(f"pair {news.number} of {news.of}, {name}: {round_text(news.round)}")
        if news.matching is not None:
            self._status.clear()
            if news.number == 1:
                print(row(("layers", *PROOF_HEAD, "seconds"), self._widths))
            print(row((name, *proof_cells(news.matching), f"{news.seconds:.2f}"), self._widths), flush=True)
