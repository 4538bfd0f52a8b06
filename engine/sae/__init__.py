"""Sparse autoencoders: one SAE and its fold, its feature rows, and its files for other tools."""

from saematch.sae.autoencoder import SAE, Scale
from saematch.sae.maps import Map, MapLike
from saematch.sae.spaces import Space

__all__ = ["SAE", "Map", "MapLike", "Scale", "Space"]
