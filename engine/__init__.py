"""Match the features of sparse autoencoders across layers, exactly and with a proof, from their weights alone.

Names are imported when they are first used, so that `import saematch` is quick and changes no global state.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from saematch.lazy import importer

if TYPE_CHECKING:
    from saematch.dictionaries.api import consistency as consistency
    from saematch.dictionaries.result import Consistency as Consistency
    from saematch.errors import MatchError as MatchError
    from saematch.matching.api import assign as assign
    from saematch.matching.api import certify as certify
    from saematch.matching.api import match as match
    from saematch.matching.result import Matching as Matching
    from saematch.matching.result import NotCertified as NotCertified
    from saematch.runs.api import match_layers as match_layers
    from saematch.runs.chain import Chain as Chain
    from saematch.runs.chain import Step as Step
    from saematch.runs.records import Progress as Progress
    from saematch.sae import SAE as SAE
    from saematch.sae import Map as Map
    from saematch.sae import Space as Space
    from saematch.sources import Layers as Layers
    from saematch.sources import load as load
    from saematch.sources import load_layers as load_layers

__version__ = "0.1.0"


def _is_forked() -> bool:
    """Whether this process was forked, without running a program of its own, from a process that had imported torch.

    Only Linux tells this; the answer is False on other systems.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            flags = int(file.read().rpartition(b")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return "torch" in sys.modules and bool(flags & 0x40)  # PF_FORKNOEXEC


# See `numeric/threads.py`: a process with another number than this one was forked after the package was imported.
_process = os.getpid()
_forked_before = _is_forked()

_HOME = {
    "SAE": "sae", "Chain": "runs.chain", "Consistency": "dictionaries.result", "Layers": "sources",
    "Map": "sae", "MatchError": "errors", "Matching": "matching.result", "NotCertified": "matching.result",
    "Progress": "runs.records", "Space": "sae", "Step": "runs.chain", "assign": "matching.api",
    "certify": "matching.api", "consistency": "dictionaries.api", "load": "sources", "load_layers": "sources",
    "match": "matching.api", "match_layers": "runs.api",
}  # fmt: skip

__all__ = list(_HOME)

__getattr__ = importer(__name__, _HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
