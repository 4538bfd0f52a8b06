"""Helpers for text: letters that cannot be printed or stored, long texts, lists of names, and names with numbers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    r"""Replace control characters, which could steer the terminal, in a text of unknown origin.

    >>> printable("red \x1b[31m")
    'red ·[31m'
    """
    return "".join(character if character.isprintable() else "·" for character in text)


def well_formed(text: str) -> str:
    """Return a text that any file can hold: halves of a surrogate pair are joined, and a half alone becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shorten(text: str, most: int) -> str:
    """Cut a text to at most `most` letters, the last of which is then "…".

    >>> shorten("a long text", 7)
    'a long…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listing(names: Iterable[str], most: int = 8) -> str:
    """List the first `most` names for a message, and count the others.

    >>> listing(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return the key by which texts are sorted with the numbers in them in numerical order.

    >>> sorted(["layer_10", "layer_9"], key=natural_key)
    ['layer_9', 'layer_10']
    """
    parts = re.split("([0-9]+)", text)  # every second part is a number, which may have very many digits
    return [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else (-1, part) for at, part in enumerate(parts)]


def size(number: float) -> str:
    """Return a number of bytes in MB or GB.

    >>> size(1_450_000_000)
    '1.4 GB'
    """
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """Return a time in words, in one or two units.

    >>> duration(0.4), duration(75), duration(5400)
    ('1 s', '1 min 15 s', '1 h 30 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(round(whole / 60), 60)
    return (f"{hours} h" + (f" {minutes} min" if minutes else "")) if hours else f"{minutes} min"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], most: int = 50) -> str:
    """Return a table in HTML for a notebook: at most `most` rows, and the number of the others.

    >>> html_table("1 layer", ["layer", "F"], [[8, 1024]])
    '<p>1 layer</p><table><tr><th>layer</th><th>F</th></tr><tr><td>8</td><td>1024</td></tr></table>'
    """

    def line(cells: Sequence[object], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[:most])
    more = f"<p>and {len(rows) - most:,} more rows</p>" if len(rows) > most else ""
    return f"<p>{html.escape(title)}</p><table>{line(head, 'th')}{body}</table>{more}"
