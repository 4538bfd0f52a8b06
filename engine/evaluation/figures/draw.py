"""Draw every figure of an evaluation and write it as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from saematch.evaluation.api import Evaluation
from saematch.evaluation.figures.causes import draw_ablation, draw_substitution
from saematch.evaluation.figures.codes import (
    draw_added_loss,
    draw_explained_variance,
    draw_folds,
    draw_gates,
    draw_l0,
    draw_parts,
)
from saematch.evaluation.figures.meaning import draw_meaning, draw_mse_by_grade, draw_paths
from saematch.evaluation.figures.panels import Tables
from saematch.evaluation.figures.weights import (
    draw_distances,
    draw_layers,
    draw_mse,
    draw_mse_histogram,
    draw_persistence,
)
from saematch.evaluation.figures.writing import draw_and_write
from saematch.runs.chain import Chain
from saematch.storage.folders import LocalFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_all(evaluation: Evaluation, chain: Chain, others: Sequence[Tables] = ()) -> dict[str, str]:
    """Draw every figure whose data were measured, and write `figures/{name}.png` and `figures/{name}.svg`.

    The files are written to the folder of the evaluation. The colours are those of Okabe and Ito, and every line has
    its own marker and dashes, so that the figures can be read in print and by colour-blind readers. The example of
    `evaluate` calls this function.

    Args:
        evaluation: the result of `evaluate`.
        chain: the evaluated run, from which examples of labels and paths are taken.
        others: tables of the evaluations of other SAEs of the same layers with another L0, which the figure `l0`
            compares.

    Returns:
        The reason why a figure was skipped, by the name of the figure.

    Raises:
        MatchError: if matplotlib is not installed, or if the folder cannot be written.
    """
    return draw_and_write(LocalFolder(evaluation.folder), _figures(evaluation.tables, chain, others))


def _figures(tables: Tables, chain: Chain, others: Sequence[Tables]) -> dict[str, Callable[[], Figure]]:
    return {
        "layers": partial(draw_layers, tables),
        "mse": partial(draw_mse, tables),
        "mse_histogram": partial(draw_mse_histogram, tables, chain),
        "mse_by_grade": partial(draw_mse_by_grade, tables),
        "meaning": partial(draw_meaning, tables),
        "distances": partial(draw_distances, tables),
        "explained_variance": partial(draw_explained_variance, tables),
        "delta_loss": partial(draw_added_loss, tables),
        "substitution": partial(draw_substitution, tables),
        "ablation": partial(draw_ablation, tables),
        "parts": partial(draw_parts, tables),
        "folds": partial(draw_folds, tables),
        "gates": partial(draw_gates, tables),
        "l0": partial(draw_l0, [tables, *others]),
        "persistence": partial(draw_persistence, tables),
        "paths": partial(draw_paths, chain),
    }
