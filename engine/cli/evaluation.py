"""What the command line asks of an evaluation: its options made into objects, and its answer in a few columns."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from saematch.analysis.tables import Row, Table
from saematch.cli.terminal import remark
from saematch.errors import MatchError
from saematch.evaluation.activations import Source, StoredActivations
from saematch.evaluation.codes import VARIANCE
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.explanations import explanations_of
from saematch.evaluation.figures import draw_all
from saematch.evaluation.meaning import read_grades
from saematch.evaluation.methods import MATCHED, RANDOM
from saematch.evaluation.model import LanguageModel, Texts
from saematch.evaluation.study import Evaluation, evaluate, hooks_of
from saematch.evaluation.weights import COSINE
from saematch.matching.backend import choose_backend
from saematch.runs.chain import Chain
from saematch.runs.pipeline import Progress
from saematch.sources import load_layers
from saematch.storage.folders import LocalFolder


def evaluation_of(
    options: argparse.Namespace, tell: Callable[[str, Progress | None], None]
) -> tuple[Evaluation, Chain]:
    """Evaluate as `saematch evaluate` was asked to. Raises `MatchError`."""
    chain = Chain.load(options.run_folder, inputs=None if options.inputs is None else load_layers(options.inputs))
    if options.out is None and "://" in options.run_folder:
        raise MatchError(f"{options.run_folder}: an evaluation is written to a folder of this machine; name it (--out)")
    out = Path(options.run_folder) / "evaluation" if options.out is None else Path(options.out)
    device = choose_backend("torch", options.device).device
    judge = None
    if options.judge is not None:
        if options.judge_model is None:
            raise MatchError("--judge needs --judge-model, what the endpoint calls its model")
        judge = EndpointJudge(
            options.judge,
            options.judge_model,
            out / "judge.jsonl",
            calls=options.judge_calls,
            told=lambda asked: tell(f"the judge has answered {asked:,} times", None),
        )
    explained = None
    if options.explanations is not None:
        explained = explanations_of(chain, options.explanations, options.neuronpedia)
    remark(explained.about if explained and not options.quiet else ())
    found = evaluate(
        chain,
        out,
        activations=_activations(options, chain, device),
        explanations=explained and explained.texts,
        judge=judge,
        judged=options.judged,
        human=None if options.human is None else read_grades(options.human),
        distance=options.distance,
        outliers=options.outliers or None,
        device=device,
        progress=tell,
    )
    return found, chain


def figures_of(evaluation: Evaluation, chain: Chain, beside: Sequence[str]) -> dict[str, str]:
    """Draw them; figure -> why it is not there."""
    others = [
        {schema.name: Table.read(LocalFolder(other), schema) for schema in (VARIANCE, COSINE)} for other in beside
    ]
    if find_spec("matplotlib") is None:
        return {"all": "matplotlib is not installed: pip install 'saematch[evaluate]'"}
    return draw_all(evaluation, chain, others)


def summary_of(evaluation: Evaluation) -> list[Row]:
    """A row a pair of layers; the tables have definitions, intervals and the rest."""
    rows = []
    for row in evaluation.tables["mse"].where(method=MATCHED, part="all"):
        one = partial(_value, evaluation, source=row["source"], target=row["target"])
        carried: dict[str, Any] = {"method": MATCHED, "gate": 1.0}
        measured = {
            "layers": f"{row['source']} -> {row['target']}",
            "mse": row["mse"],
            "mse random": one("mse", "mse", method=RANDOM, part="all"),
            "cosine": one("cosine", "mean", method=MATCHED),
            "same >= 0.7": one("persistence", "persistent", method=MATCHED, cosine=0.7),
            "EV of B's SAE": one("explained_variance", "value", stand_in="sae_of_target"),
            "EV carried": one("explained_variance", "value", **carried, folded=False),
            "EV folded": one("explained_variance", "value", **carried, folded=True),
            "loss added": one("delta_loss", "value", **carried, folded=False),
            "grade": one("meaning", "value", method=MATCHED, quarter=0),
            "grade random": one("meaning", "value", method=RANDOM, quarter=0),
        }
        rows.append(measured)
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in known} for row in rows]


def _value(evaluation: Evaluation, name: str, column: str, **values: Any) -> Any:
    """Of the first row that has these values; None where it was not measured."""
    table = evaluation.tables.get(name)
    found = table.where(**values) if table else []
    return found[0][column] if found else None


def _activations(options: argparse.Namespace, chain: Chain, device: Any) -> Source | None:
    if options.activations is not None:
        return StoredActivations(options.activations, options.document_length)
    if options.model is None:
        return None
    if options.texts is None:
        raise MatchError("--model needs --texts, what it is to read")
    if find_spec("transformers") is not None:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call] # ours says what is being done
    hooks = hooks_of(chain.inputs) if options.hook is None else options.hook
    return LanguageModel(
        options.model,
        Texts.read(options.texts),
        context=options.context,
        tokens=options.tokens,
        hooks=hooks,
        device=device,
    )
