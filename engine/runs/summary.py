"""The summary of a run: the numbers of each matched pair of layers that tables show."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from saematch.matching.scalars import Scalars, scalars
from saematch.options import Status
from saematch.runs.results import PairArrays

if TYPE_CHECKING:
    from saematch.matching.result import Matching
    from saematch.runs.chain import Chain

Keys = tuple[int | str, int | str]
PERSISTENT = 0.7  # the least decoder cosine at which a feature counts as the same feature as its partner


class PairSummary(NamedTuple):
    """The numbers of one matched pair of layers; None stands for a number that is not known.

    Attributes:
        source: the number of the source layer, or the name of its SAE.
        target: the number of the target layer, or the name of its SAE.
        features: the number of source features.
        matched: the number of source features that have a partner.
        cost: the sum of the costs of the matched pairs.
        of_random: the cost, relative to that of as many random pairs.
        cosine: the mean cosine of the decoder rows of the matched pairs.
        persistent: the share of the source features whose partner has a cosine of at least `PERSISTENT`.
        proof_gap: the most that the objective can be above the optimum.
        certified: whether the matching is proved optimal.
        status: the status of the matching.
        seconds: the time from reading the SAEs to the proof.
    """

    source: int | str
    target: int | str
    features: int
    matched: int
    cost: float | None
    of_random: float | None
    cosine: float | None
    persistent: float | None
    proof_gap: float | None
    certified: bool
    status: Status
    seconds: float | None


def summary_of(chain: Chain, *, recorded: bool = False) -> list[PairSummary]:
    """Return the summary of every pair of a run that has a matching, in the order of the plan.

    Cosines that the run has not recorded are computed from the SAEs, unless `recorded` is true.
    """
    rows = []
    for pair, numbers in chain.scalars().items():
        seconds = chain.pair_record(pair).get("seconds")
        rows.append(_summary(chain.names.keys(pair), numbers, chain.arrays(pair, recorded=recorded), seconds))
    return rows


def summary_of_matching(pair: Keys, matching: Matching, seconds: float | None = None) -> PairSummary:
    """Return the summary of one matching."""
    return _summary(pair, scalars(matching), PairArrays.of(matching), seconds)


def _summary(pair: Keys, numbers: Scalars, arrays: PairArrays, seconds: float | None) -> PairSummary:
    cost, of_random = numbers["cost"], numbers["random_cost"]
    known = None if arrays.cosine is None else arrays.cosine[np.isfinite(arrays.cosine)]
    has_cosines = known is not None and len(known) > 0
    return PairSummary(
        *pair,
        features=len(arrays.perm),
        matched=int((arrays.perm >= 0).sum()),
        cost=cost,
        of_random=cost / of_random if cost is not None and of_random else None,
        cosine=float(known.mean()) if known is not None and has_cosines else None,
        persistent=float((known >= PERSISTENT).sum()) / len(arrays.perm) if known is not None and has_cosines else None,
        proof_gap=numbers["proof_gap"],
        certified=numbers["certified"],
        status=numbers["status"],
        seconds=seconds,
    )
