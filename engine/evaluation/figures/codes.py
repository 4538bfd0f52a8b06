"""Figures of activations: explained variance and added loss of codes that are carried to the next layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saematch.evaluation.figures.panels import (
    FOLDED_CODES,
    UNFOLDED_CODES,
    FigureSkipped,
    Tables,
    add_legend,
    add_legend_above,
    column_of,
    draw_by_pair,
    label_axes,
    line_style,
    measured,
    new_figure,
    pairs_in,
)
from saematch.evaluation.methods import EVALUATED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WITHOUT_MATCHING = ("sae_of_target", "sae_of_source", "dropped")
_LOSS_TICKS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # nats


def draw_explained_variance(tables: Tables) -> Figure:
    """Draw the explained variance of every stand-in for the activations of the target layer."""
    figure, (panel,) = new_figure(1, 7.0)
    _draw_stand_ins(panel, tables, "explained_variance")
    panel.set_ylim(-0.6, 1)
    label_axes(panel, "pair of layers", "explained variance (share), 95 % interval")
    add_legend(figure, [panel])
    return figure


def draw_added_loss(tables: Tables) -> Figure:
    """Draw the loss that every stand-in for the hidden states of the target layer adds."""
    figure, (panel,) = new_figure(1, 7.0)
    _draw_stand_ins(panel, tables, "delta_loss")
    panel.set_yscale("symlog", linthresh=1.0)
    panel.set_yticks(_LOSS_TICKS, [f"{tick:g}" for tick in _LOSS_TICKS])
    label_axes(panel, "pair of layers", "added loss (nats per token), 95 % interval")
    add_legend(figure, [panel])
    return figure


def draw_parts(tables: Tables) -> Figure:
    """Draw what is lost or gained if features are matched by the encoder or by the decoder alone."""
    figure, panels = new_figure(2)
    cosines, variance = measured(tables, "cosine"), measured(tables, "explained_variance")
    for number, method in enumerate((EVALUATED, "encoder_only", "decoder_only")):
        draw_by_pair(panels[0], cosines.where(method=method), "mean", method, number)
        rows = variance.where(method=method, folded=False, gate=1.0)
        draw_by_pair(panels[1], rows, "value", method, number)
    label_axes(panels[0], "pair of layers", "mean decoder cosine")
    label_axes(panels[1], "pair of layers", f"explained variance, {UNFOLDED_CODES}, 95 % interval")
    add_legend_above(panels[0])
    return figure


def draw_folds(tables: Tables) -> Figure:
    """Draw the effect of the fold on the matching, and of the fold on the codes that are carried."""
    table = measured(tables, "explained_variance")
    figure, (panel,) = new_figure(1, 6.0)
    lines = [(method, folded) for method in (EVALUATED, "unfolded") for folded in (False, True)]
    for number, (method, folded) in enumerate(lines):
        weights, codes = "folded" if method == EVALUATED else method, FOLDED_CODES if folded else UNFOLDED_CODES
        rows = table.where(method=method, folded=folded, gate=1.0)
        draw_by_pair(panel, rows, "value", f"matched by {weights} weights, {codes}", number, "-" if folded else "--")
    label_axes(panel, "pair of layers", "explained variance, 95 % interval")
    add_legend(figure, [panel])
    return figure


def draw_gates(tables: Tables) -> Figure:
    """Draw the effect of a gate: only cheap pairs are carried, all other codes are decoded at the source."""
    figure, panels = new_figure(2 if "delta_loss" in tables else 1)
    axes = (("explained_variance", "explained variance"), ("delta_loss", "added loss (nats per token)"))
    for panel, (name, label) in zip(panels, axes, strict=False):
        table = measured(tables, name)
        folded = any(row["folded"] for row in table.rows)
        rows = table.where(method=EVALUATED, stand_in="carried", folded=folded)
        for number, (source, target) in enumerate(pairs_in(rows)):
            of_pair = [row for row in rows if (row["source"], row["target"]) == (source, target)]
            of_pair.sort(key=lambda row: float(row["gate"]))
            gates, values = column_of(of_pair, "gate"), column_of(of_pair, "value")
            panel.plot(gates, values, ms=4, label=f"{source} → {target}", **line_style(number))
        codes = FOLDED_CODES if folded else UNFOLDED_CODES
        label_axes(panel, "quantile of pair costs up to which\npairs are carried", f"{label}, {codes}")
    add_legend_above(panels[0])
    return figure


def draw_l0(sets: Sequence[Tables]) -> Figure:
    """Draw how the results depend on the L0 of the target, over several sets of SAEs of the same layers."""
    if len(sets) < 2:
        raise FigureSkipped("no evaluation of SAEs with another L0 was given (others=)")
    figure, panels = new_figure(2)
    # (column, source layer) -> (L0 of the target, value of the column), one point for each set.
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for tables in sets:
        variance = measured(tables, "explained_variance")
        for row in variance.where(method=EVALUATED, folded=False, gate=1.0):
            points.setdefault(("variance", row["source"]), []).append((row["target_l0"], row["value"]))
        cosines = {row["source"]: row["mean"] for row in measured(tables, "cosine").where(method=EVALUATED)}
        for row in variance.where(stand_in="sae_of_target"):
            points.setdefault(("cosine", row["source"]), []).append((row["target_l0"], cosines[row["source"]]))
    # One panel for each column, with one line for each source layer.
    axes = (("variance", f"explained variance, carried, {UNFOLDED_CODES}"), ("cosine", "mean decoder cosine"))
    for panel, (column, label) in zip(panels, axes, strict=True):
        sources = [source for of_column, source in points if of_column == column]
        for number, source in enumerate(sources):
            l0, values = zip(*sorted(points[column, source]), strict=True)
            panel.plot(l0, values, ms=4, label=f"from layer {source}", **line_style(number))
        label_axes(panel, "L0 of the target (mean active features per token)", label)
    add_legend_above(panels[0])
    return figure


def _draw_stand_ins(panel: Axes, tables: Tables, name: str) -> None:
    """Draw one line for each stand-in in a table, without gates and without further random permutations."""
    table = measured(tables, name)
    lines = [(stand_in.replace("_", " "), table.where(stand_in=stand_in)) for stand_in in _WITHOUT_MATCHING]
    carried = [row for row in table.where(stand_in="carried", gate=1.0) if row["seed"] == 0]
    for method in dict.fromkeys(row["method"] for row in carried):
        of_method = [row for row in carried if row["method"] == method]
        for folded in (False, True) if method == EVALUATED else (False,):
            rows = [row for row in of_method if bool(row["folded"]) == folded] or of_method
            lines.append((f"carried, {method}" + (f", {FOLDED_CODES}" if rows[0]["folded"] else ""), rows))
    for number, (label, rows) in enumerate(lines):
        draw_by_pair(panel, rows, "value", label, number)
