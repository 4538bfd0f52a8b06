"""The answer for one pair of SAEs: a permutation, its cost and its proof, in memory and on disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saematch.assignment import Certificate, Margins
from saematch.errors import MatchError, refusals
from saematch.numeric.arrays import checked_last, dense_array
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import UNIT_64
from saematch.options import Status
from saematch.storage.folders import local_path, write_whole
from saematch.storage.jsonfile import finite_or_none
from saematch.storage.reading import refuse_pointer_at

SCHEMA = 1
_NOT_OURS = "not a matching that saematch wrote"
_DAMAGED = (
    OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError,
)  # fmt: skip
SCALARS = (
    "cost", "objective", "lower_bound", "gap", "error", "proof_gap", "scale", "random_cost", "certified", "status",
)  # fmt: skip


class Matching:
    """Which target feature each source feature is, what that costs, and how near to the optimum it is proved to be.

    Attributes:
        perm: int64 `(F_A,)` on the CPU; `perm[i]` is the target feature of source feature `i`, -1 for none.
        target_features: `F_B`.
        prices: float64 `(F_B,)`, the column prices of the proof; 0 where nothing was proved.
        staying_free: what the proof has a source, and a target, pay to stay without a partner: half of `max_cost`, or,
            where there is none or no pair exceeds it, 0 on the larger side; inf for who must have a partner. It may be
            less than half of `max_cost` where that is enough to say the same: as many pairs as can be.
        random_cost: what as many pairs would cost if they were random, on average; NaN where that is not known.
        status: `"optimal"` (certified); `"time_limit"` or `"round_limit"` (stopped early); `"suboptimal"` (somebody's,
            and proved to be `gap` above the optimum); `"many_to_one"` or `"incomplete"` (a baseline's, not what the
            optimum must be, so that its gap may be negative); `"unproved"` (composed, or beyond what rounding lets be
            proved).
        options: parts, weights and fold, as they were used.
        stats: what ran: backend, device, form and precision of the costs, rounds, edges, seconds in all and by stage.
    """

    def __init__(
        self,
        perm: Tensor,
        pair_cost: Tensor | Callable[[], Tensor],
        *,
        target_features: int,
        prices: Tensor | None = None,
        staying_free: tuple[float, float] = (math.inf, math.inf),
        random_cost: float = math.nan,
        certificate: Certificate | None = None,
        evaluation_error: float = 0.0,
        status: Status = "unproved",
        options: Mapping[str, Any] | None = None,
        stats: Mapping[str, Any] | None = None,
        margins: Callable[[Matching], Margins] | None = None,
    ) -> None:
        self.perm = perm
        wrong = f"target_features is {target_features!r:.40}; give how many features the target has"
        self.target_features = checked_count(target_features, 0, wrong)
        nothing = torch.zeros(self.target_features, dtype=torch.float64, device="cpu")
        self.prices = nothing if prices is None else prices
        self.staying_free = staying_free
        self.random_cost = random_cost
        self.status = status
        self.options = dict(options or {})
        self.stats = dict(stats or {})
        self._certificate = certificate
        self._evaluation_error = evaluation_error
        self._measure = pair_cost
        self._find_margins = margins

    @cached_property
    def pair_cost(self) -> Tensor:
        """float64 `(F_A,)`: what each pair costs, a squared distance unless costs were given; 0.0 without a partner."""
        return self._measure() if callable(self._measure) else self._measure

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
        alone = int((self.perm < 0).sum()) + len(self.unmatched_targets)
        return self.cost + float(self.options["max_cost"]) / 2 * alone

    @property
    def lower_bound(self) -> float:
        """No matching costs less: objective - gap - error, less what the sum of the objective itself may have been
        rounded up by; -inf where nothing was proved.
        """
        if self._certificate is None:
            return -math.inf
        size = self.objective - self.cost + math.fsum(self.pair_cost.abs().tolist())
        rounding = size * self._evaluation_error + 4 * UNIT_64 * abs(self.gap)  # of the objective, and of a large gap
        if rounding > 0:
            rounding += len(self.perm) * 2.0**-1050  # of squares that underflow
        bound = math.fsum([self.objective, -self.gap, -self.error, -rounding])
        return bound if rounding + self.gap + self.error == 0 else math.nextafter(bound, -math.inf)

    @property
    def gap(self) -> float:
        """Excess of the objective over what is proved of every matching; inf where nothing was proved."""
        return self._certificate.gap if self._certificate else math.inf

    @property
    def error(self) -> float:
        """Bound on the rounding of `gap`; `lower_bound` has it subtracted."""
        return self._certificate.error if self._certificate else 0.0

    @property
    def proof_gap(self) -> float:
        """`gap` + `error`, the most that the objective can be above the optimum; NaN for a baseline that is no matching
        as asked for, whose gap compares it with those that are.
        """
        return math.nan if self.status in ("many_to_one", "incomplete") else self.gap + self.error

    @property
    def scale(self) -> float:
        """What matching can gain at all: the objective of a random pairing, or of none at all if that is less, less
        `lower_bound`. 0 where nothing was proved.
        """
        return self._certificate.scale if self._certificate else 0.0

    @property
    def certified(self) -> bool:
        """Whether the matching is proved optimal.

        Then gap <= error; gap + error is at most 1e-9 of the scale, and of what the matching costs; no feature's share
        of the gap is more than rounding; and no feature's rounding is more than a millionth of what ordinary pairs
        differ by. Where gap and error are both 0, exact arithmetic finds no better matching.
        """
        return self._certificate is not None and self._certificate.certified

    @cached_property
    def _margins(self) -> Margins:
        if not self.certified:
            raise MatchError(
                f"margins are those of an optimum, and this matching is not proved optimal ({self.status})"
            )
        if self._find_margins is None:
            raise MatchError(
                "margins need the inputs: ask what match, assign, match_layers or certify returned, not a file's, a "
                "copy or an inverse; saematch.certify(a, b, matching) makes one of any"
            )
        return self._find_margins(self)

    @property
    def margin(self) -> Tensor:
        """float64 `(F_A,)`: proved lower bounds for what each feature's cost may rise by before another matching wins.

        For a feature without a partner it is what staying so may rise by. Found when first asked for, in some passes
        over all pairs, from the inputs, which must not have changed. Raises `MatchError` where there is no proof.
        """
        return torch.from_numpy(self._margins.bound)

    @property
    def tied(self) -> Tensor:
        """Bool `(F_A,)`: the features that could have another partner at the same cost, within rounding."""
        return torch.from_numpy(self._margins.tied)

    def exact_margin(self, features: Sequence[int] | Tensor) -> Tensor:
        """float64: the margins themselves of source features, listed or masked; a search each. Raises `MatchError`.

        Where pairs are forbidden, one that only a matching of fewer pairs could replace is given as at least.
        """
        given = dense_array(features, "features", "the indices of features, or a mask of all source features")
        if given.dtype == bool and given.shape == (len(self.perm),):
            given = given.nonzero()[0]
        if given.dtype.kind not in "iu" and given.size:
            raise MatchError(f"features are {given.dtype}; give their indices, or a mask of all source features")
        indices = given.ravel().astype(np.int64)
        outside = indices[(indices < 0) | (indices >= len(self.perm))]
        if len(outside):
            raise MatchError(f"feature {outside[0]} is not among the {len(self.perm)} source features")
        return torch.from_numpy(self._margins.exact(indices))

    def carry(self, codes: Tensor) -> Tensor:
        """Codes `(…, F_A)` of the source as codes `(…, F_B)` of the target: `f_B[perm] = f_A`, 0 without a partner.

        Where a baseline gives many sources one target, their codes add up.
        """
        codes = checked_last(codes, len(self.perm), "codes")
        kept = self.perm >= 0
        moved = codes.new_zeros((*codes.shape[:-1], self.target_features))
        return moved.index_add_(-1, self.perm[kept].to(codes.device), codes[..., kept.to(codes.device)])

    def inverse(self) -> Matching:
        """The matching from target to source. What is proved of one is proved of the other: it is the same problem,
        transposed; the prices of a certified one come with it.

        Raises `MatchError` where many sources share a target.
        """
        if self.status == "many_to_one":
            raise MatchError("many sources share a target here: there is no inverse")
        kept = self.perm >= 0
        perm = torch.full((self.target_features,), -1, dtype=torch.int64, device="cpu")
        perm[self.perm[kept]] = kept.nonzero()[:, 0]

        def pair_cost() -> Tensor:
            cost = torch.zeros(self.target_features, dtype=torch.float64, device="cpu")
            cost[self.perm[kept]] = self.pair_cost[kept]
            return cost

        prices = None
        if self.certified:
            prices = torch.full((len(self.perm),), self.staying_free[0], dtype=torch.float64, device="cpu")
            prices[kept] = self.pair_cost[kept] - self.prices[self.perm[kept]]
        return Matching(
            perm,
            pair_cost,
            target_features=len(self.perm),
            prices=prices,
            staying_free=self.staying_free[::-1],
            random_cost=self.random_cost,
            certificate=self._certificate,
            evaluation_error=self._evaluation_error,
            status=self.status,
            options=self.options,
        )

    def scalars(self) -> dict[str, Any]:
        """The numbers of the answer by name, ready for JSON: None for those that are not finite."""
        found = {name: getattr(self, name) for name in SCALARS}
        return {name: finite_or_none(value) for name, value in found.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.safetensors` file: `perm`, `pair_cost`, `prices`, and the numbers as JSON under the key "saematch".

        Equal answers are equal bytes. A file that is there is replaced in one step. Raises `MatchError`.
        """
        write_whole(local_path(path), self.as_bytes())

    def as_bytes(self) -> bytes:
        """The content of such a file."""
        tensors = {"perm": self.perm, "pair_cost": self.pair_cost, "prices": self.prices}
        record = {"schema": SCHEMA, "target_features": self.target_features, **self.scalars(), "options": self.options}
        record |= {
            "evaluation_error": self._evaluation_error,
            "staying_free": [finite_or_none(cost) for cost in self.staying_free],
        }
        metadata = {"saematch": json.dumps(record, allow_nan=False)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)

    def with_margins(self, find: Callable[[Matching], Margins]) -> Matching:
        """The same matching with a way to find its margins, if it has none."""
        if self._find_margins is None:
            self._find_margins = find
        return self

    def find_margins(self) -> Margins:
        """The margins of all features, found once. Raises `MatchError` where there is no proof, or no way to them."""
        return self._margins

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matching:
        """Read what `save` wrote. The numbers are the file's own; `saematch.certify` proves them again.

        Raises:
            MatchError: if the file is damaged, not a matching, or its parts do not fit each other.
        """
        path = local_path(path)
        refuse_pointer_at(path)
        with refusals(_NOT_OURS, path, *_DAMAGED):
            with safe_open(path, framework="pt", device="cpu") as file:
                record = json.loads((file.metadata() or {})["saematch"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if record["schema"] != SCHEMA:
                raise MatchError(f"{path}: schema {record['schema']}, this version reads {SCHEMA}")
            perm = check_permutation(
                tensors["perm"], len(tensors["perm"]), record["target_features"], record["status"] == "many_to_one"
            )
            proved = record["gap"] is not None
            gap, error, scale, evaluation = (
                float(record[name]) if proved else 0.0 for name in ("gap", "error", "scale", "evaluation_error")
            )
            random_cost = math.nan if record["random_cost"] is None else float(record["random_cost"])
            row, column = (math.inf if cost is None else float(cost) for cost in record["staying_free"])
            pair_cost, prices = tensors["pair_cost"].double(), tensors["prices"].double()
            if pair_cost.shape != perm.shape or prices.shape != (record["target_features"],):
                raise MatchError(f"{path}: pair_cost or prices do not have the size of perm")
            finite = bool(pair_cost.isfinite().all() and prices.isfinite().all())
            if not finite or not math.isfinite(gap + error + scale + evaluation):
                raise MatchError(f"{path}: holds costs or prices that are NaN or infinite")
            return cls(
                perm,
                pair_cost,
                target_features=record["target_features"],
                prices=prices,
                staying_free=(row, column),
                random_cost=random_cost,
                certificate=Certificate(gap, error, scale, record["certified"] is True) if proved else None,
                evaluation_error=evaluation,
                status=cast(Status, str(record["status"])),
                options=dict(record["options"]),
            )

    def __getstate__(self) -> dict[str, Any]:
        """As arrays: torch would send tensors by handles, which die with the process that made them."""
        state = {**self.__dict__, "_measure": self.pair_cost.numpy(), "_find_margins": None}
        for name in ("_margins", "pair_cost"):
            state.pop(name, None)
        return state | {"perm": self.perm.numpy(), "prices": self.prices.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copied: what a store of shared objects hands out cannot be written.
        tensors = {name: torch.from_numpy(np.array(state[name])) for name in ("perm", "prices", "_measure")}
        self.__dict__.update(state | tensors)

    def __repr__(self) -> str:
        known = (
            f"cost={self.cost:.6g}, status={self.status!r}" if "cost" in self.__dict__ else f"status={self.status!r}"
        )
        return f"Matching({len(self.perm)} -> {self.target_features} features, {known})"


class NotCertified(MatchError):
    """Raised under `strict=True` when the proof was not reached; `.matching` holds the best answer so far."""

    def __init__(self, message: str, matching: Matching) -> None:
        super().__init__(message)
        self.matching = matching

    def __reduce__(self) -> tuple[type[NotCertified], tuple[str, Matching]]:
        return NotCertified, (str(self), self.matching)


def check_permutation(perm: Any, source_features: int, target_features: int, many_to_one: bool = False) -> Tensor:
    """`perm` as int64 `(F_A,)` on the CPU, -1 allowed. Raises `MatchError` if it is no map, one-to-one unless said."""
    if isinstance(perm, Matching):
        perm = perm.perm
    array = dense_array(perm, "perm", "a list of indices")
    if array.shape != (source_features,):
        raise MatchError(f"perm has shape {array.shape}, expected one target a source feature, ({source_features},)")
    if array.dtype.kind not in "iu":
        raise MatchError(f"perm holds {array.dtype}, expected integers")
    outside = np.nonzero((array < -1) | (array >= target_features))[0]
    if len(outside):
        i = outside[0]
        raise MatchError(f"perm[{i}] is {array[i]}, outside -1 to {target_features - 1}: perm is no permutation")
    array = array.astype(np.int64)
    targets, first = np.unique(array, return_index=True)
    if not many_to_one and len(targets[targets >= 0]) < (array >= 0).sum():
        i = np.setdiff1d(np.nonzero(array >= 0)[0], first)[0]
        raise MatchError(f"perm[{i}] is {array[i]}, which is taken already: perm is no permutation")
    return torch.from_numpy(array)


def check_matching(path: Path) -> None:
    """Raise `MatchError` unless the file is whole, and holds the tensors of a matching: its header says so."""
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, OSError, SafetensorError), safe_open(path, framework="pt", device="cpu") as file:
        missing = {"perm", "pair_cost", "prices"} - set(file.keys())
    if missing:
        raise MatchError(f"{path}: {_NOT_OURS}: no {', '.join(sorted(missing))}")


def read_pair(path: Path, feature: int) -> tuple[int, float]:
    """The target of one source feature, -1 for none, and their cost, from what `Matching.save` wrote: no more is read.

    Raises `MatchError` if the file is damaged.
    """
    refuse_pointer_at(path)
    with refusals(_NOT_OURS, path, OSError, SafetensorError, TypeError, ValueError, RuntimeError):
        # Safetensors makes slices on the default device of the host program.
        with torch.device("cpu"), safe_open(path, framework="pt", device="cpu") as file:
            target, cost = (file.get_slice(name)[feature : feature + 1] for name in ("perm", "pair_cost"))
        return int(target.item()), float(cost.item())


def read_permutation(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """A permutation from anybody's file, unchecked, and the options recorded with it, if any.

    `.npy` holds the array itself, `.safetensors` holds it as `perm`. Raises `MatchError`.
    """
    path = local_path(path)
    refuse_pointer_at(path)
    kinds = (OSError, SafetensorError, ValueError, TypeError, AttributeError, EOFError, RecursionError)
    with refusals("no permutation can be read", path, *kinds, remedy="expected .npy, or .safetensors with perm"):
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False), {}
        with safe_open(path, framework="pt", device="cpu") as file:
            record = json.loads((file.metadata() or {}).get("saematch", "{}"))
            return file.get_tensor("perm"), dict(record.get("options", {}))
