"""Handles of SAEs: an SAE in a file or in memory, whose weights are read on request."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import override

from saematch.errors import MatchError
from saematch.sae.autoencoder import SAE
from saematch.sources.formats.base import Entry


@dataclass(frozen=True)
class Description(Entry):
    """The description of an SAE without its weights. If only headers were read, the tensors of `sae` have no data.

    Attributes:
        dtype: the number type of the largest tensor, as it is stored.
        bytes: the size of all tensors, as they are stored.
    """

    dtype: str = ""
    bytes: int = 0


class SAEHandle(ABC):
    """A handle of one SAE, in a file (`StoredSAE`) or in a caller's mapping (`SAEInMemory`).

    Every method, and `layer`, `format`, `l0` and `labels`, may raise `MatchError` if a file cannot be read or is
    damaged.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown!r})"

    @property
    @abstractmethod
    def layer(self) -> int | None:
        """The number of the layer; None if neither the path nor the files say it."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """The name of the SAE in messages: a path, or the address of a file at a commit."""

    @property
    @abstractmethod
    def path(self) -> str | None:
        """The absolute path or the URL of the file; None for an SAE in memory."""

    @property
    @abstractmethod
    def format(self) -> str | None:
        """The name of the file format; None for an SAE in memory."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, str]:
        """The options of the address that change how the file is read."""

    @property
    @abstractmethod
    def l0(self) -> float | None:
        """The mean number of active features, as the path, a registry or the configuration says it."""

    @property
    @abstractmethod
    def labels(self) -> Mapping[int, str]:
        """Feature -> the tokens that it fires on; empty if no labels are known."""

    @abstractmethod
    def describe(self) -> Description:
        """Return what is known without reading weights."""

    @abstractmethod
    def header(self) -> SAE | None:
        """Return the SAE as far as it is known without reading weights; None if the header cannot be read.

        Raises `MatchError` for an object in memory that is not an SAE.
        """

    @abstractmethod
    def read(self) -> SAE:
        """Return the SAE with its weights."""

    @abstractmethod
    def sha256(self) -> dict[str, str]:
        """Return the hash of each file by its name, or of each tensor in memory."""

    @abstractmethod
    def read_and_hash(self) -> tuple[SAE, dict[str, str]]:
        """Return `read()` and `sha256()`. Files are hashed while they are read, so that the disk is read once."""

    @abstractmethod
    def stamps(self) -> dict[str, list[int] | str] | None:
        """Return file -> its size and time, or its commit: a value that changes when the file does. None in memory."""

    @abstractmethod
    def neuronpedia_names(self) -> Sequence[str]:
        """Return the names of the SAE on Neuronpedia, as far as an installed sae-lens knows them."""


@dataclass(frozen=True, repr=False)
class SAEInMemory(SAEHandle):
    """One SAE of a caller's mapping, which is asked for the SAE whenever it is read.

    Attributes:
        saes: the mapping.
        key: the key of the SAE in the mapping, such as the NumPy integer 8.
        number: the number of the layer, as a Python integer; None if the key is a name.
    """

    saes: Mapping[Any, SAE]
    key: Any
    number: int | None

    @property
    @override
    def layer(self) -> int | None:
        return self.number

    @property
    @override
    def shown(self) -> str:
        return f"{self._title}, in memory"

    @property
    def _title(self) -> str:
        return str(self.key) if self.number is None else f"layer {self.number}"

    @property
    @override
    def path(self) -> None:
        return None

    @property
    @override
    def format(self) -> None:
        return None

    @property
    @override
    def options(self) -> Mapping[str, str]:
        return {}

    @property
    @override
    def l0(self) -> None:
        return None

    @property
    @override
    def labels(self) -> Mapping[int, str]:
        return {}

    @override
    def describe(self) -> Description:
        sae = self.read()
        largest = max(sae.tensors().values(), key=lambda tensor: tensor.numel())
        size = sum(tensor.nbytes for tensor in sae.tensors().values())
        return Description(sae, layer=self.number, dtype=str(largest.dtype).removeprefix("torch."), bytes=size)

    @override
    def header(self) -> SAE:
        return self.read()

    @override
    def read(self) -> SAE:
        sae = self.saes[self.key]
        if not isinstance(sae, SAE):
            raise MatchError(f"{self._title} is a {type(sae).__name__}, expected an SAE")
        return sae

    @override
    def read_and_hash(self) -> tuple[SAE, dict[str, str]]:
        sae = self.read()
        return sae, _tensor_hashes(sae)

    @override
    def sha256(self) -> dict[str, str]:
        return _tensor_hashes(self.read())

    @override
    def stamps(self) -> None:
        return None

    @override
    def neuronpedia_names(self) -> Sequence[str]:
        return ()


def _tensor_hashes(sae: SAE) -> dict[str, str]:
    return {name: hashlib.sha256(_bytes(tensor).numpy().data).hexdigest() for name, tensor in sae.tensors().items()}


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # An axis of length 1 may have any stride in a contiguous tensor, and `view` refuses all but 1.
    return tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8)
