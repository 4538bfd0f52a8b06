"""Figures of what the weights alone show: norms, errors, composed matchings, persistence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from saematch.analysis.tables import Row
from saematch.evaluation.figures.panels import (
    COLOURS,
    DASHES,
    EXAMPLES,
    Tables,
    add_legend,
    add_legend_above,
    column_of,
    draw_by_pair,
    label_axes,
    label_text,
    line_style,
    measured,
    new_figure,
    pairs_in,
)
from saematch.evaluation.methods import EVALUATED, RANDOM
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_layers(tables: Tables) -> Figure:
    """Draw norms and thresholds by layer."""
    table = measured(tables, "layers")
    quantities = list(dict.fromkeys(row["quantity"] for row in table.rows))
    figure, panels = new_figure(len(quantities))
    for panel, quantity in zip(panels, quantities, strict=True):
        rows = table.where(quantity=quantity)
        layers = [row["layer"] for row in rows]
        panel.fill_between(layers, column_of(rows, "q5"), column_of(rows, "q95"), alpha=0.2, color=COLOURS[0], lw=0)
        panel.plot(layers, column_of(rows, "mean"), "-o", color=COLOURS[0], ms=4)
        # A quantity that is constant within rounding gets an axis that does not magnify the rounding.
        low, high = panel.get_ylim()
        middle = (low + high) / 2
        if high - low < 0.01 * abs(middle):
            panel.set_ylim(0.9 * middle, 1.1 * middle)
        panel.set_xticks(layers)
        label_axes(panel, "layer", f"{quantity} (raw activation units)")
    panels[0].set_title("line: mean over features; band: 5 % to 95 %", loc="left", fontsize=8)
    return figure


def draw_mse(tables: Tables) -> Figure:
    """Draw the mean squared error by pair of layers, part and method."""
    table = measured(tables, "mse")
    parts = list(dict.fromkeys(row["part"] for row in table.rows))
    methods = list(dict.fromkeys(row["method"] for row in table.rows))
    figure, panels = new_figure(len(parts))
    for panel, part in zip(panels, parts, strict=True):
        for number, method in enumerate(methods):
            draw_by_pair(panel, table.where(part=part, method=method), "mse", method, number)
        if any(row["mse"] for row in table.where(part=part)):
            panel.set_yscale("log")
        label_axes(panel, "pair of layers", f"MSE, {part} (folded weights² per element)")
    add_legend(figure, panels)
    return figure


def draw_mse_histogram(tables: Tables, chain: Chain) -> Figure:
    """Draw the distribution of the error over the features of the middle pair, with examples of labels."""
    table = measured(tables, "mse_histogram")
    pairs = pairs_in(table.rows)
    pair = pairs[len(pairs) // 2]
    figure, (panel,) = new_figure(1, 7.0)
    for number, method in enumerate((EVALUATED, RANDOM)):
        rows = table.where(source=pair[0], target=pair[1], method=method, seed=0)
        edges = [*column_of(rows, "low"), rows[-1]["high"]]
        opacity = 1 if number else 0.5
        panel.stairs(
            column_of(rows, "features"),
            edges,
            fill=not number,
            color=COLOURS[number],
            ls=DASHES[number],
            alpha=opacity,
            label=method,
        )
    title = f"layers {pair[0]} → {pair[1]}; the last bin also counts all larger errors"
    panel.set_title("\n".join([title, *_examples(chain, pair)]), loc="left", fontsize=8)
    label_axes(panel, "MSE of a feature, all parts (folded weights² per element)", "features")
    panel.legend()
    return figure


def draw_distances(tables: Tables) -> Figure:
    """Draw how composed matchings compare with exact ones, by distance."""
    rows = measured(tables, "distances").rows
    figure, panels = new_figure(3)
    distances = sorted({row["distance"] for row in rows})

    def means(of_row: Callable[[Row], float]) -> list[float]:
        return [float(np.mean([of_row(row) for row in rows if row["distance"] == n])) for n in distances]

    def cost_ratio(row: Row) -> float:
        return float(row["composed_cost"] / (row["exact_cost"] or math.nan))

    lines: list[tuple[str, dict[str, Callable[[Row], float]]]] = [
        ("share of features with the same partner", {"agreement": lambda row: row["agreement"]}),
        ("cost ratio", {"composed / exact": cost_ratio}),
        (
            "mean decoder cosine",
            {"exact": lambda row: row["exact_cosine"], "composed": lambda row: row["composed_cosine"]},
        ),
    ]
    for panel, (label, by_name) in zip(panels, lines, strict=True):
        for number, (name, of_row) in enumerate(by_name.items()):
            panel.plot(distances, means(of_row), label=name, **line_style(number))
        panel.set_xticks(distances)
        label_axes(panel, "distance (steps of the run)", f"{label},\nmean over pairs")
        add_legend_above(panel)
    return figure


def draw_persistence(tables: Tables) -> Figure:
    """Draw the share of features that persist, and how many layers features live for."""
    persistence, lifetimes = measured(tables, "persistence"), measured(tables, "lifetimes")
    figure, panels = new_figure(2)
    for number, cosine in enumerate(dict.fromkeys(row["cosine"] for row in persistence.rows)):
        rows = persistence.where(method=EVALUATED, cosine=cosine)
        draw_by_pair(panels[0], rows, "persistent", f"cosine ≥ {cosine:g}", number)
        lives = lifetimes.where(cosine=cosine)
        panels[1].plot(column_of(lives, "layers"), column_of(lives, "features"), ms=4, **line_style(number))
    panels[1].set_yscale("log")
    label_axes(panels[0], "pair of layers", "share of source features whose\npartner is the same feature")
    label_axes(panels[1], "lifetime (layers)", "features")
    add_legend_above(panels[0])
    return figure


def _examples(chain: Chain, pair: Pair) -> list[str]:
    """Return labels of both features of some pairs, evenly spread from the cheapest to the most expensive."""
    matching = chain[pair]
    order = np.argsort(matching.pair_cost.numpy())
    lines = []
    for share in np.linspace(0.02, 0.98, EXAMPLES):
        feature = int(order[int(share * (len(order) - 1))])
        labels = chain.label(pair[0], feature), chain.label(pair[1], int(matching.perm[feature]))
        if all(labels):
            lines.append(f"{share:.0%} of pairs are cheaper: {label_text(labels[0])}  →  {label_text(labels[1])}")
    return lines
