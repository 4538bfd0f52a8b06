"""Figures of substitution and ablation: what matched features do in the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from saematch.analysis.tables import Row, Table
from saematch.evaluation.figures.panels import (
    Tables,
    add_legend,
    column_of,
    draw_by_pair,
    label_axes,
    line_style,
    measured,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARES = (-0.5, 1.1)  # recovered shares that figures show


def draw_substitution(tables: Tables) -> Figure:
    """Draw the recovered share of the loss over the number of pairs, and the area under this curve."""
    figure, panels = new_figure(2, 4.5)
    points, areas = measured(tables, "substitution"), measured(tables, "substitution_area")
    for number, (label, rows) in enumerate(_lines(points)):
        sizes = sorted({row["pairs"] for row in rows})
        groups = [[row for row in rows if row["pairs"] == size] for size in sizes]
        value, low, high = (
            np.array([np.mean(column_of(group, name)) for group in groups]) for name in ("value", "low", "high")
        )
        errors = np.maximum([value - low, high - value], 0)
        panels[0].errorbar(sizes, value, yerr=errors, ms=4, lw=1.2, capsize=2, label=label, **line_style(number))
    for number, (label, rows) in enumerate(_lines(areas)):
        draw_by_pair(panels[1], rows, "value", label, number)
    sizes = sorted({row["pairs"] for row in points.rows})
    panels[0].set_xscale("log")
    panels[0].set_xticks(sizes, [f"{size:,}" for size in sizes])
    panels[0].minorticks_off()
    for panel in panels:
        panel.set_ylim(*_SHARES)  # a share may be far below 0: a bad replacement is worse than none
    label_axes(panels[0], "pairs replaced at once, the cheapest", "recovered share of the loss, 95 % interval")
    label_axes(panels[1], "pair of layers", "area under the curve (AUSQC), 95 % interval")
    panels[0].set_title("mean over pairs of layers", loc="left", fontsize=8)
    add_legend(figure, panels)
    return figure


def draw_ablation(tables: Tables) -> Figure:
    """Draw what the ablation of source features does to the targets that each method gives them."""
    figure, panels = new_figure(2, 4.5)
    table = measured(tables, "ablation")
    for number, method in enumerate(dict.fromkeys(row["method"] for row in table.rows)):
        for panel, effect in zip(panels, ("falls", "change"), strict=True):
            rows = table.where(method=method, effect=effect)
            draw_by_pair(panel, rows, "value", method.replace("_", " "), number)
    label_axes(panels[0], "pair of layers", "share of targets that fall, 95 % interval")
    label_axes(panels[1], "pair of layers", "mean change of the target, 95 % interval")
    add_legend(figure, panels)
    return figure


def _lines(table: Table) -> list[tuple[str, list[Row]]]:
    """Return the label and the rows of each line."""
    lines: dict[str, list[Row]] = {}
    for row in table.rows:
        is_partner = row["replaced_by"] == "partner"
        label = row["method"] if is_partner else f"targets of {row['method']}, {row['replaced_by']} source"
        lines.setdefault(label.replace("_", " "), []).append(row)
    return list(lines.items())
