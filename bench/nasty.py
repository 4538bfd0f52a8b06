"""Problems that slow down or mislead solvers, at a size at which this shows, compared with an ordinary problem.

`make bench` runs this file. The problems are made from one hard synthetic pair of layers, and a row is only written if
the answer is certified.
"""

from __future__ import annotations

import numpy as np
import pytest
from record import timed
from synthetic import layer_pair

import saematch as sm

FEATURES = 4_096


def zeros(rows, share):
    return np.where(np.arange(FEATURES)[:, None] < share * FEATURES, np.float32(0), rows)


def outlier(rows, index):
    return np.where(np.arange(FEATURES)[:, None] == index, 1e6 * rows, rows)


def hub(x, y):
    """Return targets that are far from all sources, except for one that is near all of them."""
    far = y + 30 * np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    far[5] = x.mean(axis=0)
    return far


# The names are those of the rows in results/cpu.jsonl.
PROBLEMS = {
    "ordinary": lambda x, y: (x, y),
    "every row twice": lambda x, y: (np.tile(x[::2], (2, 1)), np.tile(y[::2], (2, 1))),
    "every row eight times": lambda x, y: (np.tile(x[::8], (8, 1)), np.tile(y[::8], (8, 1))),
    "half of the sources zero": lambda x, y: (zeros(x, 0.5), y),
    "half of both sides zero": lambda x, y: (zeros(x, 0.5), zeros(y, 0.5)),
    "constant": lambda x, y: (np.ones_like(x), np.ones_like(y)),
    "all sources equal": lambda x, y: (np.ones_like(x), y),
    "a giant on each side": lambda x, y: (outlier(x, 7), outlier(y, 9)),
    "a hub": lambda x, y: (x, hub(x, y)),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_nasty(benchmark, kind):
    x, y = PROBLEMS[kind](*layer_pair(FEATURES, 128, survive=0.1, noise=1.0))
    sm.assign(x[:256], y[:256])  # compile the loops
    assert timed(benchmark, "nasty", kind, x, y, lambda: sm.assign(x, y), 3).certified
