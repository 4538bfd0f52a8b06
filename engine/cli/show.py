"""`saematch show`: show a finished run, or a finished comparison of SAEs, again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saematch.cli.common import DONE, INCOMPLETE, UNFINISHED, for_terminal, in_flags, print_json
from saematch.cli.consistency import show_again
from saematch.cli.groups import add_inputs, add_json, add_run, chain_of, is_comparison, refuse_options_of_runs
from saematch.cli.terminal import (
    PAIR_LEGEND,
    pair_cells,
    pair_head,
    print_basis,
    print_legend,
    print_ranked,
    print_unproved,
    table,
)
from saematch.errors import MatchError
from saematch.text import listing, printable

if TYPE_CHECKING:
    from saematch.runs.chain import Chain
    from saematch.runs.plan import Pair
    from saematch.runs.summary import PairSummary

HELP = "show a run again: its table, the best and the worst pairs, and limits to choose from; or a comparison"
DESCRIPTION = """Print the table of a run that was matched before: for each pair of layers, how many features are
matched, at which cost, how alike matched features are, and whether the matching is proved optimal. Below it, print the
matched features that are most alike and least alike. A folder that 'saematch consistency' wrote is shown as well."""
_COSINES = (0.3, 0.5, 0.7, 0.9)  # for which a limit of the cost is suggested
_EXAMPLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    parser.add_argument(
        "--limits",
        action="store_true",
        help="also suggest limits for --max-cost: the cost that best separates pairs above a cosine from those below",
    )
    add_inputs(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show a run, or a comparison of SAEs."""
    if is_comparison(options.run_folder):
        refuse_options_of_runs(options, "limits", "inputs", "against")
        return show_again(options.run_folder, options.json)
    from saematch.runs.summary import summary_of

    chain = chain_of(options)
    rows = summary_of(chain)
    if options.json:
        print_json(as_json(chain, rows) | ({"limits": _limits(chain)} if options.limits else {}))
    else:
        print(describe_run(chain))
        print_pairs(chain, rows, with_table=True)
        _print_missing(chain)
        _print_examples(chain)
        if options.limits:
            _print_limits(chain)
    return DONE if is_done(chain) else UNFINISHED


def is_baseline(chain: Chain) -> bool:
    """Whether the run matched by a baseline, whose matchings are not meant to be proved optimal."""
    return chain.record["options"]["method"] != "optimal"


def is_done(chain: Chain) -> bool:
    """Whether all pairs of a run have a matching, and all that are to be proved are proved."""
    return chain.complete and (chain.certified or is_baseline(chain))


def as_json(chain: Chain, rows: list[PairSummary]) -> dict[str, Any]:
    """Return a run for `--json`."""
    pairs = [{**row._asdict(), **numbers} for row, numbers in zip(rows, chain.scalars().values(), strict=True)]
    layers = [chain.names.key(layer) for layer in chain.layers]
    verdict = {"complete": chain.complete, "certified": chain.certified}
    return {"run": chain.folder, "layers": layers, **verdict, "pairs": pairs, "failures": failures_as_json(chain)}


def failures_as_json(chain: Chain, failures: Mapping[Pair, str] | None = None) -> list[dict[str, Any]]:
    """Return failures of a run, by default all of them, for `--json`."""
    failures = chain.failures if failures is None else failures
    ends = {pair: dict(zip(("source", "target"), chain.names.keys(pair), strict=True)) for pair in failures}
    return [{**ends[pair], "error": in_flags(error)} for pair, error in failures.items()]


def describe_run(chain: Chain) -> str:
    """Describe a run in two lines: what was matched, and how."""
    record = chain.record
    source, against = (
        name if isinstance(name, str) else f"a list ({listing(name)})"
        for name in (record["source"], record["against"] or "")
    )
    options = record["options"]
    limit = options["max_cost"]
    if "activations" in options:
        tokens = options["activations"].get("tokens")
        how = [f"by the {options.get('metric')} of codes" + ("" if tokens is None else f" on {tokens:,} tokens")]
        if "weights_share" in options:
            how.append(f"and by weights, with a share of {options['weights_share']:g}")
    else:
        how = [f"by {', '.join(options['parts'])}", f"fold {options['fold']}"]
    how += [] if set(options["weights"].values()) <= {1.0} else [f"weights {options['weights']}"]
    how += [] if limit is None else [f"no pair above a cost of {limit:g} (max_cost)"]
    how += [f"method {options['method']}"] if is_baseline(chain) else []
    of = printable(source + (f" against {against}" if against else ""))
    several = chain.names.several
    return f"{len(chain)} of {len(chain.planned)} pairs of {several} of {of}\nmatched {'; '.join(how)}"


def print_pairs(chain: Chain, rows: list[PairSummary], with_table: bool) -> None:
    """Print the table of a run, what its columns mean, what is not proved, and what proofs rest on."""
    if not rows:
        return
    if with_table:
        print()
        print(table(pair_head(chain.names), [pair_cells(row, is_baseline(chain)) for row in rows]))
    print_legend(PAIR_LEGEND)
    if not is_baseline(chain):
        print_unproved(rows)
    _print_maps(chain)
    print_basis([chain.pair_record(pair).get("stats", {}) for pair in chain])


def _print_maps(chain: Chain) -> None:
    """Print by which maps the sources are written in the basis of the targets, if they are."""
    maps = chain.record["options"].get("map", {})
    if not maps:
        return
    from saematch.sae.maps import describe_map  # which imports torch

    described: dict[str, list[str]] = {}
    for key, record in maps.items():
        described.setdefault(describe_map(record), []).append(key)
    for text, keys in described.items():
        which = "The sources are" if len(described) == 1 else f"{chain.names.axis} {', '.join(keys)}:"
        print(printable(f"{which} written in the basis of the targets by a map: {text}"))


def _print_missing(chain: Chain) -> None:
    for pair, error in chain.failures.items():
        print(f"no matching of {chain.names.titles(pair)}: {for_terminal(error)}")
    if not chain.complete:
        print(f"\n{INCOMPLETE}")


def _print_examples(chain: Chain) -> None:
    """Print the matched features that are most alike and least alike, if cosines are known."""
    from saematch.analysis.ranking import alike

    try:
        most, least = alike(chain, _EXAMPLES), alike(chain, _EXAMPLES, least=True)
    except MatchError:
        return
    print("\nThe matched features that are most alike and least alike:\n")
    print_ranked(chain, most + [pair for pair in least if pair not in most])


def _limits(chain: Chain) -> list[dict[str, float | None]]:
    from saematch.analysis.ranking import cost_limits

    return [limit._asdict() for limit in cost_limits(chain, _COSINES)]


def _print_limits(chain: Chain) -> None:
    rows = _limits(chain)
    print("\nLimits for --max-cost, which leaves features unmatched rather than pair them at a higher cost:\n")
    if not rows:
        print("The cosines of this run are not known, so that no limit can be suggested.")
        return
    cells = [
        [f"{row['cosine']:g}", "-" if row["max_cost"] is None else f"{row['max_cost']:.4g}"]
        + ["-" if share is None else f"{share:.1%}" for share in (row["kept"], row["above"])]
        for row in rows
    ]
    legend = {
        "cosine": "of the decoder rows",
        "--max-cost": "the cost that best separates matched pairs above this cosine from those below",
        "kept": "share of the matched pairs that cost no more",
        "above": "share of the pairs kept that are above this cosine",
    }
    print(table(tuple(legend), cells))
    print_legend(legend)
