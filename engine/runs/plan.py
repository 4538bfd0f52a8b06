"""The plan of a run: which pairs of layers are matched, and in which order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Set
from itertools import pairwise
from typing import Any, TypeVar

from saematch.errors import MatchError
from saematch.numeric.numbers import whole_number
from saematch.sources.names import LAYERS, LayerSite, Names
from saematch.text import listing

Pair = tuple[int, int]  # (source layer, target layer)
Value = TypeVar("Value")


def plan_pairs(
    sources: Collection[int],
    targets: Collection[int] | None = None,
    pairs: str | Iterable[Any] | None = None,
    names: Names = LAYERS,
) -> list[Pair]:
    """List the pairs to match. Successive pairs share a layer where possible, so that it is read once for both.

    Args:
        sources: the available layers, or the layers of the first of two sets of SAEs.
        targets: the layers of the second set of SAEs, if there is one.
        pairs: "adjacent" (each layer with the next one), "all", "same" (each layer with the same layer of the other
            set), "flow" (the residual stream of each layer with what it is the sum of), or a list of (source layer,
            target layer), an array `(n, 2)` of such pairs, or the text "0-12,3-5". By default "adjacent" with one set
            of SAEs, and "same" with two.
        names: what the SAEs are called, in `pairs` and in messages.

    Raises:
        MatchError: if a layer is missing, the pairs do not suit the number of sets, or there is no pair.

    Examples:
        >>> plan_pairs([8, 9, 10])
        [(8, 9), (9, 10)]
        >>> plan_pairs([8, 9, 10], pairs="all")
        [(8, 9), (8, 10), (9, 10)]
        >>> plan_pairs([8, 9, 10], targets=[9, 10, 11])
        [(9, 9), (10, 10)]
        >>> plan_pairs(range(3), pairs="early-late", names=Names(("early", "mid", "late")))
        [(0, 2)]
        >>> plan_pairs(range(3), pairs="flow", names=Names(("residual.7", "mlp.8", "residual.8")))
        [(0, 2), (1, 2)]
    """
    if pairs is None:
        pairs = "adjacent" if targets is None else "same"
    if not isinstance(pairs, str):
        return _checked_pairs(pairs, sources, targets, names)
    if targets is None and pairs == "same":
        raise MatchError('pairs="same" needs two sets of SAEs: give the second one as against=')
    if targets is not None and pairs == "adjacent":
        raise MatchError('pairs="adjacent" is for one set of SAEs, and there are two; give "same", "all" or a list')
    if pairs == "flow":
        return _flow_pairs(sources, targets, names)
    if pairs == "adjacent":
        planned = list(pairwise(sorted(sources)))
    elif pairs == "same":
        planned = [(layer, layer) for layer in sorted(set(sources) & set(targets or ()))]
    elif pairs == "all":
        planned = _all_pairs(sorted(sources), None if targets is None else sorted(targets))
    else:
        planned = _checked_pairs(_parsed_pairs(pairs, names), sources, targets, names)
    if not planned:
        one = "SAE" if names.names else names.axis
        raise MatchError(
            f"{len(sources)} {one} to match; at least two are needed"
            if targets is None
            else f"the two sets have no {one} in common: {_listed(sources, names)} and {_listed(targets, names)}"
        )
    return planned


def is_flow(pairs: Any) -> bool:
    """Whether the pairs that a caller asks for are those of a flow."""
    return isinstance(pairs, str) and pairs == "flow"


def pair_name(pair: Pair) -> str:
    """Return the name of a pair in files.

    >>> pair_name((3, 4))
    '3-4'
    """
    return f"{pair[0]}-{pair[1]}"


def nearest_steps(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs in order; of several that lead to one layer, only that from the nearest layer.

    Otherwise the features of that layer would be counted once for each of them.

    >>> nearest_steps([(0, 2), (1, 2), (2, 3)])
    [(1, 2), (2, 3)]
    """
    return sorted({pair[1]: pair for pair in sorted(pairs)}.values())


