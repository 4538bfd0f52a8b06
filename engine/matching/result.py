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
from saematch.matching.frames import columns_of, import_pandas
from saematch.numeric.arrays import checked_last
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import UNIT_64
from saematch.options import Status
from saematch.text import html_table

if TYPE_CHECKING:
    from pandas import DataFrame

    from saematch.matching.margins import MarginFinder, Margins

_ZEROS: Any = None  # the default of `prices`, whose size `__post_init__` knows


@dataclass(frozen=True, eq=False, repr=False)
class Matching:
    """A matching of source features with target features, its cost, and the proof of how near it is to the optimum.

    `match`, `assign` and `certify` return matchings; they are not changed afterwards.

    Attributes:
        perm: int64 `(F_A,)` on the CPU: `perm[i]` is the target feature of source feature `i`, or -1 if `i` is
            unmatched.
        pair_cost: float64 `(F_A,)`: the cost of each pair, which is a squared distance unless costs were given; 0.0 for
            an unmatched feature.
        target_features: the number of target features, F_B.
        cosine: float64 `(F_A,)`: the cosine of the decoder rows of each pair; NaN for an unmatched feature. None if the
            cosines are not known: for rows or costs of your own, if decoder rows were not compared, for a composed
            matching, and for a file of an earlier version.
        prices: float64 `(F_B,)`: the prices of the target features, which prove the lower bound. They are 0 if nothing
            was proved.
        unmatched_cost: the cost of an unmatched source feature and of an unmatched target feature that the proof used.
            Usually both are `max_cost / 2`. If `max_cost` is not given, or plays no role, the cost is 0 on the larger
            side, and inf for features that must be matched. It is less than `max_cost / 2` if a smaller number gives
            the same optimum.
        random_cost: the average cost of as many random pairs as the matching has; NaN if it is not known.
        certificate: what is proved about the matching; None if nothing is. `gap`, `rounding_error`, `gain` and
            `certified` are read from it.
        evaluation_error: a bound on the relative rounding error of `pair_cost`.
        cost_error: a bound on the rounding error of each `pair_cost` beyond that, for costs by activations, which are
            computed from sums over many tokens. `gap`, `rounding_error` and `lower_bound` allow for it.
        status: how good the matching is:

            - `"optimal"`: it is proved to be optimal;
            - `"time_limit"`, `"round_limit"`: the search was stopped early;
            - `"suboptimal"`: it was given, or is a baseline, and is proved to be above the optimum, by `gap`;
            - `"many_to_one"`, `"incomplete"`: it is a baseline that is not a matching as asked for. Its gap may be
              negative, because it may cost less than every such matching;
            - `"unproved"`: it is composed of other matchings, or rounding is too large for a proof.
        options: the parts, weights, fold and `max_cost` that were used, and the metric if it is a cosine.
        stats: how the matching was computed:

            - `"backend"`, `"device"`: what ran the passes;
            - `"precision"`: "int8" or "float32", the numbers in which passes multiplied rows; or "float64", if the
              costs of all pairs were computed in float64;
            - `"largest_residual"`: how much of a row the numbers of a pass left out at most, relative to its norm;
            - `"exact_pairs"`: the number of pairs whose costs were computed in float64;
            - `"products"`: the number of pairs whose products passes made, relative to the number of all pairs;
            - `"without_direction"`: under a cosine, the numbers of source and target features of which some part is 0;
            - `"rounds"`, `"edges"`: the number of rounds, and of candidate pairs;
            - `"seconds"`, `"stages"`: the time, in total and by stage.
        margin_finder: how `margins` makes the problem again; None for a matching from a file or a pickle.

    Examples:
        >>> import saematch as sm
        >>> m = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]])
        >>> m
        Matching(2 -> 3 features, status='optimal')
        >>> m.perm, m.cost, m.unmatched_targets
        (tensor([1, 0]), 3.0, tensor([2]))
        >>> m.certified, round(m.lower_bound, 9)
        (True, 3.0)

        What each feature's margin is, and where the matching is stored:

        >>> m.margins().exact([0, 1]).round(decimals=9)
        tensor([8., 7.], dtype=torch.float64)
        >>> m.save("m.safetensors")
        >>> sm.Matching.load("m.safetensors").status
        'optimal'
    """

    perm: Tensor
    pair_cost: Tensor
    _: KW_ONLY
    target_features: int
    cosine: Tensor | None = None
    prices: Tensor = _ZEROS
    unmatched_cost: tuple[float, float] = (math.inf, math.inf)
    random_cost: float = math.nan
    certificate: Certificate | None = None
    evaluation_error: float = 0.0
    cost_error: float = 0.0
    status: Status = "unproved"
    options: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    margin_finder: MarginFinder | None = None  # opaque to users

    def __post_init__(self) -> None:
        wrong = f"target_features is {self.target_features!r:.40}; give how many features the target has"
        count = checked_count(self.target_features, 0, wrong)
        prices = torch.zeros(count, dtype=torch.float64, device="cpu") if self.prices is _ZEROS else self.prices
        options, stats = dict(self.options), dict(self.stats)
        self.__dict__.update(target_features=count, prices=prices, options=options, stats=stats)

    @cached_property
    def cost(self) -> float:
        """The sum of `pair_cost`, correctly rounded."""
        return math.fsum(self.pair_cost.tolist())

    @property
    def matched(self) -> int:
        """The number of source features that have a partner."""
        return int((self.perm >= 0).sum())

    @property
    def unmatched_targets(self) -> Tensor:
        """int64: the target features that are unmatched, in ascending order."""
        taken = torch.zeros(self.target_features, dtype=torch.bool, device="cpu")
        taken[self.perm[self.perm >= 0]] = True
        return (~taken).nonzero()[:, 0]

    @property
    def objective(self) -> float:
        """The minimised number: `cost`, plus `max_cost / 2` for each unmatched feature if `max_cost` is given."""
        if self.options.get("max_cost") is None:
            return self.cost
        unmatched = int((self.perm < 0).sum()) + len(self.unmatched_targets)
        return self.cost + float(self.options["max_cost"]) / 2 * unmatched

    @property
    def lower_bound(self) -> float:
        """A proved lower bound on the objective of every matching; -inf if nothing was proved.

        It is `objective - gap - rounding_error`, minus the rounding error of the objective itself.
        """
        if self.certificate is None:
            return -math.inf
        # The objective is rounded relative to the size of its terms, and so is a large gap.
        size = self.objective - self.cost + math.fsum(self.pair_cost.abs().tolist())
        rounding = size * self.evaluation_error + 4 * UNIT_64 * abs(self.gap)
        if size > 0:
            rounding += len(self.perm) * 2.0**-1050  # squares that underflow
        rounding += self.matched * self.cost_error
        # Rounded down, unless everything was exact.
        bound = math.fsum([self.objective, -self.gap, -self.rounding_error, -rounding])
        return bound if rounding + self.gap + self.rounding_error == 0 else math.nextafter(bound, -math.inf)

    @property
    def gap(self) -> float:
        """The objective minus the lower bound that the prices prove for every matching; inf if nothing was proved."""
        return self.certificate.gap if self.certificate else math.inf

    @property
    def rounding_error(self) -> float:
        """A bound on the rounding error of `gap`. `lower_bound` allows for it."""
        return self.certificate.rounding_error if self.certificate else 0.0

    @property
    def proof_gap(self) -> float:
        """The most that the objective can be above the optimum: `gap + rounding_error`.

        It is NaN for a baseline that is not a matching as asked for. The gap of such a baseline compares it with
        matchings of another kind.
        """
        return math.nan if self.status in ("many_to_one", "incomplete") else self.gap + self.rounding_error

    @property
    def gain(self) -> float:
        """The most that matching can gain; 0 if nothing was proved.

        It is the objective of a random pairing, or of leaving all features unmatched if that is less, minus the lower
        bound. Gaps are measured against it.
        """
        return self.certificate.gain if self.certificate else 0.0

    @property
    def certified(self) -> bool:
        """Whether the matching is proved to be optimal.

        It is true if

        - `gap <= rounding_error`;
        - the share of each feature in the gap is at most a few roundings (four times its own error, or 1e-9 of the
          typical difference between two costs);
        - the rounding of each feature's share is at most 1e-6 of the typical difference between two costs;
        - `gap + rounding_error` is at most 1e-9 of the gain, and of what the matching costs.

        If `gap` and `rounding_error` are both 0, exact arithmetic finds no better matching, and the other conditions
        are not needed.
        """
        return self.certificate is not None and self.certificate.certified

    def margins(self) -> Margins:
        """Return the margins: how much the cost of each feature's pair may rise before another matching is cheaper.

        The first call makes some passes over all pairs of the inputs, which must not have changed since they were
        matched. Later calls return the same object.

        Raises:
            MatchError: if the matching is not certified; if it is from a file or a pickle, a copy, or the inverse of
                another; or if the inputs have changed.

        Examples:
            >>> import saematch as sm
            >>> m = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]])
            >>> margins = m.margins()
            >>> margins.bound.round(decimals=9)  # the margins are at least
            tensor([8., 7.], dtype=torch.float64)
            >>> margins.is_exact.all(), margins.tied.any()
            (tensor(True), tensor(False))
            >>> margins.lowest(1)  # the feature whose pair is most easily replaced
            tensor([1])
        """
        return self._margins

    @cached_property
    def _margins(self) -> Margins:
        if not self.certified:
            raise MatchError(
                f"only an optimum has margins, and this matching is not proved optimal (its status is {self.status})"
            )
        if self.margin_finder is None:
            raise MatchError(
                "margins need the inputs, and this matching is from a file, or is a copy or an inverse; "
                "saematch.certify(a, b, matching).margins(), with the options of the matching, computes them"
            )
        return self.margin_finder.find(self)

    def carry(self, codes: Tensor) -> Tensor:
        """Return codes of the source SAE as codes of the target SAE: `codes_B[perm] = codes_A` for
        matched features, and 0 for unmatched targets.

        If a baseline matches many source features with one target feature, their codes are added up.

        Args:
            codes: `(…, F_A)`, of any number type and on any device.

        Returns:
            A tensor `(…, F_B)` of the same number type and device.

        Raises:
            MatchError: if `codes` is not a real tensor of that shape.

        Examples:
            >>> import torch, saematch as sm
            >>> m = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]])
            >>> m.carry(torch.tensor([[10.0, 20.0]]))
            tensor([[20., 10.,  0.]])
        """
        codes = checked_last(codes, len(self.perm), "codes")
        matched = self.perm >= 0
        carried = codes.new_zeros((*codes.shape[:-1], self.target_features))
        return carried.index_add_(-1, self.perm[matched].to(codes.device), codes[..., matched.to(codes.device)])

    def inverse(self) -> Matching:
        """Return the matching from target to source.

        It has the same certificate, since it is the solution of the same problem, transposed. The inverse of a
        certified matching has prices, too.

        Raises:
            MatchError: if many source features share a target feature.

        Examples:
            >>> import saematch as sm
            >>> m = sm.assign(cost=[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]])
            >>> back = m.inverse()
            >>> back.perm, back.pair_cost, back.certified
            (tensor([ 1,  0, -1]), tensor([2., 1., 0.], dtype=torch.float64), True)
        """
        matched = self.perm >= 0
        # The prices of the source features are their potentials, C_ij - v_j, or the unmatched cost of an unmatched one.
        prices = _ZEROS
        if self.certified:
            prices = torch.full((len(self.perm),), self.unmatched_cost[0], dtype=torch.float64, device="cpu")
            prices[matched] = self.pair_cost[matched] - self.prices[self.perm[matched]]
        return Matching(
            self._inverse_perm(),
            self._inverse_pair_cost(),
            target_features=len(self.perm),
            cosine=None if self.cosine is None else self._inverted(self.cosine, math.nan),
            prices=prices,
            unmatched_cost=self.unmatched_cost[::-1],
            random_cost=self.random_cost,
            certificate=self.certificate,
            evaluation_error=self.evaluation_error,
            cost_error=self.cost_error,
            status=self.status,
            options=self.options,
        )

    def _inverse_perm(self) -> Tensor:
        if self.status == "many_to_one":
            raise MatchError("this matching has no inverse: many source features share a target feature")
        matched = self.perm >= 0
        perm = torch.full((self.target_features,), -1, dtype=torch.int64, device="cpu")
        perm[self.perm[matched]] = matched.nonzero()[:, 0]
        return perm

    def _inverse_pair_cost(self) -> Tensor:
        return self._inverted(self.pair_cost, 0.0)

    def _inverted(self, values: Tensor, unmatched: float) -> Tensor:
        """Return the values of source features by target feature."""
        matched = self.perm >= 0
        inverted = torch.full((self.target_features,), unmatched, dtype=torch.float64, device="cpu")
        inverted[self.perm[matched]] = values[matched]
        return inverted

    def to_pandas(self) -> DataFrame:
        """Return the matching as a pandas `DataFrame` with one row per source feature.

        The columns are `feature`, `partner`, `cost` and `cosine`. What is not known is missing: the partner of an
        unmatched feature, its cost and cosine, and all cosines if there are none.

        Raises:
            MatchError: if pandas is not installed.
        """
        pandas = import_pandas()
        cosine = None if self.cosine is None else self.cosine.numpy()
        columns = columns_of(self.perm.numpy(), self.pair_cost.numpy(), cosine)
        frame: DataFrame = pandas.DataFrame(columns).astype({"partner": "Int64"})
        return frame

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matching to a `.safetensors` file.

        The file holds the tensors `perm`, `pair_cost`, `prices` and, if it is known, `cosine`, and all numbers as JSON
        under the key "saematch" of its metadata. Equal matchings give equal bytes. An existing file is replaced in one
        step.

        Raises:
            MatchError: if the file cannot be written.

        Examples:
            >>> import saematch as sm
            >>> sm.assign(cost=[[5.0, 1.0], [2.0, 6.0]]).save("m.safetensors")
            >>> sm.Matching.load("m.safetensors").perm
            tensor([1, 0])
        """
        files.save_matching(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matching:
        """Read a matching from a file that `save` wrote, or from the folder `pairs` of a run.

        The numbers are those of the file: `saematch.certify` proves them again.

        Raises:
            MatchError: if the file is damaged, is not a matching, or its parts do not fit each other.

        Examples:
            >>> import saematch as sm
            >>> sm.assign(cost=[[5.0, 1.0], [2.0, 6.0]]).save("m.safetensors")
            >>> m = sm.Matching.load("m.safetensors")
            >>> m.certified, m.cost
            (True, 3.0)
        """
        values = files.read_matching(path)
        proved = values.pop("certificate")
        return _of_arrays(values | {"certificate": None if proved is None else Certificate(*proved)})

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Matching], tuple[dict[str, Any]]]:
        """Pickle tensors as arrays. Torch would send handles, which are lost with the process that made them."""
        values = {one.name: getattr(self, one.name) for one in fields(Matching)}
        arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in values.items()}
        return _of_arrays, (arrays | {"margin_finder": None},)

    def __repr__(self) -> str:
        cost = f"cost={self.cost:.6g}, " if "cost" in self.__dict__ else ""  # a composed one may need SAEs for it
        matched = "" if self.matched == len(self.perm) else f"{self.matched} matched, "
        return f"Matching({len(self.perm)} -> {self.target_features} features, {matched}{cost}status={self.status!r})"

    def _repr_html_(self) -> str:
        cost, proof_gap = ("-", "-") if self.certificate is None else (f"{self.cost:,.6g}", f"{self.proof_gap:.1e}")
        cosine = "-" if self.cosine is None else f"{self.cosine.nanmean():.3f}"
        head = ["matched", "cost", "mean cosine", "proof gap", "certified"]
        return html_table(repr(self), head, [[self.matched, cost, cosine, proof_gap, self.certified]])


def _of_arrays(values: dict[str, Any]) -> Matching:
    # The arrays are copied, because a file or a store of shared objects may return arrays that cannot be written.
    tensors = {
        name: torch.from_numpy(np.array(value)) for name, value in values.items() if isinstance(value, np.ndarray)
    }
    return Matching(**values | tensors)


class NotCertified(MatchError):
    """The error that is raised under `strict=True` if a matching is not proved to be optimal.

    Attributes:
        matching: the best matching so far, with what is proved about it.

    Examples:
        >>> import saematch as sm
        >>> try:
        ...     sm.certify(cost=[[5.0, 1.0], [2.0, 6.0]], perm=[0, 1], strict=True)
        ... except sm.NotCertified as error:
        ...     print(error.matching.status, error.matching.gap)
        suboptimal 8.0
    """

    def __init__(self, message: str, matching: Matching) -> None:
        super().__init__(message)
        self.matching = matching

    def __reduce__(self) -> tuple[type[NotCertified], tuple[str, Matching]]:
        return NotCertified, (str(self), self.matching)
