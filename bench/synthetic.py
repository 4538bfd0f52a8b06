"""Synthetic folded feature rows of two neighbouring layers.

A share `survive` of the features persists, with noise of log-normal size; all others are new. Directions have a
decaying spectrum; thresholds are log-normal and grow by 5 % per layer. The problem "60 % persist" has survive=0.6 and
noise=0.35; the problem "hard, 10 % persist" has survive=0.1 and noise=1.0. A row has K = 2 d columns: the decoder times
the threshold, followed by the encoder over the threshold.
"""

import numpy as np


def layer_pair(features, d, survive=0.6, noise=0.35, seed=0, growth=1.05):
    """Return two float32 arrays `(features, 2 d)`. The rows of the second are in random order."""
    r = np.random.default_rng(seed)
    spectrum = np.arange(1, d + 1, dtype=np.float32) ** -0.5
    spectrum /= np.sqrt((spectrum**2).mean())

    def unit(count):
        v = r.standard_normal((count, d)).astype(np.float32) * spectrum
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def rows(dec, enc, theta):
        return np.concatenate([dec * theta[:, None], enc / theta[:, None]], 1)

    dec = unit(features)
    enc = dec + 0.5 * unit(features)
    theta = np.exp(r.normal(0, 0.5, features)).astype(np.float32)
    source = rows(dec, enc, theta)
    order = r.permutation(features)
    size = (noise * np.exp(r.normal(0, 0.7, features))).astype(np.float32)[:, None]
    next_dec = dec + size * unit(features)
    next_dec /= np.linalg.norm(next_dec, axis=1, keepdims=True)
    next_enc = enc + size * unit(features)
    new = r.random(features) > survive
    next_dec[new] = unit(new.sum())
    next_enc[new] = next_dec[new] + 0.5 * unit(new.sum())
    next_theta = theta * growth * np.exp(r.normal(0, 0.1, features)).astype(np.float32)
    next_theta[new] = np.exp(r.normal(0, 0.5, new.sum())) * growth
    return source, rows(next_dec[order], next_enc[order], next_theta[order].astype(np.float32))
