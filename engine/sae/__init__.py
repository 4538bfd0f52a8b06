"""One sparse autoencoder: its tensors, the folding of its threshold, its feature rows, and files for other tools."""

from saematch.sae.autoencoder import SAE, Scale

__all__ = ["SAE", "Scale"]
