"""The description of a file format of SAEs: how it is recognised, and how its tensors are converted.

To add a format, write one module with a `Family`, and list the `Family` in `families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from torch import Tensor

from saematch.errors import refusals
from saematch.sae.autoencoder import SAE
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.files.checks import Piece

# Name -> tensor, with data or without (on torch's meta device). A `.pt` file may hold plain values too.
Tensors = Mapping[str, Any]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """An SAE in canonical form, and what else its files say.

    Attributes:
        sae: the SAE; its tensors have shape and number type but no data if only headers were read.
        hook: the place in the model that the SAE reads, as its configuration names it.
        layer: the number of the layer in the files themselves.
        l0: the mean number of active features.
    """

    sae: SAE
    hook: str | None = None
    layer: int | None = None
    l0: float | None = None


class Source(NamedTuple):
    """The place where a tensor of an SAE is stored, if a file holds more than one SAE, or an SAE has several files.

    Attributes:
        piece: the stored tensor, and the part of it that belongs to the SAE.
        file: the name of the file in the location of the weights.
    """

    piece: Piece
    file: str


@dataclass(frozen=True)
class Family:
    """A file format. Its functions belong to a module, so that a family can be sent to another process.

    Attributes:
        name: the name in messages, in records, and after `?family=`.
        title: a description for people: the publisher and the names of the files.
        suffixes: the suffixes of the file with the weights.
        weights: the names under which the file with the weights is published, as a regular expression.
        config: the names of the configuration, relative to the weights, with `{stem}` for the name of the weights
            without their suffix; the first file that exists is read.
        needs_config: whether weights without a configuration cannot be read.
        told_by_config: whether a file is only of this family if its configuration is there.
        remedy: advice for weights whose configuration is missing; it ends with "; ".
        has: whether the tensors of a file are those of this family.
        entry: the function that converts tensors, with or without data, given the configuration. It may raise
            `MatchError`.
        sources: the function that says, from the headers of the file, where each tensor for `entry` is stored. It
            returns None for a file that holds all tensors of one SAE, and may raise `MatchError`.
        option: the option of an address that chooses one of several SAEs in a file, for `sources`.
        layers: the function that returns the layers in a file, none if its name tells the only one. It may raise
            `MatchError`.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    weights: str
    has: Callable[[Tensors], bool]
    entry: Callable[[Checkpoint, Tensors, Config], Entry]
    config: tuple[str, ...] = ()
    needs_config: bool = False
    told_by_config: bool = False
    remedy: str = ""
    sources: Callable[[Checkpoint, Tensors], Mapping[str, Source] | None] | None = None
    option: str | None = None
    layers: Callable[[Checkpoint, Tensors], Sequence[int]] | None = None

    def recognises(self, checkpoint: Checkpoint, stored: Tensors) -> bool:
        """Whether a file with these tensors, with data or without, is of this family."""
        return self.has(stored) and not (self.told_by_config and self.found_config(checkpoint) is None)

    def found_config(self, checkpoint: Checkpoint) -> str | None:
        """Return the name of the configuration in the location of the weights, None if there is none."""
        return checkpoint.next_to(*self._config_names(checkpoint))

    def layers_in(self, checkpoint: Checkpoint) -> Sequence[int]:
        """Return the layers in a file, none for a file whose name tells the only one. Raises `MatchError`."""
        if self.layers is None:
            return ()
        with refusals(f"not as {self.name} writes it", checkpoint.shown):
            return self.layers(checkpoint, checkpoint.headers)

    def _config_names(self, checkpoint: Checkpoint) -> list[str]:
        stem = PurePosixPath(checkpoint.name).stem
        return [name.replace("{stem}", stem) for name in self.config]

    def config_name(self, checkpoint: Checkpoint) -> str | None:
        """Return the name of the configuration in the location of the weights, None if there is none.

        Raises `MatchError` if the configuration is missing and the family needs one.
        """
        name = self.found_config(checkpoint)
        if name is None and self.needs_config:
            raise checkpoint.error(
                f"its {self._config_names(checkpoint)[0]} is not there, which says how these weights are to be read: "
                f"put it there, as in {self.title}; {self.remedy}without one, save the weights with their activation: "
                "saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
            )
        return name

    def headers(self, checkpoint: Checkpoint) -> Tensors:
        """Return the tensors for `read`, without data. Raises `MatchError`."""
        sources = self._sources(checkpoint)
        if sources is None:
            return checkpoint.headers
        headers = {file: checkpoint.named(file).headers for file in _files(sources)}
        return {key: piece.header(headers[file][piece.name]) for key, (piece, file) in sources.items()}

    def tensors(self, checkpoint: Checkpoint) -> Tensors:
        """Return the tensors for `read`, with data. Raises `MatchError`."""
        sources = self._sources(checkpoint)
        if sources is None:
            return checkpoint.tensors()
        found: dict[str, Any] = {}
        for file in _files(sources):
            pieces = {key: source.piece for key, source in sources.items() if source.file == file}
            found |= checkpoint.named(file).tensors(pieces)
        return found

    def files(self, checkpoint: Checkpoint) -> list[str]:
        """Return the names of the files that an SAE is read from. Raises `MatchError`."""
        config = self.config_name(checkpoint)
        others = [file for file in _files(self._sources(checkpoint) or {}) if file != checkpoint.name]
        return [checkpoint.name, *([config] if config else []), *others]

    def _sources(self, checkpoint: Checkpoint) -> Mapping[str, Source] | None:
        if self.sources is None:
            return None
        with refusals(f"not as {self.name} writes it", checkpoint.shown):
            return self.sources(checkpoint, checkpoint.headers)

    def read(self, checkpoint: Checkpoint, stored: Tensors) -> Entry:
        """Convert the tensors of a file with `entry` and the configuration next to it. Raises `MatchError`."""
        chosen = self.option if self._sources(checkpoint) else None
        for option in ("head", "to"):
            if option in checkpoint.options and option != chosen:
                what = "crosscoders" if option == "head" else "cross-layer transcoders"
                raise checkpoint.error(f"?{option}= is for {what}, and this file is of the format {self.name}")
        config = checkpoint.config(self.config_name(checkpoint))
        # Values of an untrusted configuration may be anything, and of any size.
        with refusals(f"not as {self.name} writes it: a value is of another kind", checkpoint.shown):
            return self.entry(checkpoint, stored, config)


