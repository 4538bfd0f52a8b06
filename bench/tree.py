"""Import the packages from the repository, on a machine on which nothing can be installed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def importable() -> None:
    """Make `saematch` and `saematch.kernels` importable, through links to their folders."""
    root, links = Path(__file__).parent.parent, Path(tempfile.mkdtemp())
    package = links / "saematch"
    package.mkdir()
    for entry in (root / "engine").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "kernels").symlink_to(root / "kernels")
    sys.path.insert(0, str(links))
