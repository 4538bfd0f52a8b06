"""How SAEs are compared by their activations, and by their weights if these have a share of the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from typing_extensions import override

from saematch.activations import Codes, check_activity_metric
from saematch.activations.layers import LayerCodes, from_record
from saematch.errors import MatchError
from saematch.matching.by_codes import CodesProblem, bytes_of_entries, codes_of
from saematch.matching.comparison import Comparing, Comparison
from saematch.matching.problem import Problem, search_bytes
from saematch.numeric.numbers import checked_number
from saematch.numeric.rows import Rows
from saematch.options import ActivityMetric, Part, Side
from saematch.sae.autoencoder import SAE
from saematch.sae.features import folded_rows

_LEAST = 1e-6  # share of the weights, or of the activations, in a cost of both
_ACTIVE = 100  # features a token, and tokens, for estimates if they are not known
_TOKENS = 100_000


class CodedSAE(NamedTuple):
    """The codes of an SAE, its decoder rows for cosines, and its direction rows if weights have a share of the cost."""

    codes: Codes
    decoder: Rows
    weights: Rows | None

    @classmethod
    def of(cls, sae: SAE, codes: Codes, side: Side, weights: Comparison | None) -> CodedSAE:
        """Return what is compared of an SAE on one side of a pair, with `weights` if they have a share of the cost."""
        rows = None if weights is None else weights.features(sae, side).rows
        return cls(codes, folded_rows(sae, ["decoder"], fold="none"), rows)


def _problem_of(
    metric: ActivityMetric,
    max_cost: float | None,
    weights_share: float | None,
    x: CodedSAE,
    y: CodedSAE,
    remake: Callable[[], Problem] | None,
) -> CodesProblem:
    decoders = (x.decoder, y.decoder) if x.decoder.width == y.decoder.width else None
    weights = None
    if weights_share is not None and x.weights is not None and y.weights is not None:
        weights = x.weights, y.weights, weights_share
    return CodesProblem.checked(x.codes, y.codes, metric, max_cost, remake, decoders, weights)


def problem_of_activations(
    a: SAE,
    b: SAE,
    metric: ActivityMetric,
    activations: Any,
    max_cost: float | None,
    weights_share: float | None = None,
    weights: Comparison | None = None,
) -> CodesProblem:
    """Return the problem of two SAEs by their codes.

    Args:
        a: the source SAE.
        b: the target SAE.
        metric: the similarity.
        activations: what each SAE is given, on the same tokens; see `codes_of`.
        max_cost: see `match`.
        weights_share: the share of the weights in the cost; None if only activations count.
        weights: how the weights are compared, by their cosine.

    Raises:
        MatchError: unless the activations are those of both SAEs.
    """
    if not isinstance(activations, list | tuple) or len(activations) != 2:
        raise MatchError(
            f"metric {metric!r} needs activations= of the source and of the target: the hidden states (tokens, d) that "
            "each SAE reads on the same tokens, or codes; as arrays, or as .npy and .safetensors files"
        )
    if weights is not None:
        weights.check(a, b)
    given = zip((a, b), activations, Side, strict=True)
    x, y = (CodedSAE.of(sae, codes_of(sae, one), side, weights) for sae, one, side in given)

    def make() -> CodesProblem:
        return _problem_of(metric, max_cost, weights_share, x, y, make)

    return make()


@dataclass(frozen=True)
class ActivityComparison(Comparing[CodedSAE]):
    """How the SAEs of a run are compared by their activations. They may be of any width.

    Attributes:
        metric: the similarity.
        layers: the codes of the SAE of every layer.
        max_cost: the most expensive pair, or None, see `Problem`.
        parts: no parts of weights have a cost of their own.
        weights_share: the share of the weights in the cost; None if only activations count.
        weights: how the weights are compared, by their cosine.
    """

    metric: ActivityMetric
    layers: LayerCodes
    max_cost: float | None = None
    parts: tuple[Part, ...] = ()
    weights_share: float | None = None
    weights: Comparison | None = None

    @classmethod
    def from_record(cls, record: dict[str, Any], layers: Sequence[int]) -> ActivityComparison:
        """Return the comparison that a run has recorded. Raises `MatchError` if its activations have changed."""
        metric, codes = check_activity_metric(record["metric"]), from_record(record["activations"], layers)
        share = checked_share(record.get("weights_share"))
        weights = None if share is None else Comparison.checked(record["parts"], record["weights"], metric="cosine")
        return cls(metric, codes, record["max_cost"], weights_share=share, weights=weights)

    @override
    def check(self, a: SAE, b: SAE) -> None:
        if self.weights is not None:
            self.weights.check(a, b)

    @override
    def bytes_of_features(self, sae: SAE) -> int:
        """Estimate the memory that the codes of an SAE take, by token and by feature, with `_ACTIVE` for each token."""
        return 2 * 8 * (sae.k or _ACTIVE) * self._tokens + 4 * sae.F * sae.d

    @override
    def search_bytes(self, a: SAE, b: SAE) -> int:
        """Estimate the memory of the search, without that of the codes."""
        together = self._tokens * (a.k or _ACTIVE) * (b.k or _ACTIVE)
        return search_bytes(a.F + b.F) + bytes_of_entries(min(a.F * b.F, together))

    @property
    def _tokens(self) -> int:
        return int(self.layers.record().get("tokens", _TOKENS))

    @override
    def features(self, sae: SAE, side: Side, layer: int) -> CodedSAE:
        """Return the codes and the decoder rows of the SAE of a layer on one side of a pair."""
        return CodedSAE.of(sae, self.layers.codes(sae, layer, side), side, self.weights)

    @override
    def problem_of(self, x: CodedSAE, y: CodedSAE, remake: Callable[[], Problem] | None = None) -> CodesProblem:
        """Return the problem of the features of two SAEs."""
        return _problem_of(self.metric, self.max_cost, self.weights_share, x, y, remake)

    @override
    def record(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        record: dict[str, Any] = {"parts": [], "weights": {}, "fold": "none"}
        if self.weights is not None:
            record = {"parts": list(self.weights.parts), "weights": self.weights.weights, "fold": "none"}
            record |= {"weights_share": self.weights_share}
        return {**record, "max_cost": self.max_cost, "metric": self.metric, "activations": self.layers.record()}

    @override
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"metric": self.metric, "activations": self.layers, "max_cost": self.max_cost}
        if self.weights is not None:
            options |= {"parts": self.weights.parts, "weights": self.weights.weights}
            options |= {"weights_share": self.weights_share}
        return options


def checked_weighing(
    metric: ActivityMetric, share: Any, parts: Sequence[Part] | None, weights: Mapping[Part, float] | None, fold: object
) -> tuple[float | None, Comparison | None]:
    """Return the share of the weights in a cost, and how they are compared; None if only activations count.

    Raises:
        MatchError: for a share that is not between 0 and 1, and for options of weights without one.
    """
    share = checked_share(share)
    if fold is not None:
        raise MatchError(f"fold is about the scale of weights, and metric {metric!r} compares activations")
    if share is None and (parts is not None or weights is not None):
        raise MatchError(
            f"parts and weights are about weights, and metric {metric!r} compares activations: give the weights a "
            "share of the cost as well (weights_share=0.5)"
        )
    return share, None if share is None else Comparison.checked(parts, weights, metric="cosine")


def checked_share(share: Any) -> float | None:
    """Return the share of the weights in a cost, or None. Raises `MatchError` unless it is between 0 and 1."""
    if share is None:
        return None
    wrong = (
        f"weights_share is {share!r:.40}; give the share of the weights in the cost, from {_LEAST:g} to 1 - {_LEAST:g}"
    )
    return checked_number(share, _LEAST, 1 - _LEAST, f"{wrong}, or none")
