"""The sources of SAEs: from an address to one SAE for each layer, in any of the known file formats.

Names are imported when they are first used, because labels are read without torch, whose import takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saematch.sources.handle import SAEHandle as SAEHandle
    from saematch.sources.layers import Layers as Layers
    from saematch.sources.layers import as_layers as as_layers
    from saematch.sources.layers import load as load
    from saematch.sources.layers import load_layers as load_layers
    from saematch.sources.lists import SourceLike as SourceLike
    from saematch.sources.stored import StoredSAE as StoredSAE

_HOME = {
    "Layers": "layers", "SAEHandle": "handle", "SourceLike": "lists", "StoredSAE": "stored", "as_layers": "layers",
    "load": "layers", "load_layers": "layers",
}  # fmt: skip

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
