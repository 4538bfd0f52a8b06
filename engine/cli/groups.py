"""Arguments that several commands share, and the keyword arguments of the library that those arguments give."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saematch.cli.parser import as_parts, as_path, as_weights
from saematch.cli.terminal import print_remarks
from saematch.errors import MatchError
from saematch.options import ActivityMetric, Metric, Side
from saematch.options import names as names_of

if TYPE_CHECKING:
    from saematch.report import Contents
    from saematch.runs.chain import Chain

OF_A_PAIR = "two files, for A and for B: hidden states (.npy) of the same tokens, or codes (.safetensors)"
MAP_OF_A_PAIR = (
    "write A in the basis of B first, if they are of two models: a map (.safetensors of 'saematch map', or a .npy "
    "matrix), or procrustes, which fits one to --activations"
)
OF_LAYERS = (
    "a folder of hidden states (layer_<n>.npy), or of codes that 'saematch encode' wrote; one for each set of SAEs"
)
MAP_OF_LAYERS = (
    "write the SAEs in the basis of those of --against first, if they are of two models: a map (.safetensors of "
    "'saematch map', or a .npy matrix), or one for each layer, like maps/{layer}.safetensors"
)
SOURCE = "a file, a folder, a pattern, an hf:// or saelens:// address, a .yaml list of these, or 'sample'"


def add_source(parser: argparse.ArgumentParser, several: str = "") -> None:
    """Add the positional argument that names a set of SAEs; `several` says what several of them mean."""
    more: dict[str, Any] = {"nargs": "+"} if several else {}
    parser.add_argument("source", metavar="SOURCE", help=f"the SAEs: {SOURCE}{several and f'; {several}'}", **more)


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments that name two SAEs."""
    parser.add_argument("a", metavar="A", help="the source SAE: a file, a folder or an address")
    parser.add_argument("b", metavar="B", help="the target SAE")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument that names a run folder."""
    parser.add_argument("run_folder", metavar="RUN", type=as_path, help="a run folder, or the URL of one")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the SAEs of a run are now."""
    parser.add_argument("--inputs", metavar="SOURCE", help="the SAEs of the run, if they have moved since the run")
    parser.add_argument("--against", metavar="SOURCE", help="the second set of a run of two, if it has moved")


def add_margins(parser: argparse.ArgumentParser) -> None:
    """Add the option that asks for margins and runners-up."""
    parser.add_argument(
        "--margins", action="store_true", help="also compute margins and runners-up, with passes over all pairs"
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a command replace its output."""
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it already exists")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option that silences a command."""
    parser.add_argument("--quiet", action="store_true", help="print only errors")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the result as JSON."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on one line")


def add_comparison(parser: argparse.ArgumentParser, activations: str = OF_A_PAIR, map: str = MAP_OF_A_PAIR) -> None:
    """Add the options that say how two SAEs are compared, see `comparison_of`.

    `activations` and `map` describe the options of these names.
    """
    group = parser.add_argument_group("comparison of features")
    group.add_argument(
        "--parts",
        type=as_parts,
        metavar="PART,...",
        help="parts of a feature that are compared (default: encoder,bias,decoder; encoder,decoder by cosines)",
    )
    group.add_argument(
        "--weights",
        type=as_weights,
        metavar="PART=W,...",
        help="weight of each part, like encoder=1,decoder=2 (default: 1)",
    )
    group.add_argument(
        "--metric",
        choices=names_of(Metric) + names_of(ActivityMetric),
        help="cost of a pair: the squared distance (default), or 1 minus the cosine or the absolute cosine of weights; "
        "or 1 minus the correlation, jaccard index or activation_cosine of codes, with --activations",
    )
    group.add_argument(
        "--activations", nargs="+", metavar="PATH", type=as_path, help="for a metric of codes: " + activations
    )
    group.add_argument(
        "--weights-share",
        type=float,
        metavar="W",
        help="for a metric of codes: the share of the weights in the cost, by their cosine (default: 0)",
    )
    group.add_argument("--map", metavar="FILE", type=as_path, help=map)
    group.add_argument("--fold", help="scale of a feature: threshold (default), decoder_norm or none")
    group.add_argument(
        "--max-cost",
        type=float,
        metavar="C",
        help="never match a pair that costs more than C (default: no limit); 'saematch show RUN --limits' suggests C",
    )


