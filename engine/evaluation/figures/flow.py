"""The figure of a flow: from which sites the features of each layer come."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from saematch.analysis.flow import GROUPS, NONE, Flow
from saematch.evaluation.figures.panels import COLOURS, add_legend, label_axes, new_figure
from saematch.evaluation.figures.writing import draw_and_write
from saematch.storage.folders import LocalFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {"nearest": "nearest feature", "partner": "one-to-one partner"}
# Features without a predecessor are grey, and drawn last.
_COLOURS = dict(zip([*GROUPS[1:], NONE], [*COLOURS[:6], "#8B5A2B", "#BBBBBB"], strict=True))


def draw_flow(flow: Flow, folder: str | os.PathLike[str]) -> None:
    """Draw the share of each group of features by layer, and write `figures/flow.png` and `figures/flow.svg`.

    Args:
        flow: the result of `find_predecessors`.
        folder: the folder in which the folder `figures` is made.

    Raises:
        MatchError: if matplotlib is not installed, or if the folder cannot be written.

    Examples:
        >>> import saematch as sm
        >>> from saematch.analysis.flow import find_predecessors
        >>> from saematch.evaluation.figures import draw_flow
        >>> chain = sm.match_layers({"residual": "sample?layer=8-10"}, pairs="flow")
        >>> draw_flow(find_predecessors(chain), "flow")
    """
    draw_and_write(LocalFolder(folder), {"flow": lambda: draw_figure(flow)})


def draw_figure(flow: Flow) -> Figure:
    """Return the figure, with a panel for the nearest features and one for the partners."""
    ways = list(dict.fromkeys(row["by"] for row in flow.groups.rows))
    layers = [one.layer for one in flow.layers]
    figure, panels = new_figure(len(ways), max(3.6, 0.3 * len(layers) + 1))
    present = {row["group"] for row in flow.groups.rows if row["features"]}
    for panel, way in zip(panels, ways, strict=True):
        below = [0.0] * len(layers)
        for group, colour in _COLOURS.items():
            if group not in present:
                continue
            shares = [row["share"] for row in flow.groups.where(by=way, group=group)]
            panel.bar(
                range(len(layers)), shares, bottom=below, color=colour, label=group.replace("+", " + "), width=0.8
            )
            below = [low + share for low, share in zip(below, shares, strict=True)]
        panel.set_xticks(range(len(layers)), list(map(str, layers)), rotation=90 if len(layers) > 12 else 0)
        panel.set_ylim(0, 1)
        panel.set_title(f"{_TITLES[way]}, cosine ≥ {flow.least:g}", loc="left", fontsize=8)
        label_axes(panel, "layer", "share of residual features")
    add_legend(figure, panels)
    return figure
