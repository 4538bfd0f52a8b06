"""The work of a run: which SAEs are compared, how each pair is solved, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saematch.matching.problem import Comparison, RowProblem, check_widths
from saematch.matching.solver import Solver
from saematch.options import Side
from saematch.resources import BLOCK_BYTES
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, SAEHandle

CACHED_SAES = 3  # SAEs whose rows are in memory at the same time: those of two successive pairs
WORKERS = 2  # pairs that are matched at the same time
_FIXED_BYTES = 400 * 10**6  # of compiled loops and tiles
_BYTES_PER_FEATURE = 5_000  # of the candidate lists, edges and prices of a pair, for each feature of both sides


class Key(NamedTuple):
    """The key of the SAE of a layer. With one set of SAEs, a target has the key that it has as a source."""

    layer: int
    side: Side


@dataclass(frozen=True)
class Work:
    """The work of a run, which is the same for every pair. An instance can be sent to another process.

    Attributes:
        sources: the layers of the only set of SAEs, or of the first of two.
        against: the layers of the second set, whose SAEs are the targets; None for one set of SAEs.
        comparison: how features are compared.
        solver: how each pair is matched.
    """

    sources: Layers
    against: Layers | None
    comparison: Comparison
    solver: Solver

    def layers(self, side: Side) -> Layers:
        """Return the layers whose SAEs are on one side of the pairs."""
        return self.sources if side == Side.SOURCE or self.against is None else self.against

    def problem(self, pair: Pair) -> RowProblem:
        """Read both SAEs of a pair, and return their feature rows."""
        source, target = (self.layers(side)[layer] for side, layer in zip(Side, pair, strict=True))
        return self.comparison.problem(source, target)

    def keys(self, pair: Pair) -> tuple[Key, Key]:
        """Return the keys of the two SAEs of a pair."""
        return Key(pair[0], Side.SOURCE), Key(pair[1], Side.SOURCE if self.against is None else Side.TARGET)

    def handle(self, key: Key) -> SAEHandle:
        """Return the handle of the SAE that has a key."""
        return self.layers(key.side).handles[key.layer]


def check_headers(work: Work, pairs: Sequence[Pair]) -> None:
    """Raise `MatchError` if headers show that SAEs cannot be folded or compared, before any weights are read."""
    headers: dict[Key, SAE | None] = {}
    for pair in pairs:
        for key in work.keys(pair):
            if key not in headers:
                headers[key] = work.handle(key).header()
        a, b = (headers[key] for key in work.keys(pair))
        for sae in (a, b):
            if sae is not None:
                sae.check_fold(str(work.comparison.folds[0]))
        if a is not None and b is not None:
            check_widths(a.d, a.source, b.d, b.source, "d")


def memory_needed(work: Work, pairs: Sequence[Pair]) -> int:
    """Estimate the most memory that matching these pairs takes in addition to what the process holds already.

    Counted are the float64 rows of three SAEs, the files of two that are being read, and for each of two pairs the
    float32 and int8 rows, lists and edges, and one block of products. An SAE whose header cannot be read counts as
    nothing. With a GPU, a part of this memory is on the GPU.

    Returns:
        Bytes.
    """
    sizes: dict[Key, int] = {}
    features: dict[Key, int] = {}
    largest_file = 0
    for key in {key for pair in pairs for key in work.keys(pair)}:
        sae = work.handle(key).header()
        if sae is not None:
            sizes[key], features[key] = work.comparison.width(sae) * sae.F, sae.F
            largest_file = max(largest_file, sum(tensor.nbytes for tensor in sae.tensors().values()))
    rows = 8 * sum(sorted(sizes.values())[-CACHED_SAES:])

    def bytes_of(pair: Pair) -> int:
        source, target = work.keys(pair)
        values, rows = (sum(counted.get(key, 0) for key in (source, target)) for counted in (sizes, features))
        return (4 + 1) * values + _BYTES_PER_FEATURE * rows + BLOCK_BYTES

    at_once = sum(sorted(map(bytes_of, pairs))[-WORKERS:])
    return _FIXED_BYTES + rows + 2 * largest_file + at_once
