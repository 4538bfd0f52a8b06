"""The features of a run that stand out: the most alike, the least alike, and those that persist longest."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from saematch.errors import MatchError
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair, nearest_steps
from saematch.runs.results import PairArrays

_Columns = tuple[Indices, Indices, Indices, Floats]  # of features: first layer, number there, layers, least cosine


class RankedPair(NamedTuple):
    """A matched pair of features.

    Attributes:
        layer: the number of the source layer, or the name of its SAE.
        feature: the number of the source feature.
        target: the number of the target layer, or the name of its SAE.
        partner: the number of the target feature.
        cost: the cost of the pair.
        cosine: the cosine of the decoder rows; None if it is not known.
        margin: how much the cost may rise before another matching is cheaper; None if it was not computed.
    """

    layer: int | str
    feature: int
    target: int | str
    partner: int
    cost: float
    cosine: float | None = None
    margin: float | None = None


class Lasting(NamedTuple):
    """A feature that persists through several layers.

    Attributes:
        layer: the first layer, or the name of its SAE.
        feature: the number of the feature in the first layer.
        last: the last layer, or the name of its SAE.
        layers: the number of layers.
        cosine: the least cosine of its steps.
    """

    layer: int | str
    feature: int
    last: int | str
    layers: int
    cosine: float


def alike(chain: Chain, count: int, *, least: bool = False) -> list[RankedPair]:
    """Return the matched pairs of features with the largest decoder cosines or, with `least`, the smallest.

    Raises:
        MatchError: if cosines are not known.
    """
    sign = -1 if least else 1

    def pairs() -> Iterable[RankedPair]:
        for pair in chain:
            arrays = chain.arrays(pair)
            cosine = known_cosine(chain, arrays, pair)
            ranked = np.where(np.isfinite(cosine), sign * cosine, -np.inf)
            for feature in largest(ranked, count):
                yield ranked_pair(chain, pair, arrays, int(feature))

    return heapq.nlargest(count, pairs(), key=lambda found: sign * (found.cosine or 0.0))


def uncertain(chain: Chain, count: int, progress: Callable[[Pair], None] = lambda _: None) -> list[RankedPair]:
    """Return the matched pairs of features with the smallest margins, which takes passes over all pairs of features.

    Pairs of layers that are not certified have no margins, and are left out. `progress` is called with each pair of
    layers before its margins are computed.

    Raises:
        MatchError: if no pair of layers is certified, or the SAEs of the run cannot be read.
    """
    found = []
    for pair in chain:
        matching = chain[pair]
        if not matching.certified:
            continue
        progress(pair)
        margins, arrays = matching.margins(), chain.arrays(pair)
        unmatched = len(matching.perm) - matching.matched
        lowest = margins.lowest(count + unmatched)  # unmatched features have margins, too, and are not listed
        for feature, margin in zip(lowest.tolist(), margins.exact(lowest).tolist(), strict=True):
            if arrays.perm[feature] >= 0:
                found.append(ranked_pair(chain, pair, arrays, feature)._replace(margin=margin))
    if not found:
        raise MatchError("margins exist only for pairs of layers that are proved optimal, and this run has none")
    return heapq.nsmallest(count, found, key=lambda one: one.margin or 0.0)


def lasting(chain: Chain, count: int, cosine: float) -> list[Lasting]:
    """Return the features that persist through the most layers; of several, those with the largest least cosine.

    Args:
        chain: a run of one set of SAEs.
        count: how many features to return.
        cosine: the least decoder cosine at which a partner counts as the same feature.

    Raises:
        MatchError: if cosines are not known, or the run has no paths.
    """
    if not chain.steps():
        raise MatchError("features persist along the layers of one set of SAEs, and this run has no such steps")
    ended: list[Lasting] = []
    running: dict[int, _Columns] = {}
    for pair in nearest_steps(chain.steps()):
        arrays = chain.arrays(pair)
        known = known_cosine(chain, arrays, pair)
        layers, first, length, lowest = running.pop(pair[0], _fresh(pair[0], len(arrays.perm)))
        goes_on = np.nan_to_num(known, nan=-np.inf) >= cosine
        ended += _best(chain, pair[0], (layers, first, length, np.where(goes_on, -np.inf, lowest)), count)
        # Those that go on, at the places of their partners; all other features of the target layer begin there.
        begun = _fresh(pair[1], chain.shape(pair)[1])
        to = arrays.perm[goes_on]
        values = layers[goes_on], first[goes_on], length[goes_on] + 1, np.minimum(lowest, known)[goes_on]
        for column, value in zip(begun, values, strict=True):
            column[to] = value
        running[pair[1]] = begun
    for layer, columns in running.items():
        ended += _best(chain, layer, columns, count)
    return heapq.nlargest(count, ended, key=lambda one: (one.layers, one.cosine))


class CostLimit(NamedTuple):
    """A limit of the cost, at which pairs above a cosine are best separated from those below.

    Of all costs, it is the one for which the fewest matched pairs are on the wrong side: they cost at most this and are
    below the cosine, or cost more and are not. If no pair is above the cosine, or all are, there is no such cost.

    Attributes:
        cosine: the cosine of the decoder rows.
        max_cost: the limit, see `match`.
        kept: the share of the matched pairs that cost at most this.
        above: the share of these pairs that are above the cosine.
    """

    cosine: float
    max_cost: float | None = None
    kept: float | None = None
    above: float | None = None


def cost_limits(chain: Chain, cosines: Sequence[float]) -> list[CostLimit]:
    """Return a limit of the cost for each of several cosines; none if the cosines of the pairs are not known."""
    arrays = [chain.arrays(pair) for pair in chain]
    known = [(one.cost[one.perm >= 0], one.cosine[one.perm >= 0]) for one in arrays if one.cosine is not None]
    if not known:
        return []
    cost, cosine = (np.concatenate(column) for column in zip(*known, strict=True))
    order = np.argsort(cost)
    cost, cosine = cost[order], cosine[order]
    limits = []
    for least in cosines:
        above = cosine >= least
        if not above.any() or above.all():
            limits.append(CostLimit(least))
            continue
        # If the limit is the cost of pair i, pairs up to i below the cosine, and later pairs above it, are misplaced.
        misplaced = np.cumsum(~above) + above.sum() - np.cumsum(above)
        best = int(misplaced.argmin())
        limits.append(CostLimit(least, float(cost[best]), (best + 1) / len(cost), float(above[: best + 1].mean())))
    return limits


def ranked_pair(chain: Chain, pair: Pair, arrays: PairArrays, feature: int) -> RankedPair:
    """Return the pair of a source feature, without its margin."""
    cosine = None if arrays.cosine is None else float(arrays.cosine[feature])
    source, target = chain.names.keys(pair)
    return RankedPair(source, feature, target, int(arrays.perm[feature]), float(arrays.cost[feature]), cosine)


def largest(values: Floats, count: int) -> Indices:
    """Return the places of the largest values that are not -inf, in descending order."""
    count = min(count, len(values))
    places = np.argpartition(-values, count - 1)[:count] if count else np.empty(0, np.int64)
    places = places[np.argsort(-values[places], kind="stable")]
    return places[values[places] > -np.inf]


def known_cosine(chain: Chain, arrays: PairArrays, pair: Pair) -> Floats:
    """Return the cosine of each matched pair of a pair of layers. Raises `MatchError` if it is not known."""
    if arrays.cosine is None:
        raise MatchError(
            f"the decoder cosines of {chain.names.titles(pair)} are not known: the run has none, and its SAEs cannot "
            "be read; say where they are (inputs=)"
        )
    return arrays.cosine


def _fresh(layer: int, features: int) -> _Columns:
    """Return the columns of features that begin in a layer."""
    return np.full(features, layer), np.arange(features), np.ones(features, np.int64), np.full(features, np.inf)


def _best(chain: Chain, last: int, columns: _Columns, count: int) -> list[Lasting]:
    """Return the best of the features that end in a layer: those that lasted for more than one layer."""
    layers, first, length, lowest = columns
    key = chain.names.key
    ends = np.where((length > 1) & (lowest > -np.inf), 4.0 * length + lowest.clip(-1, 1), -np.inf)
    return [
        Lasting(key(int(layers[i])), int(first[i]), key(last), int(length[i]), float(lowest[i]))
        for i in largest(ends, count)
    ]
