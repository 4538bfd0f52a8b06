"""Where SAEs come from: one file a family, and the way from a path to one SAE a layer."""

from saematch.sources.layers import Layers, StoredSAE, find, load, load_layers

__all__ = ["Layers", "StoredSAE", "find", "load", "load_layers"]
