"""The page of a whole model, 26 layers of 16,384 labelled features with d = 64, opened in headless Chromium.

    python bench/report.py [--layers 26] [--features 16384] [--shots FOLDER]
    python bench/report.py --serve        serve a made-up run of 62 layers of 262,144 features

A row is appended to bench/results/report.jsonl: the time to write the page, its bytes, the time until the page answers,
its heap, and the times to search all labels of a pair, to search all pairs, and to follow a feature through all layers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from model import write_model
from playwright.sync_api import Page, sync_playwright
from record import append, peak_bytes

import saematch as sm
from saematch.matching.scalars import scalars
from saematch.report import Contents, Server, write_report
from saematch.runs.folder import RunFolder
from saematch.runs.records import Outcome


def write_labels(folder: Path, features: int) -> None:
    r = np.random.default_rng(1)
    words = ["".join(r.choice(list("abcdefghijklmnopqrstuvwxyz"), r.integers(3, 9))) for _ in range(5_000)]
    for where in folder.rglob("params.npz"):
        rows = [{"feature": n, "tokens": list(r.choice(words, 5))} for n in range(features)]
        where.with_name("labels.json").write_text(json.dumps({"features": rows}))


def waited(page: Page, action: str, condition: str) -> float:
    """Return the seconds from an action until a condition holds, measured in the page."""
    return float(
        page.evaluate(
            f"""async () => {{
            const began = performance.now();
            {action};
            while (!({condition})) await new Promise((done) => setTimeout(done, 2));
            return (performance.now() - began) / 1000;
        }}"""
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--shots", type=Path, help="write screenshots of the page to this folder")
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if given.serve:
        served()
        return
    with tempfile.TemporaryDirectory() as scratch:
        saes, file = Path(scratch) / "saes", Path(scratch) / "report.html"
        write_model(saes, given.layers, given.features, 64)
        write_labels(saes, given.features)
        chain = sm.match_layers(sm.load_layers(saes), Path(scratch) / "run", progress=lambda _: None)
        began = time.perf_counter()
        _, peak = peak_bytes(lambda: write_report(Contents(chain), file))
        measured = {"write": time.perf_counter() - began, "peak_bytes": peak, "bytes": file.stat().st_size}
        with sync_playwright() as player:
            flags = ["--no-sandbox", "--enable-precise-memory-info"]
            chromium = player.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            ready = []
            for _ in range(5):
                page.goto("about:blank")
                began = time.perf_counter()
                page.goto(file.as_uri())
                page.wait_for_selector("html[data-ready=yes]")
                ready.append(time.perf_counter() - began)
            text = "document.getElementById('found').innerText"
            measured["explorer"] = waited(page, "location.hash = 'view=explorer'", f"{text}.includes(' of ')")
            search = (
                "const field = document.querySelector('[name=text]'); field.value = 'qu'; "
                "field.dispatchEvent(new Event('input', { bubbles: true }))"
            )
            measured["search"] = waited(page, search, f"!{text}.startsWith('{given.features:,} of')")
            measured["path"] = waited(page, "follow(0, 5)", "!document.getElementById('feature').hidden")
            every = f"of {(given.layers - 1) * given.features:,}"
            measured["search_everywhere"] = waited(
                page, "location.hash = 'view=explorer&pair=all&text=qu'", f"{text}.includes('{every}')"
            )
            measured["heap_bytes"] = page.evaluate("performance.memory.usedJSHeapSize")
            if given.shots:
                shots(page, file, given.shots)
            chromium.close()
        sizes = {"F_A": given.features, "F_B": given.features, "K": 129, "layers": given.layers}
        row = append("report: page answers", sizes, ready, file="report.jsonl", **measured)
    print(json.dumps({name: row[name] for name in ("p50", *measured)}, indent=1))


def made_up_run(folder: Path, layers: int, features: int) -> None:
    """Write a run folder of random permutations, which are as good as any for a server."""
    r = np.random.default_rng(0)
    weights = {"encoder": 1.0, "bias": 1.0, "decoder": 1.0}
    options = {"parts": list(weights), "weights": weights, "fold": "threshold", "max_cost": None, "method": "optimal"}
    options |= {"max_rounds": None, "time_limit": None, "backend": "torch", "precision": "auto"}
    pairs = [[layer, layer + 1] for layer in range(layers - 1)]
    record = {"source": "in memory", "against": None, "pairs": pairs, "options": options, "versions": {}, "machine": {}}
    folder.mkdir()
    run = RunFolder.start(folder, record, False)
    about = {"path": None, "format": None, "options": {}, "files": None, "sha256": {}, "F": features, "d": 64}
    about |= {"activation": "relu", "notes": []}
    for pair in map(tuple, pairs):
        perm = torch.from_numpy(r.permutation(features))
        matching = sm.Matching(perm, torch.from_numpy(r.exponential(5, features)), target_features=features)
        run.add(
            Outcome(
                pair,
                {
                    "source": pair[0],
                    "target": pair[1],
                    "inputs": [about, about],
                    "seconds": 1.0,
                    **scalars(matching),
                    "random_cost": None,
                    "stats": {},
                },
                matching,
            )
        )


def served() -> None:
    layers, features = 62, 2**18
    with tempfile.TemporaryDirectory() as scratch:
        made_up_run(Path(scratch) / "run", layers, features)
        bytes_of_run = sum(file.stat().st_size for file in (Path(scratch) / "run").rglob("*") if file.is_file())

        def answers() -> dict[str, float]:
            began = time.perf_counter()
            with (
                Server(Contents(sm.Chain.load(Path(scratch) / "run"), weights=False)) as server,
                sync_playwright() as player,
            ):
                measured = {"start": time.perf_counter() - began}
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
                flags = ["--no-sandbox", "--enable-precise-memory-info"]
                chromium = player.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
                page = chromium.new_page()
                began = time.perf_counter()
                page.goto(server.address)
                page.wait_for_selector("html[data-ready=yes]")
                measured["ready"] = time.perf_counter() - began
                text = "document.getElementById('found').innerText"
                measured["explorer"] = waited(
                    page, "location.hash = 'view=explorer&pair=30-31'", f"{text}.includes(' of ')"
                )
                measured["path"] = waited(page, "follow(30, 5)", "!document.getElementById('feature').hidden")
                measured["heap_bytes"] = page.evaluate("performance.memory.usedJSHeapSize")
                chromium.close()
                server.shutdown()
                thread.join()
            return measured

        measured, peak = peak_bytes(answers)
    sizes = {"F_A": features, "F_B": features, "K": 129, "layers": layers}
    append(
        "report: served page answers",
        sizes,
        [measured.pop("ready")],
        file="report.jsonl",
        peak_bytes=peak,
        bytes=bytes_of_run,
        **measured,
    )
    print(json.dumps({**measured, "peak_bytes": peak, "bytes": bytes_of_run}, indent=1))


def shots(page: Page, file: Path, folder: Path) -> None:
    for name, view in {
        "overview": "view=overview",
        "pictures": "view=pictures",
        "explorer": "view=explorer&pair=3-4&layer=3&feature=17&chosen=3:17,3:18",
    }.items():
        page.goto("about:blank")
        page.goto(f"{file.as_uri()}#{view}")
        page.wait_for_selector("html[data-ready=yes]")
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / f"{name}.png", full_page=True)


if __name__ == "__main__":
    main()
