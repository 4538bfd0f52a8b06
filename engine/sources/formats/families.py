"""All file formats that are read, and the recognition of the format of a file."""

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
from saematch.sources.formats.circuit_tracer import CIRCUIT_TRACER
from saematch.sources.formats.cross_layer import CIRCUIT_TRACER_CLT
from saematch.sources.formats.crosscoder import CROSSCODER
from saematch.sources.formats.dictionary_learning import DICTIONARY_LEARNING
from saematch.sources.formats.gemma_scope import GEMMA_SCOPE
from saematch.sources.formats.gemma_scope_2 import GEMMA_SCOPE_2
from saematch.sources.formats.goodfire import GOODFIRE
from saematch.sources.formats.llama_scope import LLAMA_SCOPE, LLAMA_SCOPE_R1
from saematch.sources.formats.llamascopium import LLAMASCOPIUM
from saematch.sources.formats.llamascopium_clt import LLAMASCOPIUM_CLT
from saematch.sources.formats.nanda import NANDA
from saematch.sources.formats.openai import OPENAI
from saematch.sources.formats.others import refuse_known
from saematch.sources.formats.qwen_scope import QWEN_SCOPE
from saematch.sources.formats.saelens import SAELENS
from saematch.sources.formats.sparsify import SPARSIFY
from saematch.storage.reading import Unusable
from saematch.text import listing

FAMILIES = (
    GEMMA_SCOPE, GEMMA_SCOPE_2, SAELENS, SPARSIFY, LLAMA_SCOPE, LLAMA_SCOPE_R1, LLAMASCOPIUM, DICTIONARY_LEARNING,
    OPENAI, GOODFIRE, QWEN_SCOPE, CIRCUIT_TRACER, CIRCUIT_TRACER_CLT,
    NANDA, CROSSCODER, LLAMASCOPIUM_CLT,
)  # fmt: skip


def published(name: str) -> list[Family]:
    """Return the families whose weights are published under such a name."""
    path = PurePosixPath(name)
    return [family for family in FAMILIES if path.suffix in family.suffixes and re.fullmatch(family.weights, path.name)]


def titles() -> str:
    """Return the formats that are read, for messages."""
    return "; ".join(family.title for family in FAMILIES)


