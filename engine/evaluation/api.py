"""Evaluate a run: `evaluate` and its result."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from saematch.activations.selection import OUTLIERS
from saematch.activations.stored import ActivationSource
from saematch.analysis.tables import Table
from saematch.evaluation.meaning import JUDGED, Grade, Judge, PairOfFeatures, TokenOverlap
from saematch.evaluation.schedule import Measurement
from saematch.evaluation.study import Study
from saematch.evaluation.substitution import CAUSAL_PAIRS
from saematch.numeric.numbers import checked_count, checked_number
from saematch.numeric.threads import torch_threads
from saematch.options import FoldName
from saematch.runs.chain import Chain
from saematch.runs.labels import checked_labels
from saematch.storage.folders import LocalFolder
from saematch.text import html_table


@dataclass(repr=False)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        folder: the folder that the tables were written to.
        tables: name -> table, for everything that could be measured.
        fold: the fold of the weights that all methods are compared on.
        not_measured: what was not measured -> the reason.
        unfinished: the reason why results are missing that the same call would add, for example because the endpoint of
            the judge failed; None if the evaluation is finished.
    """

    folder: str
    tables: dict[str, Table]
    fold: FoldName
    not_measured: dict[str, str] = field(default_factory=dict)
    unfinished: str | None = None

    def __repr__(self) -> str:
        return f"Evaluation({self.folder!r}, {len(self.tables)} tables, {len(self.not_measured)} not measured)"

    def _repr_html_(self) -> str:
        rows = [[name, len(table.rows), table.schema.about] for name, table in self.tables.items()]
        rows += [[name, "-", f"not measured: {reason}"] for name, reason in self.not_measured.items()]
        return html_table(repr(self), ["table", "rows", "what it measures"], rows)


@torch_threads()
def evaluate(
    chain: Chain,
    out: str | os.PathLike[str],
    *,
    activations: ActivationSource | None = None,
    explanations: Mapping[int, Mapping[int, str]] | None = None,
    judge: Judge | None = None,
    judged: int = JUDGED,
    human: Mapping[PairOfFeatures, Grade] | None = None,
    distance: int | None = None,
    outliers: float | None = OUTLIERS,
    causal_pairs: int = CAUSAL_PAIRS,
    device: torch.device | str = "cpu",
    progress: Callable[[Measurement], None] | None = None,
) -> Evaluation:
    """Measure a run and compare it with baselines.

    One table per measurement is written to `out`, as CSV and, if pyarrow is installed, as Parquet; `tables.json`
    defines the methods and the columns. Baselines, and exact matchings of far layers, are runs of their own in `out`.
    If an evaluation was interrupted, the same call resumes it.

    All methods are compared on weights that are folded in the same way: as in the run or, if the run has no fold, by
    threshold, or by decoder norm if an SAE has no thresholds.

    Args:
        chain: a run of one set of SAEs, from `match_layers` or `Chain.load`.
        out: a folder for the tables and the runs of the baselines.
        activations: `StoredActivations`, or a `LanguageModel`, whose loss is measured, too. Without activations, only
            weights and meaning are measured.
        explanations: layer -> feature -> explanation, see `read_explanations`. By default, the labels that are stored
            next to the SAEs.
        judge: the judge that reads the explanations, for example an `EndpointJudge`. By default, `TokenOverlap`, which
            is only a proxy.
        judged: the number of pairs of features to judge for each pair of layers and method.
        human: a person's grades, to compare the judge with, see `read_grades`.
        distance: the largest number of steps of the run between far layers, unlimited by default; 1 leaves out far
            layers.
        outliers: leave out a token if its norm in some layer exceeds this many medians of the norms of that layer;
            None leaves out no token.
        causal_pairs: with a language model: the most pairs of features that are put to the test in the model at once,
            those of the lowest cost. The activations of their targets are computed from their sources (substitution).
            Some sources are also taken out (ablation). Both together take about twice as long as the loss of stand-ins;
            0 leaves both out.
        device: the device on which SAEs encode and decode activations.
        progress: a function that is called before the first measurement with what all measurements take, and then with
            each measurement that begins: its name, its number, and about how many seconds are left; and, if the
            measurement is a run of its own, also with each progress event of that run.

    Returns:
        The tables, and what is missing.

    Raises:
        MatchError: if the run cannot be evaluated, if the activations do not fit the SAEs, if an argument is not
            valid, or if the folder cannot be written.

    Examples:
        >>> import saematch as sm
        >>> layers = sm.load_layers("sample")
        >>> chain = sm.match_layers({layer: layers[layer] for layer in (8, 9)})
        >>> evaluation = evaluate(chain, "evaluation")
        >>> for method in ("matched", "random"):
        ...     row = evaluation.tables["mse"].where(method=method, part="all", seed=0)[0]
        ...     print(f"{method}: {row['mse']:.4f}")
        matched: ...
        random: ...
        >>> evaluation.not_measured["distances"]
        'no two layers are more than one step of the run apart'
        >>> from saematch.evaluation import draw_all
        >>> skipped = draw_all(evaluation, chain)
        >>> "explained_variance" in skipped  # it needs activations
        True
    """
    explanations = None if explanations is None else checked_labels(explanations, chain)
    judged = checked_count(judged, 0, f"judged is {judged!r:.40}; give the number of pairs of features to judge")
    wrong = f"causal_pairs is {causal_pairs!r:.40}; give the most pairs of features to replace, or 0"
    causal_pairs = checked_count(causal_pairs, 0, wrong)
    if distance is not None:
        distance = checked_count(distance, 0, f"distance is {distance!r:.40}; give a number of steps of the run")
    if outliers is not None:
        wrong = f"outliers is {outliers!r:.40}; give medians of the norm, above 0, or None"
        outliers = checked_number(outliers, 0, math.inf, wrong, above=True)
    study = Study(chain, LocalFolder(out), progress, torch.device(device))
    if activations is not None:
        study.check_activations(activations)
    study.plan(activations, causal_pairs, distance, has_texts=bool(study.texts(explanations)))
    study.match_baselines()
    study.measure_weights()
    study.measure_distances(distance)
    if activations is not None:
        study.measure_activations(activations, outliers, causal_pairs)
    else:
        what = "explained_variance, matching_score, delta_loss, substitution, ablation"
        study.not_measured[what] = "no activations and no language model were given"
    study.measure_meaning(explanations, TokenOverlap() if judge is None else judge, judged, human)
    tables = study.write()
    unfinished = getattr(judge, "trouble", None)
    return Evaluation(str(study.folder), tables, study.fold, study.not_measured, unfinished)
