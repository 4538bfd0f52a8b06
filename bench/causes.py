"""Substitution and ablation in a real language model, for `docs/evaluation.md`. The tables are committed.

    python bench/causes.py --saes FOLDER --model DIR --texts FILE --pairs 8-9,8-10,8-13

The SAEs of each pair of layers are matched by weights and by every baseline. Runs are kept in `--work`; tables are
written to `bench/results/causes/<pair>/`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from record import RESULTS, commit

import saematch as sm
from saematch.activations.selection import TokenSelection
from saematch.analysis.tables import Table
from saematch.evaluation import LanguageModel, Texts
from saematch.evaluation.causes import Causes
from saematch.evaluation.methods import permutations_of, run_baselines
from saematch.evaluation.scope import common_fold
from saematch.evaluation.study import SCHEMAS
from saematch.evaluation.substitution import CAUSAL_PAIRS
from saematch.matching.backend import machine, versions
from saematch.storage.folders import LocalFolder

HOME = RESULTS / "causes"


def main() -> None:
    options = arguments()
    model = LanguageModel(options.model, Texts.read(options.texts), tokens=options.tokens)
    for name in options.pairs.split(","):
        source, target = pair = tuple(map(int, name.split("-")))
        layers = sm.load_layers(f"{options.saes}?layer={source},{target}")
        chain = sm.match_layers(layers, options.work / name / "run", pairs=[pair])
        fold, out = common_fold(chain, chain.sae), options.work / name / "runs"
        chains = run_baselines(chain, [pair], fold, out, lambda _: lambda _: None)
        causes = Causes(TokenSelection.of(model, pair), pair, layers[source], layers[target], chains)
        print(f"layers {name}: at most {causes.passes} passes", flush=True)
        tables = causes.substitution(CAUSAL_PAIRS)
        tables |= causes.ablation(permutations_of(chains, pair, layers[target].F))
        publish(name, tables)
    record = {"commit": commit(), "versions": versions(), "machine": machine()}
    (HOME / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def publish(name, tables):
    """Write the tables of a pair of layers as CSV, and print the areas and the effects of ablations."""
    folder = HOME / name
    folder.mkdir(parents=True, exist_ok=True)
    for schema in SCHEMAS:
        if schema.name in tables:
            Table(schema, tables[schema.name]).write(LocalFolder(folder))
            (folder / f"{schema.name}.parquet").unlink(missing_ok=True)
    for row in tables["substitution_area"] + tables["ablation"]:
        what = row.get("replaced_by") or row["effect"]
        print(f"{name} {row['method']}, {what}: {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saes", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--pairs", required=True, help="pairs of layers like 8-9,8-13")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--work", type=Path, default=Path("causes-work"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
