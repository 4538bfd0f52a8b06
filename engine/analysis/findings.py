"""What is known of every feature of a matched pair: its partner, the cost of the step by part, how alike, how firm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saematch.cost import squared_distances
from saematch.errors import MatchError
from saematch.matching.backend import choose_backend, free_memory
from saematch.matching.problem import RowProblem
from saematch.numeric.rounding import Floats, Indices, Rows
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

COLUMNS = {
    "partner": "the feature of the target layer that it is matched with, -1 for none",
    "cost": "of the pair: squared distance of the folded rows, 0 without a partner",
    "encoder": "what the encoder columns add to the cost",
    "bias": "what the encoder biases add to the cost",
    "decoder": "what the decoder rows add to the cost",
    "cosine": "of the two decoder rows",
    "margin": "what the feature's cost may at least rise by before another matching wins; proved",
    "tied": "1 where it could have another partner at the same cost, within rounding",
    "runner_up": "the cheapest feature of the target layer that is not its partner",
    "runner_up_cost": "what it would cost with that one",
}
FIRM = ("margin", "tied", "runner_up", "runner_up_cost")
SAME = (0.5, 0.7, 0.9)  # decoder cosines from which on a partner counts as the same feature
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Side:
    """One layer, as the pairs that it is in need it."""

    sae: SAE
    rows: Rows

    @cached_property
    def decoder(self) -> Floats:
        """Decoder rows, `(F, d)`."""
        rows: Floats = self.sae.W_dec.detach().double().cpu().numpy()
        return rows


class Findings:
    """The findings of a run, one pair after the other.

    Partner and cost are always known. The cost by part and the cosine need the SAEs, where the run found them or as
    they are given to the chain; margins and runners-up need `firm`, which is some passes over all pairs of features.
    """

    def __init__(self, chain: Chain, firm: bool = False) -> None:
        self.chain, self.firm = chain, firm
        self._held: dict[tuple[int, int], Side] = {}
        self.gone: str | None = None  # why the SAEs are not there

    def of(self, pair: Pair) -> Columns:
        """The columns of a pair that are known, `(F_A,)` each. Raises `MatchError` if it has no matching."""
        matching = self.chain[pair]
        perm: Indices = matching.perm.numpy()
        found: Columns = {"partner": perm, "cost": matching.pair_cost.numpy()}
        sides = self.sides(pair)
        if sides is None:
            return found
        a, b = sides
        for part, of in self._parts(a.sae.d):
            x, y = (np.ascontiguousarray(side.rows[:, of]) for side in (a, b))
            found[part] = squared_distances(x, y, perm)
        found["cosine"] = row_cosines(a.decoder, b.decoder, perm)
        if self.firm and matching.certified:
            found |= {"margin": matching.margin.numpy(), "tied": matching.tied.numpy(), **_runners_up(a, b, perm)}
        return found

    def sae(self, side: int, layer: int) -> SAE | None:
        """The SAE of a layer, if it is there."""
        held = self._side(side, layer)
        return None if held is None else held.sae

    def sides(self, pair: Pair) -> tuple[Side, Side] | None:
        """Both SAEs of a pair with their rows, if they are there; held until another pair is asked for."""
        wanted = (0, pair[0]), (1 if self.chain.of_two_sets else 0, pair[1])
        self._held = {key: held for key, held in self._held.items() if key in wanted}
        found = [self._side(*key) for key in wanted]
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    def _side(self, side: int, layer: int) -> Side | None:
        if (side, layer) not in self._held:
            if self.gone is not None:
                return None
            try:
                sae = self.chain.sae(layer, side)
            except (MatchError, OSError) as error:
                self.gone = str(error)
                return None
            assert self.chain.comparison is not None
            self._held[side, layer] = Side(sae, self.chain.comparison.rows(sae, side))
        return self._held[side, layer]

    def _parts(self, d: int) -> Iterator[tuple[str, slice]]:
        assert self.chain.comparison is not None
        start = 0
        for part in self.chain.comparison.parts:
            stop = start + (1 if part == "bias" else d)
            yield part, slice(start, stop)
            start = stop


def row_cosines(x: Floats, y: Floats, perm: Indices) -> Floats:
    """Of every row of x and its partner in y, `(F_A,)`; NaN without a partner or a direction."""
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    lengths = norms[0] * norms[1][perm]
    dots = (norms[0] ** 2 + norms[1][perm] ** 2 - squared_distances(x, y, perm)) / 2
    found: Floats = np.divide(dots, lengths, out=np.full(len(x), np.nan), where=(perm >= 0) & (lengths > 0))
    return found


def persistence(cosine: Floats, perm: Indices, targets: int, least: float) -> tuple[float, float]:
    """Shares of sources whose partner has at least this cosine, and of targets that are nobody's such partner."""
    lasting = np.nan_to_num(cosine, nan=-1.0) >= least
    return float(lasting.mean()), 1 - len(np.unique(perm[lasting])) / targets


def _runners_up(a: Side, b: Side, perm: Indices) -> Columns:
    """The cheapest for each feature but its partner, of the two that a float32 pass over all pairs lists for it."""
    backend = choose_backend("auto", None, "ieee")
    cost = RowProblem(a.rows, b.rows).cost(backend, free_memory(backend.device) // 4)
    prices = -cost.scale * cost.column_constant  # under which the partners of a row rank by their cost
    nothing = np.zeros(len(a.rows)), np.zeros(len(b.rows))
    scan = partial(cost.scan, np.arange(len(a.rows)), prices, nothing[1], nothing[0], 2, -math.inf)
    listed = cost.with_room(scan).row_partners
    best, least = np.full(len(perm), -1), np.full(len(perm), np.inf)
    for cheap in listed.T:
        other = np.where(cheap == perm, -1, cheap)
        costs = np.where(other >= 0, squared_distances(a.rows, b.rows, other), np.inf)
        best, least = np.where(costs < least, other, best), np.minimum(costs, least)
    return {"runner_up": best, "runner_up_cost": least}
