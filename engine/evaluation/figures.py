"""One picture for each question, drawn from the tables: PNG and SVG, readable in print and by colour-blind eyes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from saematch.analysis.tables import Row, Table
from saematch.errors import MatchError
from saematch.evaluation.meaning import Grade
from saematch.evaluation.methods import MATCHED, RANDOM
from saematch.evaluation.study import Evaluation
from saematch.runs.chain import Chain
from saematch.storage.folders import LocalFolder
from saematch.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; markers and dashes say the same without colour.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999999",
    "#8B5A2B",
    "#5D3A9B",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_DASHES = ("-", "--", "-.", ":")
_UNFOLDED, _FOLDED = "codes as they are", "codes folded"
_EXAMPLES = 5
_NATS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

Tables = Mapping[str, Table]


class LeftOut(Exception):
    """A picture that cannot be drawn; says why."""


def draw_all(evaluation: Evaluation, chain: Chain, others: Sequence[Tables] = ()) -> dict[str, str]:
    """Write `figures/{name}.png` and `.svg` of everything that was measured.

    Args:
        evaluation: what was measured.
        chain: the run, for examples of paths.
        others: tables of evaluations of other sets of SAEs of the same layers, at other L0s.

    Returns:
        Figure name -> why it was left out.

    Raises:
        MatchError: if matplotlib is not installed, or the folder cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise MatchError("figures need the package matplotlib: pip install 'saematch[evaluate]'")
    from matplotlib import rc_context

    folder = LocalFolder(evaluation.folder)
    figures: dict[str, Callable[[], Figure]] = {
        "layers": lambda: _layers(evaluation.tables),
        "mse": lambda: _mse(evaluation.tables),
        "mse_histogram": lambda: _histogram(evaluation.tables, chain),
        "mse_by_grade": lambda: _mse_by_grade(evaluation.tables),
        "meaning": lambda: _meaning(evaluation.tables),
        "distances": lambda: _distances(evaluation.tables),
        "explained_variance": lambda: _by_layer(evaluation.tables, "explained_variance", "explained variance (share)"),
        "delta_loss": lambda: _by_layer(evaluation.tables, "delta_loss", "loss added (nats a token)"),
        "parts": lambda: _parts(evaluation.tables),
        "folds": lambda: _folds(evaluation.tables),
        "gates": lambda: _gates(evaluation.tables),
        "l0": lambda: _l0([evaluation.tables, *others]),
        "persistence": lambda: _persistence(evaluation.tables),
        "paths": lambda: _paths(chain),
    }
    left = {}
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
             "svg.hashsalt": "saematch", "figure.dpi": 150, "axes.formatter.useoffset": False}  # fmt: skip
    with rc_context(style):
        for name, make in figures.items():
            try:
                figure = make()
            except LeftOut as reason:
                left[name] = str(reason)
                continue
            for kind, about in (("png", {}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=kind, bbox_inches="tight", metadata=about)
                folder.write(f"figures/{name}.{kind}", content.getvalue())
    return left


def _layers(tables: Tables) -> Figure:
    """Norms and thresholds by layer."""
    table = _table(tables, "layers")
    quantities = list(dict.fromkeys(row["quantity"] for row in table.rows))
    figure, panels = _panels(len(quantities))
    for panel, quantity in zip(panels, quantities, strict=True):
        rows = table.where(quantity=quantity)
        layers = [row["layer"] for row in rows]
        panel.fill_between(layers, _column(rows, "q5"), _column(rows, "q95"), alpha=0.2, color=_COLOURS[0], lw=0)
        panel.plot(layers, _column(rows, "mean"), "-o", color=_COLOURS[0], ms=4)
        low, high = panel.get_ylim()
        middle = (low + high) / 2
        if high - low < 0.01 * abs(middle):  # constant, within rounding
            panel.set_ylim(0.9 * middle, 1.1 * middle)
        panel.set_xticks(layers)
        _label(panel, "layer", f"{quantity} (raw activation units)")
    panels[0].set_title("line: mean over features, band: 5 % to 95 %", loc="left", fontsize=8)
    return figure


def _mse(tables: Tables) -> Figure:
    """MSE by pair, part and method."""
    table = _table(tables, "mse")
    parts = list(dict.fromkeys(row["part"] for row in table.rows))
    methods = list(dict.fromkeys(row["method"] for row in table.rows))
    figure, panels = _panels(len(parts))
    for panel, part in zip(panels, parts, strict=True):
        for number, method in enumerate(methods):
            _line(panel, table.where(part=part, method=method), "mse", method, number)
        if any(row["mse"] for row in table.where(part=part)):
            panel.set_yscale("log")
        _label(panel, "pair of layers", f"MSE, {part} (folded weights² an element)")
    _legend(figure, panels)
    return figure


def _histogram(tables: Tables, chain: Chain) -> Figure:
    """How MSE is spread over features, with examples of labels."""
    table = _table(tables, "mse_histogram")
    pairs = list(dict.fromkeys((row["source"], row["target"]) for row in table.rows))
    figure, (panel,) = _panels(1, 7.0)
    pair = pairs[len(pairs) // 2]
    for number, method in enumerate((MATCHED, RANDOM)):
        rows = table.where(source=pair[0], target=pair[1], method=method, seed=0)
        edges = [*_column(rows, "low"), rows[-1]["high"]]
        panel.stairs(
            _column(rows, "features"),
            edges,
            color=_COLOURS[number],
            ls=_DASHES[number],
            fill=not number,
            alpha=1 if number else 0.5,
            label=method,
        )
    costs = chain[pair].pair_cost.numpy()
    order = np.argsort(costs)
    lines = []
    for share in np.linspace(0.02, 0.98, _EXAMPLES):
        feature = int(order[int(share * (len(order) - 1))])
        texts = chain.label(pair[0], feature), chain.label(pair[1], int(chain[pair].perm[feature]))
        if all(texts):
            lines.append(f"{share:.0%} cheapest: {_short(texts[0])}  →  {_short(texts[1])}")
    title = f"layers {pair[0]} → {pair[1]}; the last bin holds everything beyond"
    panel.set_title("\n".join([title, *lines]), loc="left", fontsize=8)
    _label(panel, "MSE of a feature, all parts (folded weights² an element)", "features")
    panel.legend()
    return figure


def _mse_by_grade(tables: Tables) -> Figure:
    """MSE of pairs with each grade."""
    table = _table(tables, "judgements")
    rows = [row for row in table.where(method=MATCHED) if row["grade"] is not None]
    if not rows:
        raise LeftOut("no pair has a grade")
    figure, (panel,) = _panels(1)
    grades = [grade for grade in Grade if any(row["grade"] == grade for row in rows)]
    values = [[row["mse"] for row in rows if row["grade"] == grade] for grade in grades]
    panel.boxplot(
        values,
        tick_labels=[f"{grade.name}\nn = {len(some)}" for grade, some in zip(grades, values, strict=True)],
        showfliers=False,
    )
    _label(panel, f"grade by {rows[0]['judge']}", "MSE, all parts (folded weights² an element)")
    panel.set_title("box: quartiles, whiskers: up to 1.5 of their distance", loc="left", fontsize=8)
    return figure


def _meaning(tables: Tables) -> Figure:
    """Grades and matching score by layer."""
    table = _table(tables, "meaning")
    figure, panels = _panels(2 if "matching_score" in tables else 1)
    for number, method in enumerate((MATCHED, RANDOM)):
        _line(panels[0], table.where(method=method, quarter=0), "value", method, number)
    for number, quarter in enumerate((1, 4)):
        label = f"{MATCHED}, {'cheapest' if quarter == 1 else 'dearest'} quarter"
        _line(panels[0], table.where(method=MATCHED, quarter=quarter), "value", label, number + 2)
    _label(
        panels[0], "pair of layers", f"mean grade by {table.rows[0]['judge']}\n(1 different … 3 same), 95 % interval"
    )
    _legend_above(panels[0])
    if len(panels) > 1:
        scores = tables["matching_score"]
        for number, score in enumerate(dict.fromkeys(row["score"] for row in scores.rows)):
            _line(panels[1], scores.where(method=MATCHED, score=score), "value", score, number)
        _label(panels[1], "pair of layers", "matching score, mean over features, 95 % interval")
        _legend_above(panels[1])
    return figure


def _distances(tables: Tables) -> Figure:
    """Composed against exact matchings by distance."""
    rows = _table(tables, "distances").rows
    figure, panels = _panels(3)
    steps = sorted({row["distance"] for row in rows})

    def means(column: Callable[[Row], float]) -> list[float]:
        return [float(np.mean([column(row) for row in rows if row["distance"] == step])) for step in steps]

    def ratio(row: Row) -> float:
        return float(row["composed_cost"] / (row["exact_cost"] or math.nan))

    for panel, lines, label in (
        (panels[0], {"agreement": lambda row: row["agreement"]}, "share of features with the same partner"),
        (panels[1], {"composed / exact": ratio}, "cost ratio"),
        (
            panels[2],
            {"exact": lambda row: row["exact_cosine"], "composed": lambda row: row["composed_cosine"]},
            "mean decoder cosine",
        ),
    ):
        for number, (name, column) in enumerate(lines.items()):
            panel.plot(
                steps, means(column), color=_COLOURS[number], marker=_MARKERS[number], ls=_DASHES[number], label=name
            )
        panel.set_xticks(steps)
        _label(panel, "distance (steps of the run)", f"{label},\nmean over pairs")
        _legend_above(panel)
    return figure


def _by_layer(tables: Tables, name: str, label: str) -> Figure:
    """What stands in for the next layer's activations, by layer."""
    table = _table(tables, name)
    figure, panels = _panels(1, 7.0)
    number = 0
    for stand_in in ("sae_of_target", "sae_of_source", "dropped"):
        _line(panels[0], table.where(stand_in=stand_in), "value", stand_in.replace("_", " "), number)
        number += 1
    carried = [row for row in table.where(stand_in="carried", gate=1.0) if row["seed"] == 0]
    for method in dict.fromkeys(row["method"] for row in carried):
        folds = (False, True) if method == MATCHED else (False,)
        for folded in folds:
            rows = [row for row in carried if row["method"] == method and bool(row["folded"]) == folded]
            rows = rows or [row for row in carried if row["method"] == method]
            text = f"carried, {method}" + (f", {_FOLDED}" if rows[0]["folded"] else "")
            _line(panels[0], rows, "value", text, number)
            number += 1
    if name == "explained_variance":
        panels[0].set_ylim(-0.6, 1)
    else:
        panels[0].set_yscale("symlog", linthresh=1.0)
        panels[0].set_yticks(_NATS, [f"{tick:g}" for tick in _NATS])
    _label(panels[0], "pair of layers", f"{label}, 95 % interval")
    _legend(figure, panels)
    return figure


def _parts(tables: Tables) -> Figure:
    """Matched by all parts, by the encoder or by the decoder alone."""
    figure, panels = _panels(2)
    cosines, variance = _table(tables, "cosine"), _table(tables, "explained_variance")
    for number, method in enumerate((MATCHED, "encoder_only", "decoder_only")):
        _line(panels[0], cosines.where(method=method), "mean", method, number)
        _line(panels[1], variance.where(method=method, folded=False, gate=1.0), "value", method, number)
    _label(panels[0], "pair of layers", "mean decoder cosine")
    _label(panels[1], "pair of layers", f"explained variance, {_UNFOLDED}, 95 % interval")
    _legend_above(panels[0])
    return figure


def _folds(tables: Tables) -> Figure:
    """Folded or not when finding, folded or not at inference."""
    table = _table(tables, "explained_variance")
    figure, (panel,) = _panels(1, 6.0)
    for number, (method, found) in enumerate(((MATCHED, "folded"), ("unfolded", "unfolded"))):
        for folded, ls in ((False, "--"), (True, "-")):
            rows = table.where(method=method, folded=folded, gate=1.0)
            if rows:
                text = f"found {found}, {_FOLDED if folded else _UNFOLDED}"
                _line(panel, rows, "value", text, number, ls)
    _label(panel, "pair of layers", "explained variance, 95 % interval")
    _legend(figure, [panel])
    return figure


def _gates(tables: Tables) -> Figure:
    """Only cheap pairs are carried, the rest is decoded at the source."""
    figure, panels = _panels(2 if "delta_loss" in tables else 1)
    for panel, name, label in zip(
        panels, ("explained_variance", "delta_loss"), ("explained variance", "loss added (nats a token)"), strict=False
    ):
        table = _table(tables, name)
        folded = any(row["folded"] for row in table.rows)
        rows = table.where(method=MATCHED, stand_in="carried", folded=folded)
        for number, pair in enumerate(dict.fromkeys((row["source"], row["target"]) for row in rows)):
            these = sorted((row for row in rows if (row["source"], row["target"]) == pair), key=lambda r: r["gate"])
            panel.plot(
                _column(these, "gate"),
                _column(these, "value"),
                color=_colour(number),
                ls=_dash(number),
                marker=_marker(number),
                ms=4,
                label=f"{pair[0]} → {pair[1]}",
            )
        text = f"{label}, {_FOLDED if folded else _UNFOLDED}"
        _label(panel, "quantile of pair costs up to which\npairs are carried", text)
    _legend_above(panels[0])
    return figure


def _l0(sets: Sequence[Tables]) -> Figure:
    """Dependence on how many features are active."""
    if len(sets) < 2:
        raise LeftOut("no evaluation of SAEs at other L0s was given (others=)")
    figure, panels = _panels(2)
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for tables in sets:
        for row in _table(tables, "explained_variance").where(method=MATCHED, folded=False, gate=1.0):
            points.setdefault(("value", row["source"]), []).append((row["target_l0"], row["value"]))
        by_pair = {row["source"]: row["mean"] for row in _table(tables, "cosine").where(method=MATCHED)}
        for row in _table(tables, "explained_variance").where(stand_in="sae_of_target"):
            points.setdefault(("cosine", row["source"]), []).append((row["target_l0"], by_pair[row["source"]]))
    for panel, what, label in (
        (panels[0], "value", f"explained variance, carried, {_UNFOLDED}"),
        (panels[1], "cosine", "mean decoder cosine"),
    ):
        for number, (_, source) in enumerate(key for key in points if key[0] == what):
            l0, values = zip(*sorted(points[what, source]), strict=True)
            panel.plot(
                l0,
                values,
                color=_colour(number),
                ls=_dash(number),
                marker=_marker(number),
                ms=4,
                label=f"from layer {source}",
            )
        _label(panel, "L0 of the target (mean active features a token)", label)
    _legend_above(panels[0])
    return figure


def _persistence(tables: Tables) -> Figure:
    """Shares of features that persist, and how long they live."""
    persistence, lifetimes = _table(tables, "persistence"), _table(tables, "lifetimes")
    figure, panels = _panels(2)
    for number, least in enumerate(dict.fromkeys(row["cosine"] for row in persistence.rows)):
        rows = persistence.where(method=MATCHED, cosine=least)
        _line(panels[0], rows, "persistent", f"cosine ≥ {least:g}", number)
        lives = lifetimes.where(cosine=least)
        panels[1].plot(
            _column(lives, "layers"),
            _column(lives, "features"),
            color=_colour(number),
            ls=_dash(number),
            marker=_marker(number),
            ms=4,
        )
    panels[1].set_yscale("log")
    _label(panels[0], "pair of layers", "share of source features whose\npartner is the same feature")
    _label(panels[1], "lifetime (layers)", "features")
    _legend_above(panels[0])
    return figure


def _paths(chain: Chain) -> Figure:
    """Labels of some features along their paths, the cheapest first."""
    first = chain.layers[0]
    way = chain.way_from(first)
    labelled = [feature for feature in range(len(chain[first, way[1]].perm)) if chain.label(first, feature)]
    if not labelled:
        raise LeftOut("there are no labels beside the SAEs")
    found = [chain.path(first, feature) for feature in labelled]
    whole = [path for path in found if len(path) == len(way)]
    if not whole:
        raise LeftOut("no labelled feature has a path through all layers")
    whole.sort(key=lambda path: sum(step.cost for step in path))
    chosen = [whole[int(place)] for place in np.unique(np.linspace(0, len(whole) - 1, _EXAMPLES).astype(int))]
    figure, (panel,) = _panels(1, 1.9 * len(way), 0.75 * len(chosen) + 1)
    panel.set_axis_off()
    cells = [
        [
            f"{step.feature}: {_short(step.label)}" + (f"\ncost {step.cost:.2f}" if n else "\n")
            for n, step in enumerate(path)
        ]
        for path in chosen
    ]
    table = panel.table(cells, colLabels=[f"layer {layer}" for layer in way], loc="upper left", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(6)
    table.scale(1, 2.4)
    panel.set_title(
        "From the cheapest path (top) to the dearest: feature: what it fires on, and what the step costs",
        loc="left",
        fontsize=8,
    )
    return figure


def _table(tables: Tables, name: str) -> Table:
    if name not in tables or not tables[name].rows:
        raise LeftOut(f"{name} was not measured")
    return tables[name]


def _panels(count: int, width: float = 3.6, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)
    return figure, list(panels[0])


def _line(panel: Axes, rows: Sequence[Row], column: str, label: str, number: int, ls: str | None = None) -> None:
    """Values by pair of layers, with their intervals where they have any; of several seeds, the mean."""
    pairs = list(dict.fromkeys((row["source"], row["target"]) for row in rows))
    if not pairs:
        return
    groups = [[row for row in rows if (row["source"], row["target"]) == pair] for pair in pairs]

    def means(name: str) -> Any:
        return np.array([np.mean(_column(group, name)) for group in groups])

    values = means(column)
    error = None
    if column == "value":
        error = np.maximum([values - means("low"), means("high") - values], 0)
    panel.errorbar(
        range(len(pairs)),
        values,
        yerr=error,
        color=_colour(number),
        ls=ls or _dash(number),
        marker=_marker(number),
        ms=4,
        lw=1.2,
        capsize=2,
        label=label,
    )
    panel.set_xticks(range(len(pairs)), [f"{a}→{b}" for a, b in pairs], rotation=90 if len(pairs) > 8 else 0)


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def _label(panel: Axes, x: str, y: str) -> None:
    panel.set_xlabel(x)
    panel.set_ylabel(y)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One for all panels, beside them."""
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7)


def _legend_above(panel: Axes) -> None:
    """Where it hides no line."""
    panel.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _short(text: str | None, most: int = 34) -> str:
    """Text of unknown origin, without what would be read as mathematics."""
    return shorten(printable(text or ""), most).replace("$", r"\$")


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _dash(number: int) -> str:
    return _DASHES[number % len(_DASHES)]
