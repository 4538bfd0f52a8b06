"""All file formats that are read, and which of them a file is in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor

from saematch.errors import MatchError
from saematch.sources.address import ALLOWABLE
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import widened
from saematch.sources.files.tensors import SUFFIXES
from saematch.sources.formats.base import Family, Tensors
from saematch.sources.formats.dictionary_learning import DICTIONARY_LEARNING
from saematch.sources.formats.gemma_scope import GEMMA_SCOPE
from saematch.sources.formats.gemma_scope_2 import GEMMA_SCOPE_2
from saematch.sources.formats.goodfire import GOODFIRE
from saematch.sources.formats.llama_scope import LLAMA_SCOPE, LLAMA_SCOPE_R1
from saematch.sources.formats.llamascopium import LLAMASCOPIUM
from saematch.sources.formats.openai import OPENAI
from saematch.sources.formats.qwen_scope import QWEN_SCOPE
from saematch.sources.formats.saelens import SAELENS
from saematch.sources.formats.sparsify import SPARSIFY
from saematch.storage.reading import Unusable
from saematch.text import listing

FAMILIES = (
    GEMMA_SCOPE, GEMMA_SCOPE_2, SAELENS, SPARSIFY, LLAMA_SCOPE, LLAMA_SCOPE_R1, LLAMASCOPIUM, DICTIONARY_LEARNING,
    OPENAI, GOODFIRE, QWEN_SCOPE,
)  # fmt: skip


def published(name: str) -> list[Family]:
    """The families whose weights are published under such a name."""
    path = PurePosixPath(name)
    return [each for each in FAMILIES if path.suffix in each.suffixes and re.fullmatch(each.weights, path.name)]


def identify(at: Checkpoint) -> Family:
    """The family of a file: the one its address names, else the one that knows its tensors.

    A file whose header cannot be read, or that seems to hold no SAE, has only a name; reading it then says what is
    wrong. Raises `MatchError` for a
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
        _refuse_wrapped(at, found)
    if fitting or _seem_of_an_sae(found):
        of = "several formats" if fitting else "no known format"
        possible = fitting or [each for each in able if _may_be(each, at, found)]
        names = [each.name for each in possible]
        ask = f"if it is in one all the same, write ?family=… after its path: {', '.join(names)}; else " * bool(names)
        own = _refusal(named[0], at, found) if named and named[0] not in possible else None
        why = f" ({named[0].name}, as its name says, but: {str(own).removeprefix(f'{at.shown}: ')})" if own else ""
        raise Unusable(
            f"{at.shown}: its tensors ({listing(found)}) are those of {of}{why}; {ask}save it with its activation: "
            "saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
        )
    if named:
        return named[0]
    raise MatchError(f"{at.shown}: no SAE in a known format; known are {known()}")


# What saves tensors under other names, by the suffix of their file. The old file may still be mapped: never over it.
_RENAMING = {
    suffix: save.replace("RENAMED", "{name.removeprefix(%r): tensor for name, tensor in " + load + ".items()}")
    for suffix, load, save in (
        (".pt", "torch.load(file, weights_only=True)", "torch.save(RENAMED, new_file)"),
        (".pth", "torch.load(file, weights_only=True)", "torch.save(RENAMED, new_file)"),
        (".safetensors", "safetensors.torch.load_file(file)", "safetensors.torch.save_file(RENAMED, new_file)"),
        (".npz", "numpy.load(file)", "numpy.savez(new_file, **RENAMED)"),
    )
}
_ELSEWHERE = "to a new file, in a folder of its own with any configuration that lies beside it"


def _refusal(family: Family, at: Checkpoint, found: Tensors) -> MatchError | None:
    """Why a family refuses the headers of a file; None if it takes them."""
    try:
        family.of(at, {name: widened(each) for name, each in found.items()})
    except MatchError as error:
        return error
    return None


def _may_be(family: Family, at: Checkpoint, found: Tensors) -> bool:
    """Whether a family takes the headers of a file, given the options that it asks for."""
    answers: dict[str, str] = {"allow": ",".join(ALLOWABLE)}
    return any(
        _refusal(family, replace(at, options=options), found) is None for options in (answers, {**answers, "k": "1"})
    )


def _refuse_wrapped(at: Checkpoint, found: Tensors) -> None:
    """Raise `Unusable` for tensors in a dictionary of their own, or whose names have a prefix."""
    keys = _wrapping(found)
    if keys:
        inner: Any = found
        for key in keys:
            inner = inner[key]
        path = "".join(f"[{key!r}]" for key in keys)
        raise Unusable(
            f"{at.shown}: its tensors ({listing(inner)}) are in a dictionary {' in '.join(map(repr, keys[::-1]))}; "
            f"save that alone, {_ELSEWHERE}: torch.save(torch.load(file, weights_only=True){path}, new_file)"
        )
    names = [name for name, value in found.items() if isinstance(value, Tensor)]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
    prefix = "".join(f"{parts[0]}." for parts in common)
    if prefix and _seem_of_an_sae([name.removeprefix(prefix) for name in names]):
        renaming = _RENAMING[PurePosixPath(at.name).suffix]
        raise Unusable(
            f"{at.shown}: the names of its tensors begin with {prefix!r} ({listing(names)}); save them without it, "
            f"{_ELSEWHERE}: {renaming % prefix}"
        )


def _wrapping(found: Tensors) -> list[str]:
    """The keys that lead to a dictionary with the tensors of an SAE in a dictionary; none if there is none."""
    for name, value in found.items():
        if isinstance(value, dict):
            if _seem_of_an_sae(value) and any(isinstance(each, Tensor) for each in value.values()):
                return [name]
            if inside := _wrapping(value):
                return [name, *inside]
    return []


def _seem_of_an_sae(names: Iterable[Any]) -> bool:
    letters = " ".join(map(str, names)).lower()
    return "enc" in letters and "dec" in letters


def known() -> str:
    """The formats, for messages."""
    return "; ".join(each.title for each in FAMILIES)
