"""Figures of a comparison of SAEs, drawn with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from saematch.dictionaries.measures import EDGES
from saematch.dictionaries.result import Consistency
from saematch.dictionaries.similarity import KINDS
from saematch.evaluation.figures.panels import (
    COLOURS,
    DASHES,
    FigureSkipped,
    add_legend_above,
    label_axes,
    label_text,
    line_style,
    new_figure,
)
from saematch.evaluation.figures.writing import draw_and_write
from saematch.numeric.rounding import Floats
from saematch.storage.folders import LocalFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_VALUES = 12  # SAEs up to which the matrix shows its numbers
_NAMES = {"matched": "matched", "null_random": "random directions", "null_rotated": "turned at random"}


def draw_figures(result: Consistency, folder: str | os.PathLike[str]) -> dict[str, str]:
    """Draw every figure whose data are known, and write `figures/{name}.png` and `figures/{name}.svg`.

    Args:
        result: the result of `consistency`.
        folder: the folder in which the folder `figures` is made.

    Returns:
        The reason why a figure was skipped, by the name of the figure.

    Raises:
        MatchError: if matplotlib is not installed, or if the folder cannot be written.

    Examples:
        >>> import saematch as sm
        >>> from saematch.dictionaries import draw_figures
        >>> result = sm.consistency({8: "sample?layer=8", 9: "sample?layer=9"}, nulls=0)
        >>> draw_figures(result, "seeds")
        {'firing_rates': 'no firing rates were given'}
    """
    figures: dict[str, Callable[[], Figure]] = {
        "pw_mcc": partial(draw_matrix, result),
        "similarity": partial(draw_similarity, result),
        "shared": partial(draw_shared, result),
        "firing_rates": partial(draw_firing_rates, result),
    }
    return draw_and_write(LocalFolder(folder), figures)


def draw_matrix(result: Consistency) -> Figure:
    """Draw the MCC of decoders between all SAEs, and the share of shared features."""
    names = [sae["name"] for sae in result.saes]
    size = max(3.2, 0.45 * len(names) + 1.5)
    figure, panels = new_figure(2, size, size)
    columns = (("mcc_decoder", "MCC of decoders", "{:.2f}"), ("shared", "shared features", "{:.1%}"))
    for panel, (column, title, shown) in zip(panels, columns, strict=True):
        values = np.full((len(names), len(names)), np.nan)
        for pair in result.pairs:
            i, j = names.index(pair.a), names.index(pair.b)
            values[i, j] = values[j, i] = getattr(pair, column)
        _draw_values(panel, values, shown, [label_text(name, 24) for name in names])
        panel.set_title(title, loc="left", fontsize=9)
        label_axes(panel, result.axis.replace("$", r"\$"), "")
    return figure


def _draw_values(panel: Axes, values: Floats, shown: str, names: list[str]) -> None:
    """Draw a matrix of shares: dark is much. Its diagonal, and pairs that were not compared, are empty."""
    panel.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    panel.set_xticks(ticks, names, rotation=90)
    panel.set_yticks(ticks, names)
    if len(names) <= _MOST_VALUES:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else "black"
                panel.text(j, i, shown.format(value), ha="center", va="center", fontsize=7, color=colour)


def draw_similarity(result: Consistency) -> Figure:
    """Draw the distribution of the similarity of matched features over all pairs, and of both nulls."""
    figure, panels = new_figure(len(KINDS))
    every = np.sum(
        [counts for pair in result.pairs for of in pair.histograms.values() for counts in of.values()], axis=0
    )
    lowest = float(EDGES[np.nonzero(every)[0][0]])
    for panel, kind in zip(panels, KINDS, strict=True):
        for number, (name, label) in enumerate(_NAMES.items()):
            counts = [pair.histograms[name][kind] for pair in result.pairs if name in pair.histograms]
            if counts:
                shares = np.sum(counts, axis=0) / np.sum(counts)
                opacity, dashes = (1.0, DASHES[number]) if number else (0.5, "-")
                panel.stairs(
                    shares, EDGES, fill=not number, alpha=opacity, label=label, color=COLOURS[number], ls=dashes
                )
        panel.axvline(result.threshold, color="black", lw=0.6)
        panel.set_xlim(min(lowest, 0.0), 1)
        label_axes(panel, f"similarity of matched features, {kind}", "share of pairs of features")
    add_legend_above(panels[0])
    panels[-1].set_title(f"line: threshold {result.threshold:g}", loc="right", fontsize=8)
    return figure


def draw_shared(result: Consistency) -> Figure:
    """Draw the share of shared features along the axis, as shares of the features of each SAE."""
    names = [name for name in (sae["name"] for sae in result.saes) if name in result.shared_with_all]
    if result.reference is not None:  # the features of an SAE are compared with the reference alone
        names = [name for name in names if name != result.reference]
    figure, (panel,) = new_figure(1, max(4.0, 0.4 * len(names) + 2))
    lines = {"shared with all": result.shared_with_all}
    if result.reference is None and len(names) > 2:
        at_least_one = {name: 1 - result.shared_with_none[name] for name in names}
        lines |= {"shared with at least one": at_least_one}
    lines |= {"unique compared with all": {name: result.decisions[name]["unique"] for name in names}}
    for number, (label, shares) in enumerate(lines.items()):
        panel.plot(range(len(names)), [shares[name] for name in names], ms=4, label=label, **line_style(number))
    texts = [label_text(name, 24) for name in names]
    panel.set_xticks(range(len(names)), texts, rotation=90 if max(map(len, texts)) * len(names) > 40 else 0)
    panel.set_ylim(0, 1)
    compared = "" if result.reference is None else f"\ncompared with {label_text(result.reference, 24)}"
    label_axes(panel, result.axis.replace("$", r"\$"), f"share of the features of each SAE{compared}")
    add_legend_above(panel)
    return figure


def draw_firing_rates(result: Consistency) -> Figure:
    """Draw the share of shared features by firing rate, one line for each pair."""
    rows = result.firing_rates
    if not rows:
        raise FigureSkipped("no firing rates were given")
    figure, (panel,) = new_figure(1, 5.0)
    for number, (sae, other) in enumerate(dict.fromkeys((row["sae"], row["other"]) for row in rows)):
        line = [row for row in rows if (row["sae"], row["other"]) == (sae, other)]
        label = f"{label_text(sae, 20)} in {label_text(other, 20)}"
        panel.plot(
            [row["decile"] for row in line], [row["shared"] for row in line], ms=4, label=label, **line_style(number)
        )
    panel.set_xticks(range(1, 11))
    panel.set_ylim(0, 1)
    label_axes(panel, "tenth of the features by firing rate (1: least active)", "share of shared features")
    add_legend_above(panel)
    return figure
