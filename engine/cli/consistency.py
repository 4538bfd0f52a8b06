"""`saematch consistency`: measure how far several SAEs agree."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, UNFINISHED, complain, for_terminal, print_json
from saematch.cli.groups import add_json, add_quiet, add_solver, solver_of
from saematch.cli.named import add_names, named_saes
from saematch.cli.parser import as_path
from saematch.cli.terminal import describe_pass, print_legend, status_line, table
from saematch.errors import MatchError
from saematch.text import printable

if TYPE_CHECKING:
    from saematch.dictionaries import Consistency, ConsistencyProgress

HELP = "measure how far SAEs agree: seeds, training steps, widths or layers"
DESCRIPTION = """Measure how far SAEs of the same activations agree, by their weights: MCC of decoders and encoders
over all pairs, MMCS, shared and unique features, and the same for null models. Every matching behind a number is
proved to be optimal."""

# The columns of the tables that are printed.
_PAIR_LEGEND = {
    "MCC": "mean cosine of the decoder rows of matched features, matched so that it is largest",
    "encoder": "the same for encoder columns",
    "both": "the same for the mean of both cosines",
    "random": "MCC with random directions of the same covariance in place of B",
    "rotated": "MCC with B turned at random",
    "MMCS": "mean over the features of A of the largest cosine with any feature of B; reverse: from B to A",
    "shared": "share of features with a partner above the threshold by decoder and by encoder",
    "same partner": "share of features with the same partner by decoder and by encoder",
}
_SAE_LEGEND = {"unique": "share of features that no feature of another SAE is similar to, by decoder or by encoder"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    # What is compared.
    parser.add_argument(
        "sources", metavar="SAE", nargs="+", help="the SAEs, two or more: files, folders, patterns or addresses"
    )
    add_names(parser)
    parser.add_argument(
        "--reference", metavar="NAME", help="compare this SAE with each of the others (default: all pairs)"
    )
    parser.add_argument(
        "--axis", default="seed", help="what the SAEs differ in: seed (default), step, width, layer or any text"
    )
    # What is measured.
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.7,
        metavar="T",
        help="cosine above which features are shared (default: 0.7)",
    )
    parser.add_argument(
        "--null-seeds", type=int, default=3, metavar="N", help="seeds of each null model; 0 for none (default: 3)"
    )
    parser.add_argument("--margins", action="store_true", help="also compute margins, with passes over all pairs")
    parser.add_argument(
        "--firing-rates",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="firing rates of the SAE of that name, or of the first: .npy, or one number a line; may be repeated",
    )
    # Where the result goes.
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=as_path,
        help="write consistency.json, tables and figures, or resume there",
    )
    parser.add_argument(
        "--fail-under", type=float, metavar="X", help="exit with 3 if the PW-MCC of decoders is below X"
    )
    add_quiet(parser)
    add_json(parser)
    add_solver(parser)


def run(options: argparse.Namespace) -> int:
    """Compare SAEs."""
    from saematch.dictionaries import consistency, draw_figures

    if options.fail_under is not None and not -1 <= options.fail_under <= 1:  # NaN fails this too
        raise MatchError(f"--fail-under is {options.fail_under:g}; give a cosine from -1 to 1")
    handles = named_saes(options.sources, options.names)
    with status_line(options.quiet or options.json) as show:
        show("reading the SAEs")
        result = consistency(
            handles,
            reference=options.reference,
            axis=options.axis,
            threshold=options.threshold,
            nulls=options.null_seeds,
            margins=options.margins,
            firing_rates=_rates(options.firing_rates, next(iter(handles))),
            out=options.output,
            **solver_of(options),
            progress=lambda event: show(_describe(event), event.seconds_left),
        )
        skipped = {}
        if options.output is not None and find_spec("matplotlib") is not None:
            show("drawing figures")
            skipped = draw_figures(result, options.output)
    if options.json:
        print_json(result.as_dict())
    elif not options.quiet:
        print_summary(result)
        _print_written(options.output, skipped)
    if options.fail_under is not None and result.pw_mcc_decoder < options.fail_under:
        return complain(f"PW-MCC of decoders is {result.pw_mcc_decoder:.6g}, below {options.fail_under:g}", UNFINISHED)
    return DONE if result.certified else UNFINISHED


def _rates(given: list[str], first: str) -> dict[str, Any]:
    """Return the firing rates by the name of the SAE; a file without a name is for the first SAE."""
    from saematch.dictionaries.rates import read_rates

    rates = {}
    for text in given:
        name, is_named, path = text.partition("=")
        if is_named and not Path(text).exists():
            rates[name] = read_rates(path)
        else:
            rates[first] = read_rates(text)
    return rates


def _describe(event: ConsistencyProgress) -> str:
    """Describe an event on one line."""
    last = "" if event.last_pass is None else f"; {describe_pass(event.last_pass)}"
    return f"step {event.done + 1} of {event.total}: {event.a} and {event.b}, {event.doing}{last}"


def show_again(folder: str, json: bool) -> int:
    """Print the comparison that a folder holds, as the command printed it, and return the exit code."""
    from saematch.dictionaries import Consistency

    result = Consistency.load(folder)
    if json:
        print_json(result.as_dict())
    else:
        print_summary(result)
    return DONE if result.certified else UNFINISHED


def print_summary(result: Consistency) -> None:
    """Print the tables of a comparison, what their columns mean, and whether all matchings are proved optimal."""
    _print_pairs(result)
    compared = "all pairs" if result.reference is None else f"the pairs with {printable(result.reference)}"
    print(
        f"\nPW-MCC over {compared}: decoders {result.pw_mcc_decoder:.4f}, encoders {result.pw_mcc_encoder:.4f}, both "
        f"{result.pw_mcc_joint:.4f};\nup to the sign: decoders {result.pw_mcc_decoder_absolute:.4f}, encoders "
        f"{result.pw_mcc_encoder_absolute:.4f}, both {result.pw_mcc_joint_absolute:.4f}.\n"
    )
    _print_saes(result)
    without_nulls = result.pairs[0].null_random is None
    legend = {
        name: _PAIR_LEGEND[name] for name in _PAIR_LEGEND if name not in ("random", "rotated") or not without_nulls
    }
    print_legend({**legend, **_SAE_LEGEND})
    proved = "Every" if result.certified else "NOT every"
    print(
        f"\n{proved} matching behind these numbers is proved to be optimal. The cosine of shared features is above "
        f"{result.threshold:g}."
    )


def _print_written(output: str | None, skipped: dict[str, str]) -> None:
    if output is None:
        print("Nothing was written; -o DIR keeps every feature, tables and figures.")
        return
    if find_spec("matplotlib") is None:
        print(f"Written to {output}: consistency.json and tables")
        print("  missing: figures (matplotlib is not installed: pip install 'saematch[evaluate]')")
    else:
        print(f"Written to {output}: consistency.json, tables and figures")
    for name, reason in skipped.items():
        print(f"  missing: figure {name} ({for_terminal(reason)})")


def _print_pairs(result: Consistency) -> None:
    head = [
        "A",
        "B",
        "MCC",
        "encoder",
        "both",
        "random",
        "rotated",
        "MMCS",
        "reverse",
        "shared",
        "same partner",
        "certified",
    ]
    lines = []
    for pair in result.pairs:
        nulls = [null.mean["mcc_decoder"] if null else None for null in (pair.null_random, pair.null_rotated)]
        numbers = [pair.mcc_decoder, pair.mcc_encoder, pair.mcc_joint, *nulls, pair.mmcs_ab, pair.mmcs_ba]
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        shares = [f"{pair.shared:.1%}", f"{pair.same_partner:.1%}"]
        lines.append([printable(pair.a), printable(pair.b), *shown, *shares, "yes" if pair.certified else "NO"])
    print(table(head, lines))


def _print_saes(result: Consistency) -> None:
    features = {sae["name"]: sae["F"] for sae in result.saes}
    columns = (result.shared_with_all, result.shared_with_some, result.shared_with_none)
    lines = []
    for name in result.shared_with_all:
        shares = [*(column[name] for column in columns), result.decisions[name]["unique"]]
        lines.append([printable(name), f"{features[name]:,}", *(f"{share:.1%}" for share in shares)])
    print(table(("SAE", "features", "shared with all", "with some", "with none", "unique"), lines))
