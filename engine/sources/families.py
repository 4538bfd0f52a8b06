"""All file formats that are read, and which of them a file is in."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

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
    """The family of a file: the one its address names, else by the names of its tensors, else by its own name.

    A file whose header cannot be read still has a name; reading it then says what is wrong. Raises `MatchError` for a
    file of no family.
    """
    asked = at.options.get("family")
    if asked is not None:
        named = [each for each in FAMILIES if each.name == asked]
        if not named:
            raise MatchError(f"{at.shown}: ?family={asked}: known are {', '.join(each.name for each in FAMILIES)}")
        return named[0]
    suffix, named = PurePosixPath(at.name).suffix, published(at.name)
    try:
        keys = set(at.headers()) if suffix in SUFFIXES else set()
    except MatchError:
        if named:
            return named[0]
        raise
    fitting = [each for each in FAMILIES if suffix in each.suffixes and each.has(keys)] or named
    if not fitting:
        raise MatchError(f"{at.shown}: no SAE in a known format; known are {known()}")
    return fitting[0]


def known() -> str:
    """The formats, for messages."""
    return "; ".join(each.title for each in FAMILIES)
