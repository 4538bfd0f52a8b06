"""`saematch evaluate`: measure how good a run is, compared with baselines.

The modules of `saematch.evaluation` are imported when they are needed, since they take seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from saematch.cli.activations import activations_of, add_activations
from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, for_terminal, in_flags, print_json
from saematch.cli.groups import add_inputs, add_json, add_quiet, add_run, chain_of
from saematch.cli.parser import as_path
from saematch.cli.terminal import Status, cell, percent, print_legend, print_remarks, status_line, table
from saematch.errors import MatchError
from saematch.text import duration

if TYPE_CHECKING:
    from saematch.analysis.tables import Row, Table
    from saematch.evaluation.api import Evaluation
    from saematch.evaluation.endpoint import EndpointJudge
    from saematch.evaluation.schedule import Measurement
    from saematch.runs.chain import Chain

HELP = "measure how good a run is, compared with baselines: tables and figures"
DESCRIPTION = """Measure how good the matchings of a run are, and match the same layers by other methods to compare
with. Write one table per measurement and one figure per question. Weights and labels are always used; activations, a
language model and explanations are used if the options name them. Rerun the same command to resume an evaluation."""
# The columns of the summary. A is the source layer, B the target layer.
_NOT_MEASURED = " was not measured"  # with the name of a table: why a figure is missing
_SHARES = (">= 0.7", "falls", "falls random")  # columns of the summary
_LEGEND = {
    "mse": "mean squared error of matched features of A and B, folded",
    "mse random": "the same for random pairs",
    "cosine": "mean cosine of the decoder rows of matched features",
    ">= 0.7": "share of the features of A whose partner has a cosine of at least 0.7",
    "EV own": "explained variance: the share of the variance of B's activations that B's own SAE explains",
    "EV carried": "the same if B's SAE decodes codes of A, carried over by the matching",
    "EV folded": "the same with each code multiplied by the ratio of the thresholds of its pair",
    "loss added": "rise of the language model's loss, in nats per token, with hidden states decoded from carried codes",
    "AUSQC": "share of the loss recovered if features of B are computed from their partners, over the number of pairs",
    "falls": "share of features of A whose partner falls by a tenth or more if the feature is taken out of the model",
    "falls random": "the same for random pairs",
    "meaning": "how alike the explanations of matched features are to the judge, from 1 (different) to 3 (same)",
    "meaning random": "the same for random pairs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=as_path, help="folder of the tables and figures (default: RUN/evaluation)"
    )
    add_inputs(parser)
    parser.add_argument(
        "--distance", type=int, metavar="N", help="match far layers that are at most N steps apart (default: all)"
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="DIR",
        type=as_path,
        help="an evaluation of the same layers with SAEs of another L0, to show in the figures; may be repeated",
    )
    parser.add_argument("--device", default="cpu", help="where codes and the model run (default: %(default)s)")
    add_quiet(parser)
    add_json(parser)
    parser.add_argument(
        "--explain", action=_Explain, nargs=0, help="print what every table and every column means, and do nothing else"
    )
    add_activations(parser).add_argument(
        "--causal-pairs",
        type=int,
        default=2000,
        metavar="N",
        help="for --model: the most pairs of features to replace in the model, 0 for none (default: %(default)s)",
    )
    _add_meaning(parser)


def _add_meaning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("meaning of features")
    group.add_argument(
        "--explanations", metavar="PATH", type=as_path, help="explanations: a .jsonl file, or a folder of them"
    )
    group.add_argument(
        "--neuronpedia", metavar="ID", help="the source whose explanations to use, if PATH holds those of several"
    )
    group.add_argument("--judge", metavar="URL", help="an OpenAI-compatible endpoint that grades pairs of explanations")
    group.add_argument("--judge-model", metavar="NAME", help="name of the endpoint's model")
    group.add_argument("--judge-calls", type=int, metavar="N", help="send at most N requests in this call")
    group.add_argument(
        "--judged", type=int, default=200, metavar="N", help="pairs of features to grade per layer (default: 200)"
    )
    group.add_argument(
        "--human", metavar="FILE", type=as_path, help="a CSV file of a person's grades, to compare the judge with"
    )


def run(options: argparse.Namespace) -> int:
    """Measure how good a run is."""
    quiet = options.quiet or options.json
    with status_line(quiet) as show:
        show("reading the run")
        others = _others(options.compare)
        evaluation, chain = _evaluate(options, show)
        show("drawing figures")
        undrawn = _draw(evaluation, chain, others)
    missing = evaluation.not_measured | {f"figure {name}": reason for name, reason in undrawn.items()}
    if options.json:
        print_json(_as_json(evaluation, chain, missing))
    elif not quiet:
        _print_summary(evaluation, chain, missing)
    return DONE if chain.complete and not evaluation.unfinished else UNFINISHED


class _Explain(argparse.Action):
    """Prints what tables and columns mean, and ends the program, as `--help` does."""

    @override
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from saematch.evaluation.methods import ABOUT
        from saematch.evaluation.study import SCHEMAS

        print("The methods that are compared:\n")
        _print_meanings(ABOUT)
        print("\nThe columns of the summary that is printed:\n")
        _print_meanings(_LEGEND)
        for schema in SCHEMAS:
            print(f"\n{schema.name}.csv: {schema.about}\n")
            _print_meanings(schema.columns)
        parser.exit()


def _print_meanings(meanings: Mapping[str, str]) -> None:
    width = max(map(len, meanings))
    for name, meaning in meanings.items():
        print(f"  {name:{width}}  {meaning}")


def _evaluate(options: argparse.Namespace, show: Status) -> tuple[Evaluation, Chain]:
    from saematch.evaluation import evaluate
    from saematch.evaluation.explanations import explanations_of
    from saematch.evaluation.meaning import read_grades
    from saematch.matching.backend import choose_backend

    # Find the run, and the folder of the evaluation.
    chain = chain_of(options)
    if options.out is None and "://" in options.run_folder:
        raise MatchError(f"{options.run_folder}: an evaluation is written to a folder of this machine; give -o DIR")
    out = Path(options.run_folder) / "evaluation" if options.out is None else Path(options.out)
    # Read what is cheap to read, so that bad input is refused before any measurement.
    device = choose_backend("torch", options.device).device
    judge = _judge(options, out, show)
    explained = None
    if options.explanations is not None:
        explained = explanations_of(chain, options.explanations, options.neuronpedia)
        if not options.quiet:
            print_remarks(explained.about)

    def notify(event: Measurement) -> None:
        if event.number == 0:
            time = "" if event.seconds_left is None else f". All of this takes about {duration(event.seconds_left)}"
            print_remarks([] if options.quiet else [f"{event.name}{time}."])
            return
        run = event.run
        pairs = "" if run is None or not run.total else f", {run.finished} of {run.total} pairs of layers"
        show(f"{event.number} of {event.total}: {event.name}{pairs}", event.seconds_left)

    evaluation = evaluate(
        chain,
        out,
        activations=activations_of(options, chain.inputs, device),
        explanations=None if explained is None else explained.texts,
        judge=judge,
        judged=options.judged,
        human=None if options.human is None else read_grades(options.human),
        distance=options.distance,
        outliers=options.outliers or None,
        causal_pairs=options.causal_pairs,
        device=device,
        progress=notify,
    )
    return evaluation, chain


def _judge(options: argparse.Namespace, out: Path, show: Status) -> EndpointJudge | None:
    from saematch.evaluation.endpoint import EndpointJudge

    if options.judge is None:
        return None
    if options.judge_model is None:
        raise MatchError("--judge needs --judge-model, the name of the endpoint's model")
    return EndpointJudge(
        options.judge,
        options.judge_model,
        out / "judge.jsonl",
        calls=options.judge_calls,
        on_answer=lambda asked: show(f"the judge has answered {asked:,} times"),
    )


def _others(folders: list[str]) -> list[dict[str, Table]]:
    """Read the tables of other evaluations that figures show."""
    from saematch.analysis.tables import Table
    from saematch.evaluation.codes import VARIANCE
    from saematch.evaluation.weights import COSINE
    from saematch.storage.folders import LocalFolder

    schemas = (VARIANCE, COSINE)
    return [{schema.name: Table.read(LocalFolder(folder), schema) for schema in schemas} for folder in folders]


def _draw(evaluation: Evaluation, chain: Chain, others: list[dict[str, Table]]) -> dict[str, str]:
    """Draw all figures; return, for each figure that is missing, the reason."""
    from saematch.evaluation.figures import draw_all

    if find_spec("matplotlib") is None:
        return {"all": "matplotlib is not installed: pip install 'saematch[evaluate]'"}
    return draw_all(evaluation, chain, others)


def _as_json(evaluation: Evaluation, chain: Chain, missing: dict[str, str]) -> dict[str, Any]:
    return {
        "out": evaluation.folder,
        "fold": evaluation.fold,
        "summary": _summary(evaluation),
        "left": {name: in_flags(reason) for name, reason in missing.items()},
        "tables": sorted(evaluation.tables),
        "complete": chain.complete,
        "unfinished": evaluation.unfinished,
    }


def _print_summary(evaluation: Evaluation, chain: Chain, missing: dict[str, str]) -> None:
    if not chain.complete:
        print(f"{INCOMPLETE}\n")
    rows = _summary(evaluation)
    print(table(tuple(rows[0]), [[_shown(*item) for item in row.items()] for row in rows]))
    print_legend({name: _LEGEND[name] for name in rows[0] if name in _LEGEND})
    print(f"\nWritten to {evaluation.folder}/: tables {', '.join(sorted(evaluation.tables))}; and figures/")
    print("'saematch evaluate --explain' says what all tables and columns mean.")
    # What could be measured besides, by the reason that it was not, without the figures of missing tables.
    tables = ", ".join(missing).split(", ")
    missing = {name: reason for name, reason in missing.items() if reason.removesuffix(_NOT_MEASURED) not in tables}
    for reason in dict.fromkeys(missing.values()):
        print(f"not there, since {in_flags(reason)}: {', '.join(name for name in missing if missing[name] == reason)}")
    if evaluation.unfinished:
        print(f"Unfinished: {for_terminal(evaluation.unfinished)}. The same command resumes the evaluation.")


def _shown(name: str, value: Any) -> str:
    """Return a value of the summary as the table shows it."""
    if not isinstance(value, float):
        return cell(value)
    return percent(value) if name in _SHARES else f"{value:.4g}" if name.startswith("mse") else f"{value:.3f}"


def _summary(evaluation: Evaluation) -> list[Row]:
    """Return the most important measurements, one row per pair of layers, without columns that have no value."""
    from saematch.evaluation.methods import EVALUATED, RANDOM

    carried: dict[str, Any] = {"method": EVALUATED, "gate": 1.0}
    rows = []
    for row in evaluation.tables["mse"].where(method=EVALUATED, part="all"):
        value = partial(_value, evaluation, source=row["source"], target=row["target"])
        rows.append(
            {
                "layers": f"{row['source']} -> {row['target']}",
                "mse": row["mse"],
                "mse random": value("mse", "mse", method=RANDOM, part="all"),
                "cosine": value("cosine", "mean", method=EVALUATED),
                ">= 0.7": value("persistence", "persistent", method=EVALUATED, cosine=0.7),
                "EV own": value("explained_variance", "value", stand_in="sae_of_target"),
                "EV carried": value("explained_variance", "value", **carried, folded=False),
                "EV folded": value("explained_variance", "value", **carried, folded=True),
                "loss added": value("delta_loss", "value", **carried, folded=False),
                "AUSQC": value("substitution_area", "value", method=EVALUATED, replaced_by="partner"),
                "falls": value("ablation", "value", method=EVALUATED, effect="falls"),
                "falls random": value("ablation", "value", method=RANDOM, effect="falls"),
                "meaning": value("meaning", "value", method=EVALUATED, quarter=0),
                "meaning random": value("meaning", "value", method=RANDOM, quarter=0),
            }
        )
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in known} for row in rows]


def _value(evaluation: Evaluation, name: str, column: str, **values: Any) -> Any:
    """Return the value of a column in the first row that has these values; None if it was not measured."""
    measured = evaluation.tables.get(name)
    rows = measured.where(**values) if measured else []
    return rows[0][column] if rows else None
