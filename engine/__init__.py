"""Match the features of sparse autoencoders across layers: exact, proved, from the weights alone.

Names are imported when they are first used, so that `import saematch` is quick and touches nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saematch.chain import Chain, Step
    from saematch.errors import MatchError
    from saematch.layers import match_layers
    from saematch.matching import Matching, NotCertified
    from saematch.pairs import assign, certify, match
    from saematch.sae import SAE
    from saematch.sources import Layers, load, load_layers
    from saematch.stream import Progress

__version__ = "0.1.0"


def _is_forked() -> bool:
    """Whether this process is a fork, which runs no program of its own, of one that had torch; known of Linux alone."""
    try:
        with open("/proc/self/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return "torch" in sys.modules and bool(flags & 0x40)  # PF_FORKNOEXEC


_process = os.getpid()  # that imported the package: another one is a fork of it, see `team.py`
_forked_before = _is_forked()  # before the package was imported

_HOME = {
    "Chain": "chain", "Step": "chain", "MatchError": "errors", "NotCertified": "matching", "Progress": "stream",
    "match_layers": "layers", "Matching": "matching", "assign": "pairs", "certify": "pairs", "match": "pairs",
    "SAE": "sae", "Layers": "sources", "load": "sources", "load_layers": "sources",
}  # fmt: skip

__all__ = [
    "SAE", "Chain", "Layers", "MatchError", "Matching", "NotCertified", "Progress", "Step", "assign", "certify", "load",
    "load_layers", "match", "match_layers",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
