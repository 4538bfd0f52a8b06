"""Substitution and ablation in a real language model, for `docs/evaluation.md`. The tables are committed.

    python bench/causes.py --saes FOLDER --model DIR --texts FILE --pairs 8-9,8-10,8-13

The SAEs of each pair of layers are matched by weights and by every baseline. Runs and measurements are kept in
`--work`, so that the same command resumes; tables are written to `bench/results/causes/<pair>/`, and the tokens and the
time of each measurement to `record.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from record import RESULTS, commit

import saematch as sm
from saematch.activations.selection import TokenSelection
from saematch.analysis.tables import Ledger, Table
from saematch.evaluation import LanguageModel, Texts
from saematch.evaluation.causes import Causes
from saematch.evaluation.methods import permutations_of, run_baselines
from saematch.evaluation.scope import common_fold
from saematch.evaluation.study import SCHEMAS
from saematch.evaluation.substitution import CAUSAL_PAIRS
from saematch.matching.backend import machine, versions
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import as_json

HOME = RESULTS / "causes"


def main() -> None:
    options = arguments()
    model = LanguageModel(options.model, Texts.read(options.texts), tokens=options.tokens, context=options.context)
    for name in options.pairs.split(","):
        source, target = pair = tuple(map(int, name.split("-")))
        layers = sm.load_layers(f"{options.saes}?layer={source},{target}")
        chain = sm.match_layers(layers, options.work / name / "run", pairs=[pair])
        fold, out = common_fold(chain, chain.sae), options.work / name / "runs"
        chains = run_baselines(chain, [pair], fold, out, lambda _: lambda _: None)
        causes = Causes(TokenSelection.of(model, pair), pair, layers[source], layers[target], chains)
        print(f"layers {name}: at most {causes.passes} passes over half of {model!r}", flush=True)
        permutations = permutations_of(chains, pair, layers[target].F)
        inputs, ledger = {"tokens": model.record(), "order": causes.record()}, Ledger(LocalFolder(options.work / name))
        unfinished = ledger.unfinished("substitution", inputs)
        measurements = {
            "substitution": partial(causes.substitution, CAUSAL_PAIRS, unfinished),
            "ablation": partial(causes.ablation, permutations),
        }
        for what, measure in measurements.items():
            publish(name, ledger.measured(what, inputs, partial(timed, name, what, model, measure)))


def timed(name, what, model, measure):
    """Return the tables of a measurement, and write how long it took, and on how many tokens, to `record.json`."""
    began = time.monotonic()
    tables = measure()
    path = HOME / "record.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record[f"{what} {name}"] = {
        "seconds": round(time.monotonic() - began),
        "documents": int(model.documents.max()) + 1,
        "tokens": len(model.documents),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
    }
    path.write_bytes(as_json(record))
    return tables


def publish(name, tables):
    """Write the tables of a pair of layers as CSV, and print the areas and the effects of ablations."""
    folder = HOME / name
    folder.mkdir(parents=True, exist_ok=True)
    for schema in SCHEMAS:
        if schema.name in tables:
            Table(schema, tables[schema.name]).write(LocalFolder(folder))
            (folder / f"{schema.name}.parquet").unlink(missing_ok=True)
    for row in tables.get("substitution_area", []) + tables.get("ablation", []):
        what = row.get("replaced_by") or row["effect"]
        shown = "no value" if row["value"] is None else "{value:.3f} ({low:.3f} to {high:.3f})".format(**row)
        print(f"{name} {row['method']}, {what}: {shown}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saes", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--pairs", required=True, help="pairs of layers like 8-9,8-13")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("causes-work"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