def _files(sources: Mapping[str, Source]) -> list[str]:
    return list(dict.fromkeys(source.file for source in sources.values()))


def take(checkpoint: Checkpoint, stored: Tensors, *expected: str, optional: tuple[str, ...] = ()) -> list[Tensor]:
    """Return the tensors with the names `expected`, in that order.

    Raises:
        MatchError: if a tensor is missing or is not of floats, or if the file holds a tensor that is neither expected
            nor optional.
    """
    missing = [name for name in expected if not isinstance(stored.get(name), Tensor)]
    extra = [name for name in stored if isinstance(stored[name], Tensor) and name not in {*expected, *optional}]
    wrong = []
    if missing:
        wrong.append(f"lacks {', '.join(sorted(missing))}")
    if extra:
        wrong.append(f"holds {', '.join(sorted(extra))}, which this format does not know")
    if wrong:
        raise checkpoint.error(f"{' and '.join(wrong)}; expected {', '.join(sorted(expected))}")
    for name in expected:
        if not stored[name].is_floating_point():
            dtype = str(stored[name].dtype).removeprefix("torch.")
            raise checkpoint.error(f"{name} is stored as {dtype}; expected float16, bfloat16, float32 or float64")
    return [stored[name] for name in expected]


def rows_are_features(stored: Tensors) -> bool:
    """Whether each feature is a row of `W_enc` and of `W_dec`, as far as the shapes tell."""
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    if not all(isinstance(stored.get(name), Tensor) for name in names):
        return False
    W_enc, W_dec, b_enc, b_dec = (stored[name] for name in names)
    return bool(W_enc.shape == W_dec.shape == (b_enc.numel(), b_dec.numel()))


def refuse_unless_ones(checkpoint: Checkpoint, name: str, factors: Any, why: str) -> None:
    """Raise `MatchError` for factors that would change the weights, if nothing says that they are applied."""
    if isinstance(factors, Tensor) and not factors.is_meta and not bool((factors == 1).all()):
        raise checkpoint.error(f"{name} is not 1, and {why}")
