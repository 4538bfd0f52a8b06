"""One self-contained HTML file: style, programs and data in it, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saematch.report.contents import Contents, packed_labels
from saematch.storage.folders import local_path, replacing

ASSETS = Path(__file__).parent / "assets"
PROGRAMS = ("echarts.min.js", "data.js", "widgets.js", "pictures.js", "app.js")


def write_report(
    contents: Contents, path: str | os.PathLike[str], progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write the page of a run. Raises `MatchError` if the file cannot be written."""
    with replacing(local_path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(head())
        for pair in contents.chain:
            progress(f"pair {pair[0]}-{pair[1]}")
            file.write(_data(f"pair-{pair[0]}-{pair[1]}", contents.pair(pair)))
        for layer in contents.chain.layers:
            labels = contents.labels(layer)
            if labels:
                file.write(_data(f"labels-{layer}", packed_labels(labels)))
        file.write(tail(contents.summary()))


def head() -> str:
    """The page up to its data. No other program than its own runs in it, whatever a label says."""
    hashes = " ".join(f"'sha256-{_sha256(program(name))}'" for name in PROGRAMS)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; frame-src https://www.neuronpedia.org; base-uri 'none'; form-action 'none'"
    )
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    return page.replace("{policy}", html.escape(policy)).replace("{style}", program("style.css"))


def tail(summary: dict[str, Any]) -> str:
    """The summary, and the programs that show it."""
    # In JSON, < stands only in strings, where it may be escaped: no text ends the element that it is in.
    data = json.dumps(summary, allow_nan=False).replace("<", "\\u003c")
    programs = "".join(f"<script>{program(name)}</script>\n" for name in PROGRAMS)
    return f'<script type="application/json" id="summary">{data}</script>\n{programs}</body>\n</html>\n'


def program(name: str) -> str:
    """A file of `assets`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def _data(name: str, content: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(content).decode()}</script>\n'


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
