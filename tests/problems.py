"""Assignment problems as data: ordinary ones, and every kind that is known to have broken a solver."""

from __future__ import annotations

import numpy as np

R = np.random.default_rng


def noisy_copy(n: int, width: int, noise: float, seed: int = 0):
    """Return rows, noisy copies in another order, and the planted permutation, which is not its own inverse."""
    r = R(seed)
    x = r.standard_normal((n, width))
    perm = r.permutation(n)
    y = np.empty_like(x)
    y[perm] = x + noise * r.standard_normal((n, width))
    return x, y, perm


def _outlier(rows, index, factor):
    rows = rows.copy()
    rows[index] *= factor
    return rows


def nasty(n: int = 60, width: int = 12) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> the rows of both sides."""
    x, y = R(1).standard_normal((n, width)), R(2).standard_normal((n, width))
    hub = 0.1 * y
    hub[:, 0] += np.arange(n) ** 2
    return {
        "random": (x, y),
        "empty": (x[:0], y[:0]),
        "one by one": (x[:1], y[:1]),
        "two by two": (x[:2], y[:2]),
        "no columns": (x[:, :0], y[:, :0]),
        "one column": (x[:, :1], y[:, :1]),
        "constant": (np.ones((n, width)), np.ones((n, width))),
        "all sources equal": (np.ones((n, width)), y),
        "all targets equal": (x, np.ones((n, width))),
        "duplicates": (np.repeat(x[: n // 6], 6, axis=0), np.repeat(y[: n // 4], 4, axis=0)),
        "zero rows": (np.where(np.arange(n)[:, None] % 3 == 0, 0, x), np.where(np.arange(n)[:, None] % 2 == 0, 0, y)),
        "small integers": (R(3).integers(0, 3, (n, 3)).astype(float), R(4).integers(0, 3, (n, 3)).astype(float)),
        "shuffled copy": (x, x[R(5).permutation(n)]),
        "outlier source": (_outlier(x, 3, 1e6), y),
        "outlier target": (x, _outlier(y, 7, 1e6)),
        "outliers on both sides": (_outlier(x, 3, 1e6), _outlier(y, 7, 1e6)),
        "a hub": (x, hub),
        "far from the origin": (x + 1e6, y + 1e6),
        "tiny": (x * 1e-25, y * 1e-25),
        "huge": (x * 1e100, y * 1e100),
        "float32 and float64": (x.astype(np.float32), y),
        "one past a tile": (R(6).standard_normal((65, width)), R(7).standard_normal((65, width))),
    }
