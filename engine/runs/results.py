"""The results of a run: one interface for a run in a folder and a run in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from typing_extensions import override

from saematch.matching.files import FeaturePair
from saematch.matching.scalars import Scalars, scalars
from saematch.numeric.rounding import Floats, Indices
from saematch.options import Side
from saematch.runs.plan import Pair
from saematch.runs.records import InputRecord, Outcome, PairRecord, RunRecord
from saematch.sources.names import LAYERS, Names
from saematch.storage.jsonfile import finite_or_none

if TYPE_CHECKING:
    from saematch.matching.result import Matching


class PairArrays(NamedTuple):
    """The partner, cost and cosine of each source feature of a matching, `(F_A,)` each, see `Matching`.

    Attributes:
        perm: the target feature of each source feature; -1 for an unmatched feature.
        cost: the cost of each pair; 0.0 for an unmatched feature.
        cosine: the cosine of the decoder rows of each pair; NaN for an unmatched feature. None if they are not known.
    """

    perm: Indices
    cost: Floats
    cosine: Floats | None

    @classmethod
    def of(cls, matching: Matching) -> PairArrays:
        """Return the arrays of a matching, which share its memory."""
        cosine = None if matching.cosine is None else matching.cosine.numpy()
        return cls(matching.perm.numpy(), matching.pair_cost.numpy(), cosine)


class Results(ABC):
    """The matchings and failures of a run, by pair of layers.

    Attributes:
        record: the content of `run.json`; empty for a run in memory.
        names: what the SAEs are called.
        planned: all pairs that the run is to match.
        location: the path or the URL of the run folder; None for a run in memory.
    """

    record: RunRecord
    names: Names
    planned: list[Pair]
    location: str | None

    @property
    @abstractmethod
    def pairs(self) -> list[Pair]:
        """The pairs that have a matching, in the order of the plan."""

    @property
    @abstractmethod
    def failures(self) -> dict[Pair, str]:
        """Pair -> why the pair has no matching."""

    @abstractmethod
    def has_matching(self, pair: Pair) -> bool:
        """Whether a pair has a matching."""

    @abstractmethod
    def matching(self, pair: Pair) -> Matching:
        """Return the matching of a pair.

        Raises:
            KeyError: if the pair has no matching.
            MatchError: if the file of the matching cannot be read.
        """

    @abstractmethod
    def arrays(self, pair: Pair) -> PairArrays:
        """Return what a matching says about each source feature, without making a `Matching` of it."""

    @abstractmethod
    def follow(self, pair: Pair, feature: int) -> FeaturePair:
        """Return the pair of one source feature."""

    def follow_back(self, pair: Pair, feature: int) -> FeaturePair:
        """Return the pair of one target feature, the cheapest if it is the partner of several source features."""
        perm, cost, cosine = self.arrays(pair)
        sources = np.nonzero(perm == feature)[0]
        if not len(sources):
            return FeaturePair(-1, feature, 0.0, None)
        source = int(sources[cost[sources].argmin()])
        known = None if cosine is None else finite_or_none(float(cosine[source]))
        return FeaturePair(source, feature, float(cost[source]), known)

    @abstractmethod
    def shape(self, pair: Pair) -> tuple[int, int]:
        """Return the numbers of features of the source and of the target, (F_A, F_B)."""

    @abstractmethod
    def scalars(self, pair: Pair) -> Scalars:
        """Return the numbers of a matching by name."""

    @abstractmethod
    def is_certified(self, pair: Pair) -> bool:
        """Whether the matching of a pair is certified."""

    @abstractmethod
    def pair_record(self, pair: Pair) -> PairRecord:
        """Return the record of a pair; empty for a run in memory."""

    @abstractmethod
    def input(self, layer: int, side: Side) -> InputRecord | None:
        """Return the record of the SAE of a layer; None if the run has no such record."""

    @abstractmethod
    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a pair. Raises `MatchError` if it cannot be written."""

    @abstractmethod
    def new_cache(self) -> MutableMapping[Pair, Matching]:
        """Return an empty cache, which keeps a matching as long as these results keep it in memory themselves."""

    @property
    def two_sets(self) -> bool:
        """Whether the record says that the targets are SAEs of a second set."""
        return self.record.get("against") is not None

    @property
    def complete(self) -> bool:
        """Whether every planned pair has a matching; False if no pair is planned."""
        return 0 < len(self.pairs) == len(self.planned) and not self.failures

    @property
    def certified(self) -> bool:
        """Whether every matching is certified; False if there is no matching."""
        return bool(self.pairs) and all(map(self.is_certified, self.pairs))


class RunInMemory(Results):
    """The results of a run without a folder, or matchings that a caller has put together."""

    def __init__(self, planned: Sequence[Pair], names: Names = LAYERS) -> None:
        self.record, self.location, self.names = {}, None, names
        self.planned = list(planned)
        self._matchings: dict[Pair, Matching] = {}
        self._failures: dict[Pair, str] = {}

    @classmethod
    def of(cls, matchings: Mapping[Pair, Matching], failures: Mapping[Pair, str]) -> RunInMemory:
        """Return the results that consist of these matchings and failures."""
        results = cls([*matchings, *(pair for pair in failures if pair not in matchings)])
        results._matchings, results._failures = dict(matchings), dict(failures)
        return results

    @property
    @override
    def pairs(self) -> list[Pair]:
        return [pair for pair in self.planned if pair in self._matchings]

    @property
    @override
    def failures(self) -> dict[Pair, str]:
        return self._failures

    @override
    def has_matching(self, pair: Pair) -> bool:
        return pair in self._matchings

    @override
    def matching(self, pair: Pair) -> Matching:
        return self._matchings[pair]

    @override
    def arrays(self, pair: Pair) -> PairArrays:
        return PairArrays.of(self._matchings[pair])

    @override
    def follow(self, pair: Pair, feature: int) -> FeaturePair:
        perm, cost, cosine = self.arrays(pair)
        known = None if cosine is None else finite_or_none(float(cosine[feature]))
        return FeaturePair(feature, int(perm[feature]), float(cost[feature]), known)

    @override
    def shape(self, pair: Pair) -> tuple[int, int]:
        return len(self._matchings[pair].perm), self._matchings[pair].target_features

    @override
    def scalars(self, pair: Pair) -> Scalars:
        return scalars(self._matchings[pair])

    @override
    def is_certified(self, pair: Pair) -> bool:
        return self._matchings[pair].certified

    @override
    def pair_record(self, pair: Pair) -> PairRecord:
        return {}

    @override
    def input(self, layer: int, side: Side) -> InputRecord | None:
        return None

    @override
    def add(self, outcome: Outcome) -> None:
        if outcome.matching is not None:
            self._matchings[outcome.pair] = outcome.matching
        elif "failure" in outcome.record:
            self._failures[outcome.pair] = outcome.record["failure"]

    @override
    def new_cache(self) -> MutableMapping[Pair, Matching]:
        return {}
