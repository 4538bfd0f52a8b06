"""Which pairs of layers are matched, and in which order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import pairwise

from saematch.errors import MatchError

Pair = tuple[int, int]

ADJACENT, ALL, SAME = "adjacent", "all", "same"


def plan_pairs(
    sources: Collection[int], targets: Collection[int] | None = None, pairs: str | Iterable[Pair] | None = None
) -> list[Pair]:
    """The pairs to match, neighbours in the list sharing a layer where that can be.

    Args:
        sources: the layers there are.
        targets: those of a second set of SAEs, if the first is matched against one.
        pairs: "adjacent" (each layer with the next), "all", "same" (each layer with the other set's), or a list of
            (source layer, target layer), also as text: "0-12,3-5". Without it, adjacent ones, or same ones of two sets.

    Raises:
        MatchError: for layers that are not there, and pairs that make no sense.
    """
    if pairs is None:
        pairs = ADJACENT if targets is None else SAME
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
        planned = _listed(pairs, sources, targets)
    if not planned:
        raise MatchError(
            f"{len(sources)} layer to match; at least two are needed" if targets is None else
            f"the two sets have no layer in common: {_names(sources)} and {_names(targets)}"
        )  # fmt: skip
    return planned


def share_of(planned: list[Pair], number: int, of: int) -> list[Pair]:
    """Part `number`, from 1, of `of` parts: neighbours in the plan stay together. Raises `MatchError`."""
    if not (type(number) is int and type(of) is int and 1 <= number <= of):
        raise MatchError(f"shard {number}/{of}: give i/n with i from 1 to n")
    return planned[(number - 1) * len(planned) // of : number * len(planned) // of]


def _all(sources: list[int], targets: list[int] | None) -> list[Pair]:
    """Every source with every target, there and back: at each turn a layer is used twice in a row."""
    planned: list[Pair] = []
    for turn, source in enumerate(sources):
        those = targets if targets is not None else sources[turn + 1 :]
        planned += [(source, target) for target in (those if turn % 2 == 0 else those[::-1])]
    return planned


def _listed(pairs: str | Iterable[Pair], sources: Collection[int], targets: Collection[int] | None) -> list[Pair]:
    if isinstance(pairs, str):
        matches = [re.fullmatch(r"\s*(\d+)-(\d+)\s*", item) for item in pairs.split(",")]
        if not all(matches):
            raise MatchError(f'pairs {pairs!r} are neither "adjacent", "all" nor a list like "0-12,3-5"')
        pairs = [(int(match[1]), int(match[2])) for match in matches if match]
    try:
        listed = sorted({(a, b) for a, b in pairs})
    except (TypeError, ValueError) as error:
        raise MatchError(f"pairs {pairs!r} are no list of (source layer, target layer)") from error
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
