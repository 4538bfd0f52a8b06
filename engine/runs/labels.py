"""Labels that a caller gives for the features of a run, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from saematch.errors import MatchError
from saematch.numeric.numbers import checked_count
from saematch.options import Side
from saematch.text import listing, well_formed

if TYPE_CHECKING:
    from saematch.runs.chain import Chain

TextsByLayer = dict[int, dict[int, str]]  # layer -> feature -> text


def features_of(chain: Chain, side: Side = Side.SOURCE) -> dict[int, int]:
    """Return the number of features of every layer of one side of a run; of all layers, for a run of one set."""
    sizes: dict[int, int] = {}
    for pair in chain:
        both = dict(zip(pair, chain.shape(pair), strict=True))
        sizes |= {pair[side]: chain.shape(pair)[side]} if chain.of_two_sets else both
    return sizes


def checked_labels(
    given: Mapping[int, Mapping[int, str]] | Mapping[str, Mapping[int, str]], chain: Chain, side: Side = Side.SOURCE
) -> TextsByLayer:
    """Check a mapping layer -> feature -> text, and return it with texts that any file can hold.

    Raises:
        MatchError: if `given` is not such a mapping, or is not for the features of the run.
    """
    checked: TextsByLayer = {}
    try:
        for layer, texts in given.items():
            of_layer = checked.setdefault(checked_count(chain.names.number(layer), 0, f"layer {layer!r:.40}"), {})
            for feature, text in texts.items():
                of_layer[checked_count(feature, 0, f"feature {feature!r:.40}")] = well_formed(text)
    except (AttributeError, TypeError, MatchError) as error:
        raise MatchError(f"explanations are {given!r:.100}; give {{layer: {{feature: text}}}} ({error})") from error
    check_features(checked, chain, "the explanations", side)
    return checked


def check_features(texts: TextsByLayer, chain: Chain, shown: str, side: Side = Side.SOURCE) -> None:
    """Raise `MatchError` if all texts are for other layers, or some for features that an SAE does not have."""
    sizes = features_of(chain, side)
    if texts and sizes and not sizes.keys() & texts.keys():
        listed = listing(str(chain.names.key(layer)) for layer in sorted(texts))
        raise MatchError(f"{shown}: of {chain.names.several} {listed}, and the run has none of them")
    for layer, of_layer in texts.items():
        outside = [feature for feature in of_layer if not 0 <= feature < sizes.get(layer, feature + 1)]
        if outside:
            raise MatchError(
                f"{shown}: of {len(of_layer)} explanations for {chain.names.title(layer)}, {len(outside)} are of "
                f"features that its SAE does not have, the first of feature {outside[0]} of {sizes[layer]}: they are "
                "of another SAE"
            )