def add_solver(parser: argparse.ArgumentParser) -> None:
    """Add the options of the solver, see `solver_of`."""
    group = parser.add_argument_group("limits and resources")
    group.add_argument("--max-rounds", type=int, metavar="N", help="stop after N passes over all pairs of features")
    group.add_argument("--time-limit", type=float, metavar="S", help="stop after S seconds for each pair of SAEs")
    group.add_argument(
        "--device", help="cpu or cuda (default: a GPU if there is one); 'layers' also takes several, like cuda:0,cuda:1"
    )
    group.add_argument("--backend", default="auto", help="torch, triton or auto (default: triton on a GPU, else torch)")
    group.add_argument(
        "--precision",
        default="auto",
        help="numbers in which passes multiply rows: int8, float32 or auto (default: int8 where it is fast)",
    )


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses between the optimal matching and a baseline."""
    parser.add_argument(
        "--method", default="optimal", help="optimal (default), or a baseline: greedy, mutual_nearest or nearest"
    )


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the page of a run shows besides the run, see `contents_of`."""
    parser.add_argument(
        "--evaluation",
        metavar="DIR",
        type=as_path,
        help="output of 'saematch evaluate' (default: RUN/evaluation if that folder exists)",
    )
    add_labels(parser)


def add_labels(parser: argparse.ArgumentParser, two_sets: bool = True) -> None:
    """Add the options that say where labels of features are, also those of a second set of SAEs; see `labelled`."""
    group = parser.add_argument_group("labels of features")
    group.add_argument(
        "--labels",
        metavar="PATH",
        type=as_path,
        help="a labels.json or .jsonl file, a folder of them, or Neuronpedia's exports (default: labels.json next to "
        "each SAE)",
    )
    group.add_argument(
        "--neuronpedia",
        metavar="ID",
        help="address of the SAEs on Neuronpedia, like gemma-2-2b/{layer}-gemmascope-res-16k",
    )
    group.set_defaults(against_labels=None, against_neuronpedia=None)
    if not two_sets:
        return
    group.add_argument("--against-labels", metavar="PATH", type=as_path, help="--labels for a second set of SAEs")
    group.add_argument("--against-neuronpedia", metavar="ID", help="--neuronpedia for a second set of SAEs")


def comparison_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_comparison` that the user gave, as keyword arguments of `saematch.match`."""
    names = ("metric", "activations", "weights_share", "map", "parts", "weights", "fold", "max_cost")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def solver_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_solver`, as keyword arguments of `saematch.match`."""
    names = ("max_rounds", "time_limit", "device", "backend", "precision")
    return {name: getattr(options, name) for name in names}


def is_comparison(folder: str) -> bool:
    """Whether a folder holds the result of `saematch consistency`."""
    return (Path(folder) / "consistency.json").is_file()


def refuse_options_of_runs(options: argparse.Namespace, *names: str) -> None:
    """Raise `MatchError` if any of these options is given for a comparison."""
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if unused:
        raise MatchError(f"{options.run_folder} is a comparison of SAEs, not a run; {unused[0]} is for runs")


def chain_of(options: argparse.Namespace) -> Chain:
    """Return the chain of the run that `add_run` names, with the SAEs that `add_inputs` names."""
    from saematch.runs.chain import Chain

    if is_comparison(options.run_folder):
        raise MatchError(
            f"{options.run_folder} is a comparison of SAEs, not a run; saematch show and saematch report show it"
        )
    if options.inputs is None and options.against is None:
        return Chain.load(options.run_folder)
    from saematch.sources import load_layers  # which imports torch, and that takes seconds

    moved = (None if source is None else load_layers(source) for source in (options.inputs, options.against))
    return Chain.load(options.run_folder, *moved)


def labelled(chain: Chain, options: argparse.Namespace) -> Chain:
    """Return a chain with the labels that the options of `add_labels` name; remark on stderr whose labels they are."""
    for side, path, source in (
        (Side.SOURCE, options.labels, options.neuronpedia),
        (Side.TARGET, options.against_labels, options.against_neuronpedia),
    ):
        if path is None:
            continue
        from saematch.evaluation.explanations import explanations_of

        try:
            explained = explanations_of(chain, path, source, side)
        except MatchError as error:  # its advice is to choose a source=, by the flag of this set
            flag = "neuronpedia=" if side == Side.SOURCE else "against_neuronpedia="
            raise MatchError(str(error).replace("source=", flag)) from error
        print_remarks(explained.about)
        chain = chain.labelled(explained.texts, side)
    return chain


def contents_of(options: argparse.Namespace, weights: bool) -> Contents:
    """Return the contents of the page of a run, as the options of `add_page` say.

    Args:
        weights: whether the page shows what is computed from the weights of the SAEs.
    """
    from saematch.report import Contents

    chain = labelled(chain_of(options), options)
    evaluation = options.evaluation
    default = Path(options.run_folder) / "evaluation"
    if evaluation is None and (default / "tables.json").is_file():
        evaluation = default
    return Contents(
        chain,
        margins=options.margins,
        evaluation=evaluation,
        neuronpedia=_address(options.neuronpedia, options.labels),
        against_neuronpedia=_address(options.against_neuronpedia, options.against_labels),
        weights=weights,
    )


def _address(given: str | None, labels: str | None) -> str | None:
    """Return an address on Neuronpedia; None for the name of a source without its model, which only chooses labels."""
    return None if given is not None and labels is not None and "/" not in given else given
