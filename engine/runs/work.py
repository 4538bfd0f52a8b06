"""The work of a run: which SAEs are compared, how each pair is solved, and how much memory that takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from saematch.errors import MatchError
from saematch.matching.backend import choose_backend, searches_at_once
from saematch.matching.comparison import Comparing
from saematch.matching.problem import Problem
from saematch.matching.solver import Solver
from saematch.numeric.threads import threads
from saematch.options import Side
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.sources import Layers, SAEHandle
from saematch.sources.names import LAYERS, Names

_FEWEST = 2  # pairs in work, if memory allows: even with one thread, one is read while the other is solved
_BEFORE = re.compile(r"(\d{1,9})\.(?:hook_resid_pre|input)$")  # the residual stream before a layer
_FIXED_BYTES = 400 * 10**6  # of compiled loops and tiles


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
        names: what the SAEs are called.
        maps: layer or name -> the record of the map by which a source is written in the basis of the targets.
    """

    sources: Layers
    against: Layers | None
    comparison: Comparing[Any]
    solver: Solver
    names: Names = LAYERS
    maps: Mapping[str, Any] = field(default_factory=dict)

    def layers(self, side: Side) -> Layers:
        """Return the layers whose SAEs are on one side of the pairs."""
        return self.sources if side == Side.SOURCE or self.against is None else self.against

    def problem(self, pair: Pair) -> Problem:
        """Read both SAEs of a pair, and return their problem."""
        x, y = (self.comparison.features(self.layers(key.side)[key.layer], *key[::-1]) for key in self.keys(pair))
        return self.comparison.problem_of(x, y)

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
        for sae, side in zip((a, b), Side, strict=True):
            if sae is not None:
                work.comparison.check_side(sae, side)
                _check_residual(work.names, pair[side], sae)
        if a is not None and b is not None:
            work.comparison.check(a, b)


def _check_residual(names: Names, number: int, sae: SAE) -> None:
    """Raise `MatchError` if an SAE of a site is called by the number of a layer before which it reads the stream."""
    site, before = names.sites.get(number), _BEFORE.search(sae.reads.place or "")
    if before is not None and site == (int(before[1]), "residual"):
        raise MatchError(
            f"{site.name} ({sae.source}) reads {sae.reads.place}, the residual stream before layer {site.layer}, and "
            "sites are numbered by the layer that they come after; call it layer "
            f"{site.layer - 1} in a mapping of layers to SAEs"
        )


def pairs_at_once(work: Work, pairs: Sequence[Pair], devices: int = 1) -> int:
    """Return how many pairs each device should have in work at the same time: one for each thread, if memory allows.

    The sparse problem of a pair, and most of what comes before and after its passes, uses one thread. So it takes as
    many pairs to keep all threads busy, and several to keep a GPU busy.
    """
    most = min(len(pairs), max(_FEWEST, threads() // devices))
    device = choose_backend(work.solver.backend, work.solver.device, work.solver.precision).device
    return searches_at_once(most, lambda number: memory_needed(work, pairs, number), device, devices)


def saes_at_once(work: Work, pairs: Sequence[Pair], number: int) -> int:
    """Return how many SAEs `number` successive pairs have at most."""
    windows = (pairs[start : start + number] for start in range(max(1, len(pairs) - number + 1)))
    return max(len({key for pair in window for key in work.keys(pair)}) for window in windows)


def memory_needed(work: Work, pairs: Sequence[Pair], number: int) -> int:
    """Estimate the most memory that matching these pairs takes in addition to what the process holds already.

    Counted are the weights of the SAEs of as many successive pairs as are in work at the same time, of float16 and
    bfloat16 as float32, and for each of these pairs a file that is being read, the float32 and int8 rows, lists and
    edges, and one block of products. An SAE that is mapped is in memory twice while it is read. An SAE whose header
    cannot be read counts as nothing. With a GPU, a part of this memory is on the GPU.

    Args:
        work: the work of the run.
        pairs: the pairs that are to be matched.
        number: how many of them are in work at the same time.

    Returns:
        Bytes.
    """
    compare = work.comparison
    headers = {key: work.handle(key).header() for pair in pairs for key in work.keys(pair)}
    known = {key: sae for key, sae in headers.items() if sae is not None}
    files = [sum(tensor.nbytes for tensor in sae.tensors().values()) for sae in known.values()]
    features = sorted(map(compare.bytes_of_features, known.values()))[-saes_at_once(work, pairs, number) :]
    both = [keys for keys in map(work.keys, pairs) if known.keys() >= set(keys)]
    searches = sorted(compare.search_bytes(known[source], known[target]) for source, target in both)[-number:]
    reading = (2 if work.maps else 1) * number * max(files, default=0)
    return _FIXED_BYTES + sum(features) + reading + sum(searches)
