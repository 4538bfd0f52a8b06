"""Advice for messages: how to choose one of several SAEs of a layer, and how to say where a layer's number is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saematch.sources.stored import LAYER, StoredSAE

_MOST_DIGITS = 4  # of the number of a layer
# Text before a number that counts something else than layers.
_NOT_A_LAYER = re.compile(
    r"(?:seeds?|train(?:er|ing)?s?|steps?|tokens?|samples?|epochs?|iter(?:ation)?s?|checkpoints?|ckpts?|final)[-_.=]?/?$|"
    r"(?:run|trial|version|(?<![a-z])[vs])[-_.=]?$|(?:checkpoints?|ckpts?)/.*/$",
    re.IGNORECASE,
)


def how_to_choose(saes: Sequence[StoredSAE]) -> str:
    """Return advice on how to choose one of several SAEs of a layer: by an option, a pattern, or the name of its file.

    The file is named where the SAEs differ in a number that is not of a layer, such as a seed or a training step.
    """
    l0s, widths = {sae.checkpoint.l0 for sae in saes}, {sae.checkpoint.width for sae in saes}
    options = []
    if len(l0s) > 1 and None not in l0s:
        options.append("?l0=near:100")
    if len(widths) > 1 and None not in widths:
        options.append(f"?width={saes[0].checkpoint.width}")
    if options:
        return f"like {' or '.join(options)}"
    pattern = _pattern_of_layers(saes[0])
    return f"by a pattern{pattern}" if pattern else f"by naming its file, like {saes[0].shown}"


def how_to_number(sae: StoredSAE, saes: Sequence[StoredSAE]) -> str:
    """Return a pattern for what may be the number of the layer, where no name says so; "" if there is none.

    The number of the layer may be the only number in which the names of two files differ, unless it is long, or the
    text before it says that it counts something else, such as training steps.
    """
    parts = re.split("([0-9]+)", sae.checkpoint.name)  # every second part is a number
    for other in saes:
        other_parts = re.split("([0-9]+)", other.checkpoint.name)
        differing = [place for place, (a, b) in enumerate(zip(parts, other_parts, strict=False)) if a != b]
        if len(parts) == len(other_parts) and len(differing) == 1 and differing[0] % 2:
            place = differing[0]
            before = "".join(parts[:place])
            digits = max(len(parts[place]), len(other_parts[place]))
            if digits <= _MOST_DIGITS and not _NOT_A_LAYER.search(before):
                return _like(sae, "".join([before, "{layer}", *parts[place + 1 :]]))
    return ""


def _pattern_of_layers(sae: StoredSAE) -> str:
    """Return the pattern that has `{layer}` in place of the last layer number in the name of a file; "" without one."""
    parts = sae.checkpoint.name.split("/")
    for number, part in reversed([*enumerate(parts)]):
        for layer in LAYER.finditer(part):
            start, end = layer.span(layer.lastindex or 0)
            return _like(sae, "/".join([*parts[:number], f"{part[:start]}{{layer}}{part[end:]}", *parts[number + 1 :]]))
    return ""


def _like(sae: StoredSAE, name: str) -> str:
    return f", like {sae.checkpoint.location.shown(name).replace('%7Blayer%7D', '{layer}')}"
