"""Matching by activations: how long it takes, and what it finds, for `docs/activations.md`.

    python bench/activations.py                                two SAEs of 16,384 features on a million tokens
    python bench/activations.py --large                        two SAEs of 131,072 features on 100,000 tokens
    python bench/activations.py --saes FOLDER --states FOLDER --document-length N
    python bench/activations.py --sample --states FOLDER --document-length N

With `--saes`, the SAEs of layer 8 are matched with those of layers 9, 10 and 13, by half of the documents of the hidden
states, and judged by the other half. With `--sample`, layers 8 and 9 of the packaged sample are matched by decoder
cosine and by correlation, and the features are listed on whose partners the two disagree most. Rows are appended to
`bench/results/cpu.jsonl` only with `--append`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from record import append, peak_bytes

import saematch as sm
from saematch.activations import Codes, Similarities
from saematch.activations.layers import EncodedLayers
from saematch.activations.selection import TokenSelection
from saematch.activations.stored import StoredActivations
from saematch.evaluation.held_out import measure_held_out
from saematch.evaluation.methods import MethodPermutation
from saematch.matching.by_codes import CodesProblem
from saematch.matching.solver import Solver
from saematch.options import Side

KEPT = (0.9, 0.85)  # share of the active features of the world that each side sees
CHANCE = 0.1  # active features by chance, relative to those of the world
PAIRS = ((8, 9), (8, 10), (8, 13))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="131,072 features and 100,000 tokens")
    parser.add_argument("--metric", default="correlation", help="correlation, jaccard or activation_cosine")
    parser.add_argument("--saes", metavar="FOLDER", help="real SAEs, with --states")
    parser.add_argument("--sample", action="store_true", help="the packaged sample, with --states")
    parser.add_argument("--states", metavar="FOLDER", help="hidden states: layer_<number>.npy")
    parser.add_argument("--document-length", type=int, metavar="N", help="tokens of each document of the hidden states")
    parser.add_argument("--append", action="store_true", help="append rows to bench/results/cpu.jsonl")
    options = parser.parse_args()
    if options.saes is not None:
        real(options.saes, options.states, options.document_length)
    elif options.sample:
        disagreements(options.states, options.document_length)
    elif options.large:
        planted(131_072, 100_000, 50, options.metric, options.append)
    else:
        planted(16_384, 1_000_000, 50, options.metric, options.append)


def world(r, features, tokens, active):
    """Return tokens and features that are active on them, in order. A few features are active on very many tokens."""
    rate = 1 / np.arange(1, features + 1) ** 0.8
    rate = np.minimum(active * rate / rate.sum(), 0.3)
    count = r.poisson(rate * tokens)
    keys = np.unique(r.integers(0, tokens, count.sum()) * features + np.repeat(np.arange(features), count))
    return keys // features, keys % features


def view(r, tokens, features, strength, kept, names, count):
    """Return the codes of an SAE that sees a share of what is active, by other names, and some features by chance."""
    seen, chance = r.random(len(tokens)) < kept, int(CHANCE * len(tokens))
    keys = np.concatenate(
        [
            tokens[seen] * len(names) + names[features[seen]],
            r.integers(0, count, chance) * len(names) + r.integers(0, len(names), chance),
        ]
    )
    noise = r.lognormal(sigma=0.3, size=int(seen.sum()))
    values = np.concatenate([strength[seen] * noise, np.ones(chance)]).astype(np.float32)
    keys, first = np.unique(keys, return_index=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(keys // len(names), minlength=count))])
    return Codes(starts, (keys % len(names)).astype(np.int32), values[first], len(names))


def two_views(features, tokens, active):
    """Return the codes of two SAEs that see one world, and the partner of each feature of the first."""
    r = np.random.default_rng(0)
    where, which = world(r, features, tokens, active)
    strength, names = r.lognormal(size=len(where)), r.permutation(features)
    a = view(r, where, which, strength, KEPT[0], np.arange(features), tokens)
    b = view(r, where, which, strength, KEPT[1], names, tokens)
    return a, b, names


def planted(features, tokens, active, metric, appends):
    """Match two SAEs whose features are the same but for what each of them misses, and print time and memory."""
    sm.assign(*two_views(3_000, 2_000, active)[:2], metric=metric)  # compile the loops
    a, b, names = two_views(features, tokens, active)

    def run():
        began = time.perf_counter()
        problem = CodesProblem.checked(a, b, metric)
        counted = time.perf_counter()
        return Solver(progress=print).run(problem), counted - began, time.perf_counter() - counted

    (m, counting, solving), peak = peak_bytes(run)
    peak += sum(codes.features.nbytes + codes.values.nbytes + codes.starts.nbytes for codes in (a, b))
    found = (m.perm.numpy() == names).mean()
    together = m.stats["active_together"]
    print(
        f"{features:,} features, {tokens:,} tokens, {len(a.features) / tokens:.0f} and {len(b.features) / tokens:.0f} "
        f"active, {metric}: {together:,} pairs active together ({together / features**2:.1%}); counted in "
        f"{counting:.1f} s, solved and proved in {solving:.1f} s, {peak / 1e9:.2f} GB; certified: {m.certified}; "
        f"{found:.1%} of the planted partners found; {m.stats}"
    )
    assert m.certified
    if appends:
        sizes = {"F_A": features, "F_B": features, "tokens": tokens}
        more = {"active_together": together, "rounds": m.stats["rounds"]}
        append(f"planted codes, {metric}: co-firings", sizes, [counting])
        append(f"planted codes, {metric}: saematch", sizes, [solving], peak_bytes=peak, **more)


def encoder(layers, selection):
    """Return a function that encodes the selected tokens of a layer."""
    encoded = EncodedLayers(selection)
    return lambda layer: encoded.codes(layers[layer], layer, Side.SOURCE)


def disagreements(states, document_length):
    """Print how decoder cosines and correlations disagree on the partners of features, and where they do so most."""
    layers, pair = sm.load_layers("sample"), (8, 9)
    selection = TokenSelection.of(StoredActivations(states, document_length), pair)
    codes, odd = map(encoder(layers, selection), pair), selection.units[selection.selected] % 2 == 1
    first, second = zip(*((one.select(~odd), one.select(odd)) for one in codes), strict=True)
    similarities = Similarities.of("correlation", *second)
    a, b = (layers[layer] for layer in pair)
    matchings = {
        "decoder cosine": sm.match(a, b, metric="cosine", parts=["decoder"]),
        "correlation": sm.match(a, b, metric="correlation", activations=first),
    }
    perms = [m.perm.numpy() for m in matchings.values()]
    cosines = [m.cosine.numpy() for m in matchings.values()]
    correlations = [similarities.of_pairs(np.arange(a.F), perm) for perm in perms]
    for name, cosine, r in zip(matchings, cosines, correlations, strict=True):
        print(f"{name}: mean cosine {cosine.mean():.3f}, mean correlation on the second half {r.mean():.3f}")
    print(f"same partner: {(perms[0] == perms[1]).mean():.1%}")
    for low, high in ((-1.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.01)):
        chosen = (cosines[0] >= low) & (cosines[0] < high)
        r = correlations[0][chosen]
        print(f"decoder cosine from {low} to {high}: {chosen.sum()} pairs, r {r.mean():.2f}, at least {r.min():.2f}")
    unlike = (cosines[1] < 0.2) & (correlations[1] > 0.6)
    print(f"partners by correlation with a cosine below 0.2 and a correlation above 0.6: {unlike.sum()}")
    labels = [layers.handles[layer].labels for layer in pair]
    apart = np.where(perms[0] == perms[1], 0.0, correlations[1] - correlations[0])
    for feature in (*np.argsort(-apart)[:12], *np.argsort(apart)[:8]):
        print(f"{feature} {labels[0].get(feature)!r}")
        for name, perm, cosine, r in zip(matchings, perms, cosines, correlations, strict=True):
            partner = perm[feature]
            print(f"    {name}: {partner} {labels[1].get(partner)!r}, cosine {cosine[feature]:.2f}, r {r[feature]:.2f}")


def real(folder, states, document_length):
    """Print how alike the partners of real SAEs behave on documents that the matching has not seen."""
    layers, source = sm.load_layers(folder), StoredActivations(states, document_length)
    for pair in PAIRS:
        a, b = (layers[layer] for layer in pair)
        selection = TokenSelection.of(source, pair)
        codes_of = encoder(layers, selection)
        matchings = {
            "folded weights (SAE Match)": sm.match(a, b),
            "decoder cosine": sm.match(a, b, metric="cosine", parts=["decoder"]),
            "nearest decoder cosine": sm.match(a, b, metric="cosine", parts=["decoder"], method="nearest"),
            "random": sm.certify(a, b, np.random.default_rng(0).permutation(b.F)),
        }
        permutations = [MethodPermutation(name, 0, m.perm.numpy()) for name, m in matchings.items()]
        print(f"\nlayers {pair[0]} and {pair[1]}, {selection.size}")
        for row in measure_held_out(selection, pair, a, b, permutations, codes_of)["held_out"]:
            same = "" if row["same_partner"] is None else f"; same partner by the other half {row['same_partner']:.1%}"
            print(
                f"  {row['method']:26} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], on the first half "
                f"{row['first_half']:.3f}, {row['features']} pairs{same}"
            )


if __name__ == "__main__":
    main()
