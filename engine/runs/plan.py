"""Which pairs of layers are matched, and in which order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Set
from itertools import pairwise
from typing import Any, TypeVar

from saematch.errors import MatchError
from saematch.numeric.numbers import whole_number

Pair = tuple[int, int]
Value = TypeVar("Value")

ADJACENT, ALL, SAME = "adjacent", "all", "same"


def plan_pairs(
    sources: Collection[int], targets: Collection[int] | None = None, pairs: str | Iterable[Pair] | None = None
) -> list[Pair]:
    """The pairs to match, neighbours in the list sharing a layer where that can be.

    Args:
        sources: the layers there are.
        targets: those of a second set of SAEs, if the first is matched against one.
        pairs: "adjacent" (each layer with the next), "all", "same" (each layer with the other set's), or a list of
            (source layer, target layer), an array `(n, 2)` of these, or text: "0-12,3-5". Without it, adjacent ones, or
            same ones of two sets.

    Raises:
        MatchError: for layers that are not there, and pairs that make no sense.
    """
    if pairs is None:
        pairs = ADJACENT if targets is None else SAME
    if not isinstance(pairs, str):
        return _listed(pairs, sources, targets)
    if pairs == (SAME if targets is None else ADJACENT):
        one = "one set of SAEs: give a second one (against)" if targets is None else "two sets of SAEs"
        raise MatchError(f'pairs "{pairs}" make no sense with {one}')
    if pairs == ADJACENT:
        planned = list(pairwise(sorted(sources)))
    elif pairs == SAME:
        planned = [(layer, layer) for layer in sorted(set(sources) & set(targets or ()))]
    elif pairs == ALL:
        planned = _all(sorted(sources), None if targets is None else sorted(targets))
    else:
        planned = _listed(_parsed(pairs), sources, targets)
    if not planned:
        raise MatchError(
            f"{len(sources)} layer to match; at least two are needed"
            if targets is None
            else f"the two sets have no layer in common: {_names(sources)} and {_names(targets)}"
        )
    return planned


def pair_name(pair: Pair) -> str:
    """The name of a pair in files and messages.

    >>> pair_name((3, 4))
    '3-4'
    """
    return f"{pair[0]}-{pair[1]}"


def share_of(planned: list[Pair], number: int, of: int) -> list[Pair]:
    """Part `number`, from 1, of `of` parts: neighbours in the plan stay together. Raises `MatchError`."""
    number, of = checked_shard((number, of))
    return planned[(number - 1) * len(planned) // of : number * len(planned) // of]


def checked_shard(shard: Any) -> tuple[int, int]:
    """(i, n), the part i of n, from 1. Raises `MatchError` for anything else."""
    found = as_pair(shard)
    if found is None:
        raise MatchError(f"shard is {shard!r:.100}: give i/n, or (i, n) in Python, the part i of n")
    if not 1 <= found[0] <= found[1]:
        raise MatchError(f"shard {found[0]}/{found[1]}: give i/n with i from 1 to n")
    return found


def as_pair(given: Any) -> Pair | None:
    """Two whole numbers, in any sequence, array or tensor; None for anything else, sets and mappings among it."""
    try:
        a, b = map(whole_number, () if isinstance(given, Set | Mapping) else given)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if a is None or b is None else (a, b)


def by_pair(given: Mapping[Any, Value]) -> dict[Pair, Value]:
    """A mapping of pairs of layers, whose numbers are made Python's. Raises `MatchError` for anything else."""
    pairs = [as_pair(pair) for pair in given]
    if None in pairs:
        raise MatchError(f"the pairs {list(given)!r:.200} are not (source layer, target layer)")
    return {pair: value for pair, value in zip(pairs, given.values(), strict=True) if pair is not None}


def _all(sources: list[int], targets: list[int] | None) -> list[Pair]:
    """Every source with every target, there and back: at each turn a layer is used twice in a row."""
    planned: list[Pair] = []
    for turn, source in enumerate(sources):
        those = targets if targets is not None else sources[turn + 1 :]
        planned += [(source, target) for target in (those if turn % 2 == 0 else those[::-1])]
    return planned


def _parsed(pairs: str) -> list[Pair]:
    matches = [re.fullmatch(r"\s*(\d+)-(\d+)\s*", item) for item in pairs.split(",")]
    if not all(matches):
        raise MatchError(f'pairs {pairs!r} are neither "adjacent", "all" nor a list like "0-12,3-5"')
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _listed(pairs: Iterable[Any], sources: Collection[int], targets: Collection[int] | None) -> list[Pair]:
    try:
        found = [as_pair(pair) for pair in pairs]
    except (TypeError, ValueError, RuntimeError):
        found = [None]
    listed = sorted({pair for pair in found if pair is not None})
    if None in found:
        raise MatchError(f"pairs {pairs!r:.200} are no list of (source layer, target layer)")
    if not listed:
        raise MatchError("pairs is an empty list: give the pairs to match, or leave pairs out for the usual ones")
    for a, b in listed:
        for layer, there in ((a, sources), (b, sources if targets is None else targets)):
            if layer not in there:
                raise MatchError(f"pair {a}-{b}: there is no layer {layer}; there are {_names(there)}")
        if targets is None and a >= b:
            raise MatchError(f"pair {a}-{b}: give the earlier layer first; the inverse follows from {b}-{a}")
    return listed


def _names(layers: Collection[int] | None) -> str:
    return ", ".join(map(str, sorted(layers or ()))) or "none"
