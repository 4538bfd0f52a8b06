"""The matching of one pair of SAEs as plain data: a permutation, its cost, and what is proved about it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saematch.assignment import Certificate
from saematch.errors import MatchError
from saematch.matching import files
from saematch.numeric.arrays import checked_last
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import UNIT_64
from saematch.options import Status

if TYPE_CHECKING:
    from saematch.matching.margins import MarginFinder, Margins

_ZEROS: Any = None  # the default of `prices`, whose size `__post_init__` knows


@dataclass(frozen=True, eq=False, repr=False)
class Matching:
    """Which target feature each source feature is, what that costs, and how near to the optimum it is proved to be.

    Attributes:
        perm: int64 `(F_A,)` on the CPU; `perm[i]` is the target feature of source feature `i`, -1 for none.
        pair_cost: float64 `(F_A,)`: what each pair costs, a squared distance unless costs were given; 0.0 without a
            partner.
        target_features: `F_B`.
        prices: float64 `(F_B,)`, the column prices of the proof; 0 where nothing was proved.
        unmatched_cost: what the proof has a source, and a target, pay to stay without a partner: half of `max_cost`,
            or, where there is none or no pair exceeds it, 0 on the larger side; inf for who must have a partner. It may
            be less than half of `max_cost` where that is enough to say the same: as many pairs as can be.
        random_cost: what as many pairs would cost if they were random, on average; NaN where that is not known.
        certificate: what is proved; None where nothing was.
        evaluation_error: bound on the relative rounding of `pair_cost`.
        status: `"optimal"` (certified); `"time_limit"` or `"round_limit"` (stopped early); `"suboptimal"` (somebody's,
            and proved to be `gap` above the optimum); `"many_to_one"` or `"incomplete"` (a baseline's, not what the
            optimum must be, so that its gap may be negative); `"unproved"` (composed, or beyond what rounding lets be
            proved).
        options: parts, weights and fold, as they were used.
        stats: what ran: backend, device, form and precision of the costs, rounds, edges, seconds in all and by stage.
        margin_finder: how `margins` makes the problem again; None for what came from a file or a pickle.
    """

    perm: Tensor
    pair_cost: Tensor
    _: KW_ONLY
    target_features: int
    prices: Tensor = _ZEROS
    unmatched_cost: tuple[float, float] = (math.inf, math.inf)
    random_cost: float = math.nan
    certificate: Certificate | None = None
    evaluation_error: float = 0.0
    status: Status = "unproved"
    options: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    margin_finder: MarginFinder | None = None

    def __post_init__(self) -> None:
        wrong = f"target_features is {self.target_features!r:.40}; give how many features the target has"
        count = checked_count(self.target_features, 0, wrong)
        prices = torch.zeros(count, dtype=torch.float64, device="cpu") if self.prices is _ZEROS else self.prices
        options, stats = dict(self.options), dict(self.stats)
        self.__dict__.update(target_features=count, prices=prices, options=options, stats=stats)

    @cached_property
    def cost(self) -> float:
        """Sum of `pair_cost`, correctly rounded."""
        return math.fsum(self.pair_cost.tolist())

    @property
    def unmatched_targets(self) -> Tensor:
        """int64: the target features that no source feature has as its partner, ascending."""
        taken = torch.zeros(self.target_features, dtype=torch.bool, device="cpu")
        taken[self.perm[self.perm >= 0]] = True
        return (~taken).nonzero()[:, 0]

    @property
    def objective(self) -> float:
        """What was minimised: `cost`, and under `max_cost` half of it for every feature without a partner."""
        if self.options.get("max_cost") is None:
            return self.cost
        unmatched = int((self.perm < 0).sum()) + len(self.unmatched_targets)
        return self.cost + float(self.options["max_cost"]) / 2 * unmatched

    @property
    def lower_bound(self) -> float:
        """No matching costs less: objective - gap - rounding_error, less what the sum of the objective itself may have
        been rounded up by; -inf where nothing was proved.
        """
        if self.certificate is None:
            return -math.inf
        size = self.objective - self.cost + math.fsum(self.pair_cost.abs().tolist())
        rounding = size * self.evaluation_error + 4 * UNIT_64 * abs(self.gap)  # of the objective, and of a large gap
        if rounding > 0:
            rounding += len(self.perm) * 2.0**-1050  # of squares that underflow
        bound = math.fsum([self.objective, -self.gap, -self.rounding_error, -rounding])
        return bound if rounding + self.gap + self.rounding_error == 0 else math.nextafter(bound, -math.inf)

    @property
    def gap(self) -> float:
        """Excess of the objective over what is proved of every matching; inf where nothing was proved."""
        return self.certificate.gap if self.certificate else math.inf

    @property
    def rounding_error(self) -> float:
        """Bound on the rounding of `gap`; `lower_bound` has it subtracted."""
        return self.certificate.rounding_error if self.certificate else 0.0

    @property
    def proof_gap(self) -> float:
        """`gap` + `rounding_error`, the most that the objective can be above the optimum; NaN for a baseline that is no
        matching as asked for, whose gap compares it with those that are.
        """
        return math.nan if self.status in ("many_to_one", "incomplete") else self.gap + self.rounding_error

    @property
    def gain(self) -> float:
        """What matching can gain at all: the objective of a random pairing, or of none at all if that is less, less
        `lower_bound`. 0 where nothing was proved.
        """
        return self.certificate.gain if self.certificate else 0.0

    @property
    def certified(self) -> bool:
        """Whether the matching is proved optimal.

        Then gap <= rounding_error; gap + rounding_error is at most 1e-9 of the gain, and of what the matching costs; no
        feature's share of the gap is more than rounding; and no feature's rounding is more than a millionth of what
        ordinary pairs differ by. Where gap and rounding_error are both 0, exact arithmetic finds no better matching.
        """
        return self.certificate is not None and self.certificate.certified

    def margins(self) -> Margins:
        """How firmly each feature is matched: what its cost may rise by before another matching wins, see `Margins`.

        Found when first asked for, in some passes over all pairs, from the inputs, which must not have changed. Raises
        `MatchError` where there is no proof, or for a matching that came from a file, a copy or an inverse.
        """
        return self._margins

    @cached_property
    def _margins(self) -> Margins:
        if not self.certified:
            raise MatchError(
                f"margins are those of an optimum, and this matching is not proved optimal ({self.status})"
            )
        if self.margin_finder is None:
            raise MatchError(
                "margins need the inputs: ask what match, assign, match_layers or certify returned, not a file's, a "
                "copy or an inverse; saematch.certify(a, b, matching) makes one of any"
            )
        return self.margin_finder.find(self)

    def carry(self, codes: Tensor) -> Tensor:
        """Codes `(…, F_A)` of the source as codes `(…, F_B)` of the target: `f_B[perm] = f_A`, 0 without a partner.

        Where a baseline gives many sources one target, their codes add up.
        """
        codes = checked_last(codes, len(self.perm), "codes")
        matched = self.perm >= 0
        carried = codes.new_zeros((*codes.shape[:-1], self.target_features))
        return carried.index_add_(-1, self.perm[matched].to(codes.device), codes[..., matched.to(codes.device)])

    def inverse(self) -> Matching:
        """The matching from target to source. What is proved of one is proved of the other: it is the same problem,
        transposed; the prices of a certified one come with it.

        Raises `MatchError` where many sources share a target.
        """
        matched = self.perm >= 0
        prices = _ZEROS
        if self.certified:
            prices = torch.full((len(self.perm),), self.unmatched_cost[0], dtype=torch.float64, device="cpu")
            prices[matched] = self.pair_cost[matched] - self.prices[self.perm[matched]]
        return Matching(
            self._inverse_perm(),
            self._inverse_pair_cost(),
            target_features=len(self.perm),
            prices=prices,
            unmatched_cost=self.unmatched_cost[::-1],
            random_cost=self.random_cost,
            certificate=self.certificate,
            evaluation_error=self.evaluation_error,
            status=self.status,
            options=self.options,
        )

    def _inverse_perm(self) -> Tensor:
        if self.status == "many_to_one":
            raise MatchError("many sources share a target here: there is no inverse")
        matched = self.perm >= 0
        perm = torch.full((self.target_features,), -1, dtype=torch.int64, device="cpu")
        perm[self.perm[matched]] = matched.nonzero()[:, 0]
        return perm

    def _inverse_pair_cost(self) -> Tensor:
        matched = self.perm >= 0
        pair_cost = torch.zeros(self.target_features, dtype=torch.float64, device="cpu")
        pair_cost[self.perm[matched]] = self.pair_cost[matched]
        return pair_cost

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.safetensors` file: `perm`, `pair_cost`, `prices`, and the numbers as JSON under the key "saematch".

        Equal answers are equal bytes. A file that is there is replaced in one step. Raises `MatchError`.
        """
        files.save_matching(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matching:
        """Read what `save` wrote. The numbers are the file's own; `saematch.certify` proves them again.

        Raises:
            MatchError: if the file is damaged, not a matching, or its parts do not fit each other.
        """
        return Matching(**files.read_matching(path))

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Matching], tuple[dict[str, Any]]]:
        """Pickle tensors as arrays: torch would send handles, which die with the process that made them."""
        values = {each.name: getattr(self, each.name) for each in fields(Matching)}
        arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()}
        return _unpickled, (arrays | {"margin_finder": None},)

    def __repr__(self) -> str:
        known = (
            f"cost={self.cost:.6g}, status={self.status!r}" if "cost" in self.__dict__ else f"status={self.status!r}"
        )
        return f"Matching({len(self.perm)} -> {self.target_features} features, {known})"


def _unpickled(values: dict[str, Any]) -> Matching:
    # Copied: what a store of shared objects hands out cannot be written.
    tensors = {
        name: torch.from_numpy(np.array(value)) for name, value in values.items() if isinstance(value, np.ndarray)
    }
    return Matching(**values | tensors)


class NotCertified(MatchError):
    """Raised under `strict=True` when the proof was not reached; `.matching` holds the best answer so far."""

    def __init__(self, message: str, matching: Matching) -> None:
        super().__init__(message)
        self.matching = matching

    def __reduce__(self) -> tuple[type[NotCertified], tuple[str, Matching]]:
        return NotCertified, (str(self), self.matching)
