"""Drawing figures and writing them, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from saematch.errors import MatchError
from saematch.evaluation.figures.panels import FigureSkipped
from saematch.storage.folders import LocalFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The fixed salt gives equal figures equal SVG files. (The type that matplotlib has for these names needs matplotlib.)
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "saematch",
    "figure.dpi": 150,
    "axes.formatter.useoffset": False,
}


def draw_and_write(folder: LocalFolder, figures: Mapping[str, Callable[[], Figure]]) -> dict[str, str]:
    """Draw each figure, and write `figures/{name}.png` and `figures/{name}.svg`.

    Args:
        folder: the folder in which the folder `figures` is made.
        figures: name -> function that draws the figure.

    Returns:
        The reason why a figure was skipped, by the name of the figure.

    Raises:
        MatchError: if matplotlib is not installed, or if the folder cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise MatchError("figures need the package matplotlib: pip install 'saematch[evaluate]'")
    from matplotlib import rc_context

    skipped = {}
    with rc_context(_STYLE):
        for name, draw in figures.items():
            try:
                _write(folder, name, draw())
            except FigureSkipped as reason:
                skipped[name] = str(reason)
    return skipped


def _write(folder: LocalFolder, name: str, figure: Figure) -> None:
    # An SVG file has the date in it unless it is left out: equal figures shall give equal files.
    for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix, bbox_inches="tight", metadata=metadata)
        folder.write(f"figures/{name}.{suffix}", content.getvalue())
