"""Where SAEs come from: one file a family, and the way from an address to one SAE a layer."""

from saematch.sources.layers import Layers, load, load_layers
from saematch.sources.lists import Source
from saematch.sources.search import search
from saematch.sources.stored import StoredSAE

__all__ = ["Layers", "Source", "StoredSAE", "load", "load_layers", "search"]