def identify(checkpoint: Checkpoint) -> Family:
    """Return the family of a file: the family that its address names, or else the one that recognises its tensors.

    A file whose headers cannot be read, or that seems to hold no SAE, is of the family that its name suggests; reading
    the file then reports what is wrong with it.

    Raises:
        Unusable: if the file seems to hold an SAE, but its tensors fit no family, or several.
        MatchError: for any other file of no family.
    """
    asked = checkpoint.options.get("family")
    if asked is not None:
        return _family_called(checkpoint, asked)
    # The headers, unless they cannot be read.
    suffix, by_name = PurePosixPath(checkpoint.name).suffix, published(checkpoint.name)
    try:
        headers = checkpoint.headers if suffix in SUFFIXES else {}
    except MatchError:
        if by_name:
            return by_name[0]
        raise
    # The families that recognise the tensors.
    readable = [family for family in FAMILIES if suffix in family.suffixes]
    fitting = [family for family in readable if family.recognises(checkpoint, headers)]
    if CROSSCODER in fitting:
        return CROSSCODER  # the only family whose matrices have a dimension for heads
    if len(fitting) > 1:
        # The families whose configuration lies next to the file.
        fitting = [family for family in fitting if family.found_config(checkpoint)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        refuse_known(checkpoint, headers)
        _refuse_wrapped(checkpoint, headers)
    if fitting or _seem_of_an_sae(headers):
        possible = fitting or [family for family in readable if _may_read(family, checkpoint)]
        raise _unknown(checkpoint, headers, "several formats" if fitting else "no known format", possible)
    if by_name:
        return by_name[0]
    raise checkpoint.error(f"no SAE in a known format; known are {titles()}")


def _family_called(checkpoint: Checkpoint, name: str) -> Family:
    """Return the family that `?family=` names. Raises `MatchError` if there is no such family."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise checkpoint.error(f"?family={name}: known are {', '.join(family.name for family in FAMILIES)}")


def _unknown(checkpoint: Checkpoint, headers: Tensors, formats: str, possible: list[Family]) -> Unusable:
    """Return the refusal of a file whose tensors fit no format or several, with advice.

    Args:
        checkpoint: the file.
        headers: its tensors.
        formats: "no known format" or "several formats".
        possible: the families that would read the file if its address named them.
    """
    # The family that the name of the file suggests, and the reason why that family does not read the file.
    by_name = published(checkpoint.name)
    why = ""
    if by_name and by_name[0] not in possible:
        refusal = str(_refusal(by_name[0], checkpoint) or "")
        if refusal:
            why = f" ({by_name[0].name}, as its name says, but: {refusal.removeprefix(f'{checkpoint.shown}: ')})"
    advice = ""
    if possible:
        names = ", ".join(family.name for family in possible)
        advice = f"if it is in one of these formats nevertheless, write ?family=… after its path: {names}; else "
    return Unusable(
        f"{checkpoint.shown}: its tensors ({listing(headers)}) are those of {formats}{why}; {advice}save it with its "
        "activation: saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
    )


def _refusal(family: Family, checkpoint: Checkpoint) -> MatchError | None:
    """Return the error with which a family refuses the headers of a file; None if the family accepts them."""
    try:
        family.read(checkpoint, {name: widened(value) for name, value in family.headers(checkpoint).items()})
    except MatchError as error:
        return error
    return None


def _may_read(family: Family, checkpoint: Checkpoint) -> bool:
    """Whether a family accepts the headers of a file if the address has all options that the family asks for."""
    options: dict[str, str] = {"allow": ",".join(ALLOWABLE)}
    return any(
        _refusal(family, replace(checkpoint, options=answers)) is None for answers in (options, {**options, "k": "1"})
    )


# Code that saves tensors under other names, by the suffix of their file. Torch may still map the old file, so the code
# never writes over it.
_RENAMING = {
    suffix: save.replace("RENAMED", "{name.removeprefix(%r): tensor for name, tensor in " + load + ".items()}")
    for suffix, load, save in (
        (".pt", "torch.load(file, weights_only=True)", "torch.save(RENAMED, new_file)"),
        (".pth", "torch.load(file, weights_only=True)", "torch.save(RENAMED, new_file)"),
        (".safetensors", "safetensors.torch.load_file(file)", "safetensors.torch.save_file(RENAMED, new_file)"),
        (".npz", "numpy.load(file)", "numpy.savez(new_file, **RENAMED)"),
    )
}
_ELSEWHERE = "to a new file, in a folder of its own together with any configuration that lies next to it"


def _refuse_wrapped(checkpoint: Checkpoint, headers: Tensors) -> None:
    """Raise `Unusable`, with code that mends it, for tensors in an inner dictionary or with a prefix in their names."""
    # The tensors of an SAE in a dictionary in the file.
    keys = _keys_of_inner_dictionary(headers)
    if keys:
        inner: Any = headers
        for key in keys:
            inner = inner[key]
        path = "".join(f"[{key!r}]" for key in keys)
        raise Unusable(
            f"{checkpoint.shown}: its tensors ({listing(inner)}) are in a dictionary "
            f"{' in '.join(map(repr, keys[::-1]))}; save that alone, {_ELSEWHERE}: "
            f"torch.save(torch.load(file, weights_only=True){path}, new_file)"
        )
    # Names such as "model.sae.W_enc".
    names = [name for name, value in headers.items() if isinstance(value, Tensor)]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
    prefix = "".join(f"{parts[0]}." for parts in common)
    if prefix and _seem_of_an_sae([name.removeprefix(prefix) for name in names]):
        renaming = _RENAMING[PurePosixPath(checkpoint.name).suffix]
        raise Unusable(
            f"{checkpoint.shown}: the names of its tensors begin with {prefix!r} ({listing(names)}); save them without "
            f"it, {_ELSEWHERE}: {renaming % prefix}"
        )


def _keys_of_inner_dictionary(stored: Tensors) -> list[str]:
    """Return the keys that lead to an inner dictionary with the tensors of an SAE; none if there is none."""
    for name, value in stored.items():
        if isinstance(value, dict):
            if _seem_of_an_sae(value) and any(isinstance(inner, Tensor) for inner in value.values()):
                return [name]
            if inside := _keys_of_inner_dictionary(value):
                return [name, *inside]
    return []


def _seem_of_an_sae(names: Iterable[Any]) -> bool:
    """Whether some names seem to be those of an encoder and a decoder."""
    given = [*map(str, names)]
    letters = " ".join(given).lower()
    of_llamascopium = "W_E" in given and any(name.startswith("W_D") for name in given)
    return ("enc" in letters and "dec" in letters) or of_llamascopium
