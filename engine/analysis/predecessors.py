"""Predecessors of features in the sites of a flow: their partners, and the nearest features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from saematch.analysis.ranking import known_cosine
from saematch.errors import MatchError
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Floats, Indices
from saematch.options import SiteName
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sources.names import SITES
from saematch.storage.jsonfile import finite_or_none
from saematch.text import listing

if TYPE_CHECKING:
    from saematch.matching.problem import Problem
    from saematch.sae.autoencoder import SAE


class Predecessors(NamedTuple):
    """The predecessors of one feature of a residual stream in one site.

    Attributes:
        site: the name of the SAE of the site, such as "mlp.8".
        partner: the number of the feature that the feature is matched with; None without a partner.
        cosine: the cosine of both decoder rows; None without a partner.
        label: the label of the partner, if it has one.
        nearest: the number of the feature with the largest cosine.
        nearest_cosine: that cosine; None for a decoder row of zeros.
        nearest_label: the label of that feature, if it has one.
    """

    site: str
    partner: int | None
    cosine: float | None
    label: str | None
    nearest: int
    nearest_cosine: float | None
    nearest_label: str | None


def predecessors_of(chain: Chain, layer: int | str, feature: int) -> list[Predecessors]:
    """Return the predecessors of one feature of the residual stream after a layer, for each site of the layer.

    Args:
        chain: a run of `match_layers(..., pairs="flow")`.
        layer: the number of the layer, or the name of the SAE of its residual stream.
        feature: the number of the feature.

    Raises:
        MatchError: if the run has no such feature, or its SAEs cannot be read.

    Examples:
        >>> import saematch as sm
        >>> from saematch.analysis.predecessors import predecessors_of
        >>> chain = sm.match_layers({"residual": "sample?layer=8-9"}, pairs="flow")
        >>> (found,) = predecessors_of(chain, 9, 455)
        >>> found.site, found.partner, found.label, found.nearest
        ('residual.8', 384, 'Kn, Ex, Module, Dist, Gn', 384)
    """
    known = {at: (number, pairs) for (at, number), pairs in flow_pairs(chain).items()}
    found = next((one for at, one in known.items() if layer in (at, chain.names.key(one[0]))), None)
    if found is None:
        there = listing(str(chain.names.key(number)) for number, _ in known.values())
        raise MatchError(f"{layer!r:.40} has no predecessors in this run; there are {there}")
    number, pairs = found
    last = chain.shape(next(iter(pairs.values())))[1] - 1
    wrong = f"feature {feature!r:.40} is not in {chain.names.title(number)}, whose features are 0 to {last}"
    feature, target = checked_count(feature, 0, wrong, last), chain.sae(number)
    return [_predecessors(chain, pair, target, feature) for pair in pairs.values()]


def _predecessors(chain: Chain, pair: Pair, target: SAE, feature: int) -> Predecessors:
    """Return the predecessors of a feature in the site of one pair."""
    partners, cosines = partners_of(chain, pair)
    partner = int(partners[feature])
    problem = _by_decoders(chain.sae(pair[0]), target)
    of_all = problem.cosine(np.full(problem.shape[0], feature))
    assert of_all is not None
    nearest = int(np.nan_to_num(of_all, nan=-np.inf).argmax())
    return Predecessors(
        site=str(chain.names.key(pair[0])),
        partner=partner if partner >= 0 else None,
        cosine=finite_or_none(float(cosines[feature])),
        label=chain.label(pair[0], partner) if partner >= 0 else None,
        nearest=nearest,
        nearest_cosine=finite_or_none(float(of_all[nearest])),
        nearest_label=chain.label(pair[0], nearest),
    )


def flow_pairs(chain: Chain) -> dict[tuple[int, int], dict[SiteName, Pair]]:
    """Return (layer, number of the SAE of its residual stream) -> site -> pair, for the finished pairs of a flow.

    Raises:
        MatchError: if the run has none.
    """
    sites, found = chain.names.sites, dict[tuple[int, int], dict[SiteName, Pair]]()
    for pair in [] if chain.of_two_sets else chain:
        source, target = (sites.get(number) for number in pair)
        if source is None or target is None or target.site != "residual":
            continue
        if source.layer == target.layer - (source.site == "residual"):
            found.setdefault((target.layer, pair[1]), {})[source.site] = pair
    if not found:
        raise MatchError('this run has no finished pair of a flow; match the sites of layers with pairs="flow"')
    return {key: {site: found[key][site] for site in SITES if site in found[key]} for key in sorted(found)}


def partners_of(chain: Chain, pair: Pair) -> tuple[Indices, Floats]:
    """Return the source feature of each target feature, and the cosine of both decoder rows.

    Of several source features, which a baseline may match with one, it is the one with the largest cosine.
    """
    arrays = chain.arrays(pair)
    perm, cosine = arrays.perm, known_cosine(chain, arrays, pair)
    matched = np.nonzero(perm >= 0)[0]
    matched = matched[np.argsort(np.nan_to_num(cosine[matched], nan=-2.0), kind="stable")]  # the last one stays
    partner, cosines = np.full(chain.shape(pair)[1], -1), np.full(chain.shape(pair)[1], np.nan)
    partner[perm[matched]], cosines[perm[matched]] = matched, cosine[matched]
    return partner, cosines


def nearest_of(source: SAE, target: SAE) -> tuple[Indices, Floats]:
    """Return the source feature with the largest decoder cosine for each target feature, and that cosine.

    It is NaN for a target feature whose decoder row is zero, and for all if the rows of all source features are.
    """
    from saematch.matching.solver import Solver

    numbers = np.nonzero(source.W_dec.any(dim=1).numpy())[0]
    if not len(numbers):
        return np.zeros(target.F, dtype=np.int64), np.full(target.F, np.nan)
    problem = _by_decoders(target, source if len(numbers) == source.F else _of_decoder_rows(source, numbers))
    nearest = Solver().nearest(problem)
    cosine = problem.cosine(nearest)
    assert cosine is not None
    return numbers[nearest], cosine


def _of_decoder_rows(sae: SAE, numbers: Indices) -> SAE:
    """Return an SAE of some decoder rows. A row of zeros costs as much as a cosine of 0, and less than one below 0."""
    rows = sae.W_dec[numbers]
    return replace(sae, W_enc=rows.T, b_enc=sae.b_enc[numbers], W_dec=rows, activation="relu", threshold=None, k=None)


def _by_decoders(source: SAE, target: SAE) -> Problem:
    """Return the problem whose costs are 1 minus the cosine of decoder rows."""
    from saematch.matching.comparison import Comparison  # which imports torch, and partners need none

    return Comparison.checked(["decoder"], metric="cosine").problem(source, target)
