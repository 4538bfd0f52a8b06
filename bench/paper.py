"""The paper's experiments on real SAEs and the language model that they belong to. Tables and figures are committed.

    python bench/paper.py --saes DIR --compare DIR --activations DIR --document-length N --model DIR --texts FILE

The SAEs of `--saes` are matched and evaluated with stored activations and, on fewer tokens, with the model itself. The
SAEs of `--compare` are of the same layers, with another L0. The packaged sample has labels, whose overlap is a proxy
for meaning. Evaluations are written to `--work`, from where they resume after an interruption; tables and figures are
copied to `bench/results/paper/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from record import RESULTS, commit

import saematch as sm
from saematch.evaluation import LanguageModel, StoredActivations, Texts, draw_all, evaluate
from saematch.matching.backend import machine, versions

HOME = RESULTS / "paper"


def main() -> None:
    options = arguments()

    def evaluated(name, source, others=(), **given):
        chain = sm.match_layers(sm.load_layers(source), options.work / name / "run")
        evaluation = evaluate(chain, options.work / name / "evaluation", progress=show, **given)
        left_out = draw_all(evaluation, chain, others) | evaluation.not_measured
        publish(Path(evaluation.folder), HOME / name, left_out)
        return evaluation.tables

    activations = StoredActivations(options.activations, options.document_length)
    sets = {f"l0_{number}": source for number, source in enumerate(options.compare)}
    others = [evaluated(name, source, activations=activations, distance=1) for name, source in sets.items()]
    evaluated("saes", options.saes, others, activations=activations)
    evaluated("sample", "sample", activations=activations)
    model = LanguageModel(options.model, Texts.read(options.texts), tokens=options.tokens)
    evaluated("model", options.saes, activations=model, distance=1)
    record = {"commit": commit(), "versions": versions(), "machine": machine()}
    (HOME / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nTables and figures are in {HOME}")


def publish(folder: Path, home: Path, left_out: dict[str, str]) -> None:
    """Copy the tables as CSV and the figures as PNG, from which all other formats can be made."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for file in [*folder.glob("*.csv"), *folder.glob("figures/*.png")]:
        shutil.copy(file, home)
    (home / "left_out.json").write_text(json.dumps(left_out, indent=1) + "\n")


def show(event):
    if event.run is None:
        print(f"{event.number} of {event.total}: {event.name}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saes", required=True)
    parser.add_argument("--compare", action="append", default=[])
    parser.add_argument("--activations", required=True)
    parser.add_argument("--document-length", type=int)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--work", type=Path, default=Path("paper-work"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
