"""Figures of meaning: grades of matched features, and labels along paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from saematch.evaluation.figures.panels import (
    EXAMPLES,
    FigureSkipped,
    Tables,
    add_legend_above,
    draw_by_pair,
    label_axes,
    label_text,
    measured,
    new_figure,
)
from saematch.evaluation.meaning import Grade
from saematch.evaluation.methods import EVALUATED, RANDOM
from saematch.runs.chain import Chain, Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_mse_by_grade(tables: Tables) -> Figure:
    """Draw the distribution of the error of pairs with each grade."""
    rows = [row for row in measured(tables, "judgements").where(method=EVALUATED) if row["grade"] is not None]
    if not rows:
        raise FigureSkipped("no pair has a grade")
    figure, (panel,) = new_figure(1)
    grades = [grade for grade in Grade if any(row["grade"] == grade for row in rows)]
    errors = [[row["mse"] for row in rows if row["grade"] == grade] for grade in grades]
    names = [f"{grade.name}\nn = {len(values)}" for grade, values in zip(grades, errors, strict=True)]
    panel.boxplot(errors, tick_labels=names, showfliers=False)
    label_axes(panel, f"grade by {rows[0]['judge']}", "MSE, all parts (folded weights² per element)")
    panel.set_title("box: quartiles; whiskers: up to 1.5 interquartile ranges", loc="left", fontsize=8)
    return figure


def draw_meaning(tables: Tables) -> Figure:
    """Draw mean grades by pair of layers and, if activations were measured, matching scores."""
    table = measured(tables, "meaning")
    figure, panels = new_figure(2 if "matching_score" in tables else 1)
    # The left panel has the grades of all pairs, and those of the cheapest and the most expensive quarter.
    for number, method in enumerate((EVALUATED, RANDOM)):
        draw_by_pair(panels[0], table.where(method=method, quarter=0), "value", method, number)
    for number, (quarter, name) in enumerate(((1, "cheapest"), (4, "most expensive")), 2):
        rows = table.where(method=EVALUATED, quarter=quarter)
        draw_by_pair(panels[0], rows, "value", f"{EVALUATED}, {name} quarter", number)
    judge = table.rows[0]["judge"]
    label_axes(panels[0], "pair of layers", f"mean grade by {judge}\n(1 different … 3 same), 95 % interval")
    add_legend_above(panels[0])
    # The right panel has the scores, one line for each.
    if len(panels) > 1:
        scores = tables["matching_score"]
        for number, score in enumerate(dict.fromkeys(row["score"] for row in scores.rows)):
            draw_by_pair(panels[1], scores.where(method=EVALUATED, score=score), "value", score, number)
        label_axes(panels[1], "pair of layers", "matching score, mean over features, 95 % interval")
        add_legend_above(panels[1])
    return figure


def draw_paths(chain: Chain) -> Figure:
    """Draw a table of labels along the paths of some features, sorted by the cost of the path."""
    layers = chain.layers_from(chain.layers[0])
    paths = _examples(chain, layers)
    figure, (panel,) = new_figure(1, 1.9 * len(layers), 0.75 * len(paths) + 1)
    panel.set_axis_off()
    cells = [[_cell(step, is_first=number == 0) for number, step in enumerate(path)] for path in paths]
    header = [f"layer {layer}" for layer in layers]
    table = panel.table(cells, colLabels=header, loc="upper left", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(6)
    table.scale(1, 2.4)
    title = "Paths from the cheapest (top) to the most expensive: number and label of each feature, cost of the step"
    panel.set_title(title, loc="left", fontsize=8)
    return figure


def _examples(chain: Chain, layers: list[int]) -> list[list[Step]]:
    """Return some paths of labelled features through all layers, evenly spread over the costs of such paths."""
    first = layers[0]
    labelled = [feature for feature in range(len(chain[first, layers[1]].perm)) if chain.label(first, feature)]
    if not labelled:
        raise FigureSkipped("there are no labels next to the SAEs")
    paths = [path for path in (chain.path(first, feature) for feature in labelled) if len(path) == len(layers)]
    if not paths:
        raise FigureSkipped("no labelled feature has a path through all layers")
    paths.sort(key=lambda path: sum(step.cost for step in path))
    return [paths[int(place)] for place in np.unique(np.linspace(0, len(paths) - 1, EXAMPLES).astype(int))]


def _cell(step: Step, *, is_first: bool) -> str:
    cost = "\n" if is_first else f"\ncost {step.cost:.2f}"
    return f"{step.feature}: {label_text(step.label)}{cost}"
