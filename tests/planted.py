"""A made-up model whose truth is known: features that persist, split, vanish and are born, and their hidden states."""

from __future__ import annotations

import numpy as np
import torch

import saematch as sm

D, F = 24, 16
PERSIST = np.arange(13)  # of the first layer
SPLIT, VANISH = 13, (14, 15)
COSINE = 0.8  # between the feature that splits and either half
DOCUMENTS, LENGTH = 6, 50


class World:
    """Two layers: their hidden states, SAEs that encode these without error, the codes and the permutation.

    Feature i of the first layer is active on direction e_i. A persistent feature has the same direction in the second
    layer, and its codes and its threshold are multiplied by `ratio[i]`. The halves of the split feature have a cosine
    of 0.8 with it, and each is active on half of its tokens.
    """

    def __init__(self, seed=0, repeat=False):
        r = np.random.default_rng(seed)
        basis = np.linalg.qr(r.standard_normal((D, D)))[0]
        self.ratio = r.uniform(1.1, 1.6, F)
        tokens = DOCUMENTS * LENGTH
        active = r.random((tokens, F)) < 0.3
        self.codes = np.where(active, r.uniform(1.0, 2.0, (tokens, F)), 0.0)
        if repeat:  # every document has the same tokens
            self.codes = np.tile(self.codes[:LENGTH], (DOCUMENTS, 1))
        first = basis[:F]
        threshold = np.full(F, 0.5)
        sine = np.sqrt(1 - COSINE**2)
        halves = [COSINE * basis[SPLIT] + sign * sine * basis[F] for sign in (1, -1)]
        born = basis[F + 1]
        second = np.vstack([first[PERSIST], halves, born])  # before it is shuffled
        self.place = r.permutation(F)  # row k of `second` is feature place[k] of the second layer
        scale = np.append(self.ratio[PERSIST], [1.2, 1.2, 1.0])
        later = np.zeros((tokens, F))
        later[:, PERSIST] = self.codes[:, PERSIST] * self.ratio[PERSIST]
        left = np.arange(tokens) % 2 == 0
        later[:, 13] = np.where(left, self.codes[:, SPLIT] * 1.2, 0.0)
        later[:, 14] = np.where(left, 0.0, self.codes[:, SPLIT] * 1.2)
        # The halves are not orthogonal: each encoder is the dual of its decoder among the two.
        dual = np.linalg.pinv(second).T
        self.a = _sae(first, first, threshold, np.arange(F))
        self.b = _sae(dual, second, threshold[0] * scale, self.place)
        self.x = self.codes @ first
        self.y = later @ second
        self.later = later[:, np.argsort(self.place)]
        self.second = second
        self.scale = scale

    def write_activations(self, folder, layers=(0, 1)):
        """Write the hidden states as `StoredActivations` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        for layer, states in zip(layers, (self.x, self.y), strict=True):
            np.save(folder / f"layer_{layer}.npy", states)
        np.save(folder / "documents.npy", np.repeat(np.arange(DOCUMENTS), LENGTH))
        return folder


def _sae(encoder, decoder, threshold, place):
    """Return an SAE whose feature `place[k]` has row k of the encoder and decoder."""
    order = np.argsort(place)
    tensors = {"W_enc": encoder[order].T, "b_enc": np.zeros(F), "W_dec": decoder[order], "b_dec": np.zeros(D)}
    values = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
    return sm.SAE(**values, activation="jumprelu", threshold=torch.from_numpy(threshold[order].copy()))
