"""Whether a map helps to match SAEs, for `docs/guide.md`.

    python bench/maps.py --saes FOLDER --states FOLDER --document-length N

SAEs of layer 8 are matched with those of layers 9, 10 and 13 by the cosine of decoder rows: as they are, and written in
the basis of the other layer by the orthogonal map that is fitted to the hidden states of the first half of the
documents. Partners are judged by the correlation of their codes on the second half, which neither the map nor the
matching has seen. The controls are the target turned at random, and random directions with its covariance.

The same SAEs are then turned at random, as if they were of another model, and found again by a fitted map.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import saematch as sm
from saematch.activations import Codes, Similarities, procrustes
from saematch.activations.selection import TokenSelection
from saematch.activations.stored import StoredActivations
from saematch.dictionaries.nulls import Nulls

PAIRS = ((8, 9), (8, 10), (8, 13))
COSINES = {"metric": "cosine", "parts": ["decoder"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saes", metavar="FOLDER", required=True, help="SAEs of several layers")
    parser.add_argument("--states", metavar="FOLDER", required=True, help="hidden states: layer_<number>.npy")
    parser.add_argument("--document-length", type=int, metavar="N", help="tokens of each document")
    options = parser.parse_args()
    layers, source = sm.load_layers(options.saes), StoredActivations(options.states, options.document_length)
    for pair in PAIRS:
        compare(layers, source, pair)


def compare(layers, source, pair):
    """Print how a pair of layers is matched with and without a map."""
    selection = TokenSelection.of(source, pair)
    x, y = (torch.cat([batch.layers[0] for batch in selection.batches([n], torch.device("cpu"))]) for n in pair)
    documents = source.documents[selection.selected]
    second = documents >= documents.max() // 2 + 1
    a, b = (layers[n] for n in pair)
    held_out = Similarities.of(
        "correlation", *(Codes.encode(sae, h[torch.from_numpy(second)]) for sae, h in ((a, x), (b, y)))
    )
    map = procrustes(x, y, documents=documents, outliers=None)
    left = residual_of_identity(x, y, second)
    print(f"\nlayers {pair[0]} and {pair[1]}, without a map {left:.1%} is left, scale {map.fit.scale:.3f}")
    print(f"  {map.describe()}")
    nulls = Nulls(b)
    for name, source_sae, target in (
        ("as they are", a, b),
        ("mapped", a.mapped(map), b),
        ("mapped, B turned at random", a.mapped(map), nulls.rotated(0)),
        ("mapped, random directions", a.mapped(map), nulls.random(0)),
    ):
        m = sm.match(source_sae, target, **COSINES)
        assert m.certified
        r = held_out.of_pairs(np.arange(a.F), m.perm.numpy())
        report(name, m, r)
    # The same, as if layer B were of another model: in a basis that no layer shares.
    turn = torch.linalg.qr(torch.randn(b.d, b.d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    turned, other = b.mapped(turn), y.double() @ turn
    for name, options in (
        ("B in another basis, no map", {}),
        ("B in another basis, mapped", {"map": procrustes(x, other, documents=documents, outliers=None)}),
    ):
        m = sm.match(a, turned, **options, **COSINES)
        report(name, m, held_out.of_pairs(np.arange(a.F), m.perm.numpy()))


def residual_of_identity(x, y, second):
    """Return what the means alone, with the basis as it is, leave of the variance of the second half."""
    first = torch.from_numpy(~second)
    x, y = x.double() - x[first].double().mean(dim=0), y.double() - y[first].double().mean(dim=0)
    return float((x - y)[~first].square().sum() / y[~first].square().sum())


def report(name, m, r):
    cosine = m.cosine.numpy()
    print(
        f"  {name:28} cosine {cosine.mean():.3f}, at least 0.7: {(cosine >= 0.7).mean():.1%}; r held out {r.mean():.3f}"
    )


if __name__ == "__main__":
    main()
