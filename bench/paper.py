"""The paper's experiments on real SAEs and the language model that they belong to: tables and figures, committed.

python bench/paper.py --saes DIR --beside DIR --activations DIR --document-length N --model DIR --texts FILE

`--saes` are matched and evaluated with stored activations and, on fewer tokens, with the model itself; `--beside` are
SAEs of the same layers at other L0s; the packaged sample has labels, whose overlap is a proxy for meaning. Evaluations
go to `--work`, from where they go on after an interruption; tables and figures to `bench/results/paper/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from record import RESULTS, commit

import saematch as sm
from saematch.evaluation import LanguageModel, StoredActivations, Texts, draw_all, evaluate
from saematch.matching.backend import machine, versions

HOME = RESULTS / "paper"


def main() -> None:
    options = arguments()

    def evaluation(name, source, beside=(), **given):
        chain = sm.match_layers(sm.load_layers(source), options.work / name / "run")
        found = evaluate(chain, options.work / name / "evaluation", progress=say, **given)
        left = draw_all(found, chain, beside) | found.not_measured
        publish(Path(found.folder), HOME / name, left)
        return found.tables

    activations = StoredActivations(options.activations, options.document_length)
    sets = {f"l0_{number}": source for number, source in enumerate(options.beside)}
    others = [evaluation(name, source, activations=activations, distance=1) for name, source in sets.items()]
    evaluation("saes", options.saes, others, activations=activations)
    evaluation("sample", "sample", activations=activations)
    model = LanguageModel(options.model, Texts.read(options.texts), tokens=options.tokens)
    evaluation("model", options.saes, activations=model, distance=1)
    record = {"commit": commit(), "versions": versions(), "machine": machine()}
    (HOME / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nTables and figures are in {HOME}")


def publish(folder: Path, home: Path, left: dict[str, str]) -> None:
    """Tables as CSV and figures as PNG; the rest can be made again."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for file in [*folder.glob("*.csv"), *folder.glob("figures/*.png")]:
        shutil.copy(file, home)
    (home / "left_out.json").write_text(json.dumps(left, indent=1) + "\n")


def say(what, news):
    if news is None:
        print(f"{time.strftime('%H:%M:%S')}  {what}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saes", required=True)
    parser.add_argument("--beside", action="append", default=[])
    parser.add_argument("--activations", required=True)
    parser.add_argument("--document-length", type=int)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--work", type=Path, default=Path("paper-work"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
