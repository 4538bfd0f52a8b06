"""The sources of SAEs: from an address to one SAE for each layer, in any of the known file formats."""

from saematch.sources.handle import SAEHandle
from saematch.sources.layers import Layers, as_layers, load, load_layers
from saematch.sources.lists import SourceLike
from saematch.sources.search import search
from saematch.sources.stored import StoredSAE

__all__ = ["Layers", "SAEHandle", "SourceLike", "StoredSAE", "as_layers", "load", "load_layers", "search"]
