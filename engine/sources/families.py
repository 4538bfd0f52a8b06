"""All file formats that are read, and which of them a file is in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.dictionary_learning import DICTIONARY_LEARNING
from saematch.sources.family import Family
from saematch.sources.files import SUFFIXES
from saematch.sources.gemma_scope import GEMMA_SCOPE
from saematch.sources.gemma_scope_2 import GEMMA_SCOPE_2
from saematch.sources.goodfire import GOODFIRE
from saematch.sources.llama_scope import LLAMA_SCOPE, LLAMA_SCOPE_R1
from saematch.sources.llamascopium import LLAMASCOPIUM
from saematch.sources.openai import OPENAI
from saematch.sources.pointers import Unusable
from saematch.sources.qwen_scope import QWEN_SCOPE
from saematch.sources.saelens import SAELENS
from saematch.sources.sparsify import SPARSIFY

FAMILIES = (
    GEMMA_SCOPE, GEMMA_SCOPE_2, SAELENS, SPARSIFY, LLAMA_SCOPE, LLAMA_SCOPE_R1, LLAMASCOPIUM, DICTIONARY_LEARNING,
    OPENAI, GOODFIRE, QWEN_SCOPE,
)  # fmt: skip


def published(name: str) -> list[Family]:
    """The families whose weights are published under such a name."""
    path = PurePosixPath(name)
    return [each for each in FAMILIES if path.suffix in each.suffixes and re.fullmatch(each.weights, path.name)]


def identify(at: Checkpoint) -> Family:
    """The family of a file: the one its address names, else the one that knows its tensors, else by its own name.

    A file whose header cannot be read still has a name; reading it then says what is wrong. Raises `MatchError` for a
    file of no family, `Unusable` if it seems to hold an SAE, or is of more than one.
    """
    asked = at.options.get("family")
    if asked is not None:
        named = [each for each in FAMILIES if each.name == asked]
        if not named:
            raise MatchError(f"{at.shown}: ?family={asked}: known are {', '.join(each.name for each in FAMILIES)}")
        return named[0]
    suffix, named = PurePosixPath(at.name).suffix, published(at.name)
    try:
        found = at.headers() if suffix in SUFFIXES else {}
    except MatchError:
        if named:
            return named[0]
        raise
    able = [each for each in FAMILIES if suffix in each.suffixes]
    fitting = [each for each in able if each.has(found)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        _refuse_wrapped(at, found, able)
        if named:
            return named[0]
    if fitting or _seem_of_an_sae(found):
        of, names = ("several formats" if fitting else "no known format"), (each.name for each in fitting or able)
        raise Unusable(
            f"{at.shown}: its tensors ({listing(found)}) are those of {of}; if it is in one all the same, write "
            f"?family=… after its path: {', '.join(names)}; else save it with its activation: "
            "saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
        )
    raise MatchError(f"{at.shown}: no SAE in a known format; known are {known()}")


def _refuse_wrapped(at: Checkpoint, found: Mapping[str, Any], able: list[Family]) -> None:
    """Raise `Unusable` for tensors in a dictionary of their own, or whose names are known but for a prefix."""
    inner = next((name for name, value in found.items() if isinstance(value, dict) and _seem_of_an_sae(value)), None)
    if inner is not None:
        raise Unusable(
            f"{at.shown}: its tensors ({listing(found[inner])}) are in a dictionary {inner!r}; save that alone: "
            f"torch.save(torch.load(file, weights_only=True)[{inner!r}], file)"
        )
    names = [name for name, value in found.items() if isinstance(value, Tensor)]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
    prefix = "".join(f"{parts[0]}." for parts in common)
    if prefix and any(each.has({name.removeprefix(prefix): found[name] for name in names}) for each in able):
        raise Unusable(
            f"{at.shown}: the names of its tensors begin with {prefix!r} ({listing(names)}); save them without it: "
            f"torch.save({{name.removeprefix({prefix!r}): tensor for name, tensor in state.items()}}, file)"
        )


def _seem_of_an_sae(names: Iterable[Any]) -> bool:
    letters = " ".join(map(str, names)).lower()
    return "enc" in letters and "dec" in letters


def known() -> str:
    """The formats, for messages."""
    return "; ".join(each.title for each in FAMILIES)


def listing(names: Iterable[str], most: int = 8) -> str:
    """Some names in a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