def share_of(planned: list[Pair], number: int, total: int) -> list[Pair]:
    """Return part `number`, from 1, of a plan that is divided into `total` parts of successive pairs.

    Raises:
        MatchError: unless `number` is a whole number from 1 to `total`.

    >>> share_of([(8, 9), (9, 10), (10, 11)], 2, 2)
    [(9, 10), (10, 11)]
    """
    number, total = checked_shard((number, total))
    return planned[(number - 1) * len(planned) // total : number * len(planned) // total]


def checked_shard(shard: Any) -> tuple[int, int]:
    """Return the shard (i, n), part i of n, from 1, in Python's own integers. Raises `MatchError` for anything else."""
    numbers = as_pair(shard)
    if numbers is None:
        raise MatchError(f"shard is {shard!r:.100}: give i/n, or (i, n) in Python, for part i of n")
    if not 1 <= numbers[0] <= numbers[1]:
        raise MatchError(f"shard {numbers[0]}/{numbers[1]}: give i/n with i from 1 to n")
    return numbers


def as_pair(given: Any) -> Pair | None:
    """Return a sequence, array or tensor of two whole numbers as a pair; None for anything else, sets included."""
    try:
        a, b = map(whole_number, () if isinstance(given, Set | Mapping) else given)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if a is None or b is None else (a, b)


def by_pair(given: Mapping[Any, Value]) -> dict[Pair, Value]:
    """Return a mapping whose keys are pairs, in Python's own integers. Raises `MatchError` if a key is not a pair."""
    pairs = [as_pair(pair) for pair in given]
    if None in pairs:
        raise MatchError(f"the pairs {list(given)!r:.200} are not (source layer, target layer)")
    return {pair: value for pair, value in zip(pairs, given.values(), strict=True) if pair is not None}


def _all_pairs(sources: list[int], targets: list[int] | None) -> list[Pair]:
    """Pair every source with every target, in alternating directions, so that successive pairs share a layer."""
    planned: list[Pair] = []
    for turn, source in enumerate(sources):
        partners = targets if targets is not None else sources[turn + 1 :]
        planned += [(source, target) for target in (partners if turn % 2 == 0 else partners[::-1])]
    return planned


def _flow_pairs(sources: Collection[int], targets: Collection[int] | None, names: Names) -> list[Pair]:
    """Pair what the residual stream of a layer is the sum of with it: the stream before, attention and MLP."""
    number = {site: at for at, site in names.sites.items() if at in sources}
    if targets is not None or not number:
        raise MatchError(
            'pairs="flow" is for one set of SAEs of the sites of layers: give a mapping of residual, attention and mlp '
            'to layers, or SAEs with names like "mlp.8"'
        )
    residual = [(layer, at) for (layer, site), at in number.items() if site == "residual"]
    planned = [
        (number[source], at)
        for layer, at in residual
        for source in (LayerSite(layer - 1, "residual"), LayerSite(layer, "attention"), LayerSite(layer, "mlp"))
        if source in number
    ]
    if not planned:
        raise MatchError(
            f"{listing(names.names)}: no residual stream has a predecessor among these; give the residual stream of "
            "the layer before, or the attention or MLP of its layer"
        )
    return planned


def _parsed_pairs(text: str, names: Names) -> list[Any]:
    """Return the pairs of a text like "0-12,3-5". Raises `MatchError`, also if two names can be read in two ways."""
    if names.names:
        return [_parsed_names(item.strip(), names.names) for item in text.split(",")]
    matches = [re.fullmatch(r"\s*(\d+)-(\d+)\s*", item) for item in text.split(",")]
    if not all(matches):
        raise MatchError(f'pairs is {text!r}: give "adjacent", "same", "all", "flow" or a list like "0-12,3-5"')
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _parsed_names(item: str, names: Collection[str]) -> tuple[str, str]:
    """Return the two names of a text like "step_1000-step_2000", whose names may have dashes."""
    splits = [(item[:at], item[at + 1 :]) for at, letter in enumerate(item) if letter == "-"]
    known = [split for split in splits if split[0] in names and split[1] in names]
    if len(known) != 1:
        wrong = "does not name two SAEs" if not known else "names two SAEs in more than one way"
        raise MatchError(f"pairs has {item!r:.100}, which {wrong} as A-B; there are {listing(names)}")
    return known[0]


def _checked_pairs(
    pairs: Iterable[Any], sources: Collection[int], targets: Collection[int] | None, names: Names
) -> list[Pair]:
    """Sort a caller's list of pairs, without duplicates. Raises `MatchError` if it is not a list of possible pairs."""
    try:
        given = [as_pair(pair) or names.pair(pair) for pair in pairs]
    except (TypeError, ValueError, RuntimeError):
        given = [None]
    planned = sorted({pair for pair in given if pair is not None})
    if None in given and names.names:
        raise MatchError(f"pairs {pairs!r:.200} are not a list of (source, target); there are {listing(names.names)}")
    if None in given:
        raise MatchError(f"pairs {pairs!r:.200} are not a list of (source layer, target layer)")
    if not planned:
        raise MatchError("pairs is an empty list: give the pairs to match, or leave pairs out for the default ones")
    for pair in planned:
        for layer, available in zip(pair, (sources, sources if targets is None else targets), strict=True):
            if layer not in available:
                raise MatchError(
                    f"pair {names.pair_name(pair)}: there is no {names.title(layer)}; there are "
                    f"{_listed(available, names)}"
                )
        if targets is None and pair[0] >= pair[1]:
            raise MatchError(
                f"pair {names.pair_name(pair)}: give the earlier {'SAE' if names.names else names.axis} first; the "
                f"matching back is the inverse of {names.pair_name(pair[::-1])}"
            )
    return planned


def _listed(layers: Collection[int] | None, names: Names) -> str:
    return ", ".join(str(names.key(layer)) for layer in sorted(layers or ())) or "none"
