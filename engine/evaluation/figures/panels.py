"""Panels, lines, labels and legends that the figures share."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from saematch.analysis.tables import Row, Table
from saematch.numeric.rounding import Floats
from saematch.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tables = Mapping[str, Table]

# The palette of Okabe and Ito, and more. Markers and dashes distinguish the lines without colour, too.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#8B5A2B", "#5D3A9B",
    "#882255", "#44AA99", "#999933",
)  # fmt: skip
DASHES = ("-", "--", "-.", ":")
_GOLDEN_ANGLE = 0.381966  # turns between the hues of successive lines, which then never meet
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

UNFOLDED_CODES, FOLDED_CODES = "codes unchanged", "codes folded"
EXAMPLES = 5  # features whose labels a figure shows


class FigureSkipped(Exception):
    """A figure cannot be drawn; the message is the reason."""


class LineStyle(TypedDict):
    """Arguments of `Axes.plot` that distinguish one line from another."""

    color: str
    marker: str
    ls: str


def line_style(number: int, dashes: str | None = None) -> LineStyle:
    """Return the colour, the marker and the dashes of line `number`, or with the given dashes.

    No two lines have the same colour: those that the palette does not reach differ in hue and lightness.
    """
    if number < len(COLOURS):
        colour = COLOURS[number]
    else:
        rgb = colorsys.hls_to_rgb(number * _GOLDEN_ANGLE % 1, (0.35, 0.5, 0.65)[number % 3], 0.55)
        colour = "#" + "".join(f"{round(255 * value):02X}" for value in rgb)
    return {"color": colour, "marker": _MARKERS[number % len(_MARKERS)], "ls": dashes or DASHES[number % len(DASHES)]}


def measured(tables: Tables, name: str) -> Table:
    """Return a table. Raises `FigureSkipped` if the table is missing or empty."""
    if name not in tables or not tables[name].rows:
        raise FigureSkipped(f"{name} was not measured")
    return tables[name]


def new_figure(panels: int, width: float = 3.6, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with some panels in a row, each of them `width` times `height` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def draw_by_pair(
    panel: Axes, rows: Sequence[Row], column: str, label: str, number: int, dashes: str | None = None
) -> None:
    """Draw a column by pair of layers as line `number`. Rows of the same pair, of several seeds, are averaged.

    The column `value` is drawn with its interval, from the columns `low` and `high`.
    """
    pairs = pairs_in(rows)
    if not pairs:
        return
    groups = [[row for row in rows if (row["source"], row["target"]) == pair] for pair in pairs]
    values, errors = _means(groups, column), None
    if column == "value":
        errors = np.maximum([values - _means(groups, "low"), _means(groups, "high") - values], 0)
    style = line_style(number, dashes)
    panel.errorbar(range(len(pairs)), values, yerr=errors, ms=4, lw=1.2, capsize=2, label=label, **style)
    panel.set_xticks(range(len(pairs)), [f"{a}→{b}" for a, b in pairs], rotation=90 if len(pairs) > 8 else 0)


def pairs_in(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return the pairs of layers in the rows, each once, in the order of the rows."""
    return list(dict.fromkeys((row["source"], row["target"]) for row in rows))


def column_of(rows: Sequence[Row], name: str) -> list[float]:
    """Return a column as floats; NaN where a row has no value."""
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def label_axes(panel: Axes, x: str, y: str) -> None:
    """Write the labels of both axes."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add one legend for all panels, to their right, with every line that one of the panels has."""
    lines: dict[str, Artist] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", fontsize=7)


def add_legend_above(panel: Axes) -> None:
    """Add the legend of one panel above the panel, where the legend hides no line."""
    panel.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def label_text(text: str | None, longest: int = 34) -> str:
    """Return text from an untrusted file so that it fits into a figure, and `$` starts no formula."""
    return shorten(printable(text or ""), longest).replace("$", r"\$")


def _means(groups: Sequence[Sequence[Row]], name: str) -> Floats:
    return np.array([np.mean(column_of(group, name)) for group in groups])
