"""The work of a run: which SAEs are compared, how each pair is solved, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from saematch.matching.problem import Comparison, RowProblem, check_widths
from saematch.matching.solver import Solver
from saematch.options import Side
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, SAEHandle

CACHED_SAES = 3  # SAEs whose rows are in memory at once: those of two neighbouring pairs
WORKERS = 2  # pairs that are matched at once
_FIXED_BYTES = 400 * 10**6  # compiled loops and tiles
_BYTES_PER_FEATURE = 5_000  # lists, edges and prices of one pair, for each feature of both sides


class Key(NamedTuple):
    """The SAE of a layer. With one set of SAEs, a layer has the same key on both sides of a pair, that of a source."""

    layer: int
    side: Side


@dataclass(frozen=True)
class Work:
    """What is done with every pair. It can be sent to another process.

    Attributes:
        sources: the layers, or the layers of the first set of SAEs.
        against: the layers of a second set, whose SAEs are the targets; None where the targets are of the same set.
        comparison: how features are compared.
        solver: how each pair is solved.
    """

    sources: Layers
    against: Layers | None
    comparison: Comparison
    solver: Solver

    def layers(self, side: Side) -> Layers:
        """The layers whose SAEs are on one side of the pairs."""
        return self.sources if side == Side.SOURCE or self.against is None else self.against

    def with_memory(self, memory: int) -> Work:
        """The same work with this memory, in bytes, for the products of each pair."""
        return replace(self, solver=replace(self.solver, memory=memory))

    def problem(self, pair: Pair) -> RowProblem:
        """The rows of a pair, made anew."""
        source, target = (self.layers(side)[layer] for side, layer in zip(Side, pair, strict=True))
        return self.comparison.problem(source, target)

    def keys(self, pair: Pair) -> tuple[Key, Key]:
        """The keys of the two SAEs of a pair."""
        return Key(pair[0], Side.SOURCE), Key(pair[1], Side.SOURCE if self.against is None else Side.TARGET)

    def handle(self, key: Key) -> SAEHandle:
        """The SAE that a key stands for."""
        return self.layers(key.side).handles[key.layer]


def check_headers(work: Work, pairs: Sequence[Pair]) -> None:
    """Raise `MatchError` for what shows before weights are read: SAEs that cannot be folded or compared."""
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
    """The most memory, in bytes, that matching these pairs takes beside what the process holds already.

    Three SAEs as rows, two as they are read, and for each pair in work float32 rows, lists and edges, and its products
    where they are kept. A layer whose header is not legible counts as none. With a GPU, some of it lies there.
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
        F_A, F_B = features.get(source, 0), features.get(target, 0)
        products = 4 * F_A * F_B
        if work.solver.memory is None or products > work.solver.memory:
            products = 0
        return 4 * (sizes.get(source, 0) + sizes.get(target, 0)) + _BYTES_PER_FEATURE * (F_A + F_B) + products

    at_once = sum(sorted(map(bytes_of, pairs))[-WORKERS:])
    return _FIXED_BYTES + rows + 2 * largest_file + at_once
