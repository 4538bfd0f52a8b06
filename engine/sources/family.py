"""What a file format of SAEs has to answer. A new family is one file with a `Family`, and its entry in `layers.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saematch.sae import SAE


@dataclass(frozen=True)
class Description:
    """What can be said of a stored SAE before its weights are read.

    Attributes:
        sae: the SAE with tensors that have shape and stored precision, but no data (torch's meta device).
        l0: mean number of active features, where it is known.
        notes: what loading changes, or what a reader should know.
        hook: where in the model it reads, as its configuration names it.
    """

    sae: SAE
    l0: float | None = None
    notes: tuple[str, ...] = ()
    hook: str | None = None

    @property
    def dtype(self) -> str:
        """Precision in which the encoder is stored."""
        return str(self.sae.W_enc.dtype).removeprefix("torch.")

    @property
    def bytes(self) -> int:
        """Size of the stored tensors."""
        return sum(tensor.nbytes for tensor in self.sae.tensors().values())


@dataclass(frozen=True)
class Family:
    """A file format; each function takes the path of the file with the weights and may raise `MatchError`.

    They are functions of a module, so that a family, and what is stored in it, can be sent to another process.

    Attributes:
        name: for messages and records.
        recognises: whether that file is an SAE of this family, by content.
        files: all files that make up the SAE.
        layer: the layer that the files themselves name, or None.
        describe: what headers and configuration say.
        read: the SAE in canonical form, on the CPU.
    """

    name: str
    recognises: Callable[[Path], bool]
    files: Callable[[Path], list[Path]]
    layer: Callable[[Path], int | None]
    describe: Callable[[Path], Description]
    read: Callable[[Path], SAE]
