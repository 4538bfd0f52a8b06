"""Write the page of a run as one HTML file that holds its style, programs and data, and needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from saematch.report.contents import Contents, pack_labels
from saematch.runs.plan import pair_name
from saematch.storage.folders import local_path, replacing

_ASSETS = Path(__file__).parent / "assets"
_SHARED = ("echarts.min.js", "state.js", "packed.js", "widgets.js", "charts.js", "shell.js")  # programs of all pages


class Page(NamedTuple):
    """The parts of a page that are the same whatever its data are.

    Attributes:
        sections: the name of the asset that holds the sections of the views.
        views: the title of each view; in lower case, it is the name of its section.
        programs: the names of the page's own programs, in the order in which they run.
    """

    sections: str
    views: tuple[str, ...]
    programs: tuple[str, ...]

    def head(self) -> str:
        """Return the beginning of the page, up to its data.

        The content security policy lets only the page's own programs run, so that no label can run one.
        """
        hashes = " ".join(f"'sha256-{_sha256(_asset(name))}'" for name in (*_SHARED, *self.programs))
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            "connect-src 'self'; frame-src https://www.neuronpedia.org; base-uri 'none'; form-action 'none'"
        )
        views = {title.lower(): title for title in self.views}
        links = [f'    <a href="#view={name}" data-view="{name}">{title}</a>\n' for name, title in views.items()]
        page = _asset("page.html")
        for place, content in {
            "{policy}": html.escape(policy),
            "{style}": _asset("style.css"),
            "{views}": "".join(links),
            "{sections}": _asset(self.sections),
        }.items():
            page = page.replace(place, content)
        return page

    def tail(self, summary: dict[str, Any]) -> str:
        """Return the end of the page: the summary, and the programs that show it."""
        # In JSON, "<" occurs only inside strings, where it may be escaped. So no text can end the script element.
        data = json.dumps(summary, allow_nan=False).replace("<", "\\u003c")
        programs = "".join(f"<script>{_asset(name)}</script>\n" for name in (*_SHARED, *self.programs))
        return f'<script type="application/json" id="summary">{data}</script>\n{programs}</body>\n</html>\n'


RUN = Page(
    "run.html",
    ("Overview", "Pictures", "Explorer"),
    ("data.js", "overview.js", "pictures.js", "explorer.js", "flow.js", "app.js"),
)


def write_report(
    contents: Contents, path: str | os.PathLike[str], progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write the page of a run.

    Args:
        contents: what the page shows.
        path: the HTML file to write; a file that exists is replaced.
        progress: called with the name of each pair of layers before it is read.

    Raises:
        MatchError: if the file cannot be written.

    Examples:
        >>> import saematch as sm
        >>> from saematch.report import Contents, write_report
        >>> chain = sm.match_layers(sm.load_layers("sample"), pairs=[(8, 9)])
        >>> write_report(Contents(chain), "report.html")
    """
    with replacing(local_path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(RUN.head())
        for pair in contents.chain:
            progress(f"pair {contents.chain.names.pair_name(pair)}")
            file.write(data_element(f"pair-{pair_name(pair)}", contents.pair(pair)))
        for side, layer in contents.layers():
            labels = contents.labels(layer, side)
            if labels:
                file.write(data_element(f"labels-{int(side)}-{layer}", pack_labels(labels)))
        file.write(RUN.tail(contents.summary()))


def has_margins(path: Path) -> bool:
    """Whether a file is the page of a run with margins."""
    if not path.is_file():  # a pipe would wait for a writer
        return False
    try:
        summary = path.read_bytes().rpartition(b'id="summary">')[2].partition(b"</script>")[0]
        pairs = json.loads(summary)["pairs"]
        return any("margin" in pair["columns"] for pair in pairs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def data_element(name: str, content: bytes) -> str:
    """Return the element of a page that holds data, which its programs find by the name."""
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(content).decode()}</script>\n'


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
