"""Null models: SAEs whose directions mean nothing, which a number has to exceed before it says anything."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from saematch.dictionaries.similarity import directions
from saematch.numeric.rounding import Floats
from saematch.numeric.threads import torch_threads
from saematch.sae.autoencoder import SAE

_JITTER = 1e-8


class Nulls:
    """Null models of one SAE, which take its place in a comparison.

    Directions are those of the encoder columns and of the decoder rows, scaled to norm 1. Features without a direction
    stay without one.

    Args:
        sae: the SAE, with F features on activations of width d.
    """

    def __init__(self, sae: SAE) -> None:
        self._sae = sae

    @torch_threads()
    def random(self, seed: int) -> SAE:
        """Return an SAE of random directions with the mean and the covariance of the directions of this one.

        The encoder and the decoder direction of a feature are drawn together, from a normal distribution of 2 d
        numbers, so that they are as similar to each other as those of the SAE are.
        """
        mean, factor = self._normal
        drawn = mean + np.random.default_rng([seed, 0]).standard_normal((self._sae.F, len(mean))) @ factor
        d = self._sae.d
        return self._with(drawn[:, :d], drawn[:, d:])

    @torch_threads()
    def rotated(self, seed: int) -> SAE:
        """Return this SAE turned by a random orthogonal matrix: all angles between its own features are kept."""
        d = self._sae.d
        drawn = torch.from_numpy(np.random.default_rng([seed, 1]).standard_normal((d, d)))
        q, r = torch.linalg.qr(drawn)
        turn = (q * r.diag().sign()).numpy()  # without the signs, the matrices would not be distributed uniformly
        return self._with(self._encoder @ turn, self._decoder @ turn)

    @cached_property
    def _encoder(self) -> Floats:
        return directions(self._sae, "encoder")

    @cached_property
    def _decoder(self) -> Floats:
        return directions(self._sae, "decoder")

    @cached_property
    def _normal(self) -> tuple[Floats, Floats]:
        """The mean of all directions `(2 d,)`, and a matrix that gives standard normal numbers their covariance.

        The variances are raised by 1e-8 of their mean, so that the covariance of few features has a square root, too.
        """
        rows = np.concatenate([self._encoder, self._decoder], axis=1)
        mean = rows.mean(axis=0)
        rows -= mean
        covariance = rows.T @ rows / len(rows)
        covariance += _JITTER * max(np.trace(covariance) / len(mean), np.finfo(float).tiny) * np.eye(len(mean))
        return mean, torch.linalg.cholesky(torch.from_numpy(covariance)).numpy().T

    def _with(self, encoder: Floats, decoder: Floats) -> SAE:
        encoder = encoder * self._encoder.any(axis=1, keepdims=True)
        decoder = decoder * self._decoder.any(axis=1, keepdims=True)
        return replace(self._sae, W_enc=torch.from_numpy(encoder.T.copy()), W_dec=torch.from_numpy(decoder))
