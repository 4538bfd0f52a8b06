"""The sources of SAEs: from an address to one SAE for each layer, in any of the known file formats.

Names are imported when they are first used, because labels are read without torch, whose import takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saematch.lazy import importer

if TYPE_CHECKING:
    from saematch.sources.handle import SAEHandle as SAEHandle
    from saematch.sources.layers import Layers as Layers
    from saematch.sources.layers import as_layers as as_layers
    from saematch.sources.layers import as_sites as as_sites
    from saematch.sources.layers import load as load
    from saematch.sources.layers import load_layers as load_layers
    from saematch.sources.lists import SourceLike as SourceLike
    from saematch.sources.names import Names as Names
    from saematch.sources.stored import StoredSAE as StoredSAE

_HOME = {
    "Layers": "layers", "Names": "names", "SAEHandle": "handle", "SourceLike": "lists", "StoredSAE": "stored",
    "as_layers": "layers", "as_sites": "layers", "load": "layers", "load_layers": "layers",
}  # fmt: skip

__all__ = list(_HOME)

__getattr__ = importer(__name__, _HOME)
