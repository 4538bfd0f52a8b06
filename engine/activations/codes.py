"""Codes of many tokens: which features are active on which token, and how strongly, without the zeros."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.activations.files import read_codes, save_codes
from saematch.errors import MatchError, memory_for
from saematch.numeric.arrays import dense_array
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Indices
from saematch.numeric.threads import torch_threads
from saematch.sae.autoencoder import SAE
from saematch.storage.folders import local_path
from saematch.text import html_table

TOKENS_AT_ONCE = 1024  # are encoded together, always the same ones, because float32 products depend on it
_SMALLEST, _LARGEST = 1e-100, 1e100  # absolute values of codes: their squares stay in the range of float64


@dataclass(frozen=True, eq=False, repr=False)
class Codes:
    """The codes of N tokens for the F features of an SAE, as a sparse matrix `(N, F)` with one row for each token.

    Attributes:
        starts: int64 `(N + 1,)`: the entries of token n are those from `starts[n]` up to `starts[n + 1]`.
        features: int32 `(entries,)`: the active feature of each entry, ascending within a token.
        values: float32 or float64 `(entries,)`: the code of each entry, which is not 0.
        F: the number of features.
        source: where the codes come from, for messages.
        documents: int64 `(N,)`: a number for the document of each token; None if it is not known.

    Raises:
        MatchError: if the arrays do not describe such a matrix.

    Examples:
        >>> import numpy as np
        >>> codes = Codes.of(np.array([[0.0, 2.0, 0.0], [1.0, 3.0, 0.0]], dtype=np.float32))
        >>> codes
        Codes(2 tokens, F=3, 1.5 active features a token)
        >>> codes.times_active
        array([1, 2, 0])
    """

    starts: Indices
    features: NDArray[np.int32]
    values: NDArray[Any]
    F: int
    source: str = "codes"
    documents: Indices | None = None

    def __post_init__(self) -> None:
        starts, features = self.starts, self.features
        if self.documents is not None and len(self.documents) != len(starts) - 1:
            raise MatchError(
                f"{self.source}: documents has {len(self.documents):,} entries for {len(starts) - 1:,} tokens"
            )
        if self.values.dtype not in (np.float32, np.float64):
            raise MatchError(f"{self.source}: values are {self.values.dtype}; expected float32 or float64")
        if not 0 <= self.F < 2**31:
            raise MatchError(f"{self.source}: {self.F!r:.40} features; their number is from 0 to {2**31 - 1:,}")
        ends_fit = len(starts) > 0 and starts[0] == 0 and starts[-1] == len(features) == len(self.values)
        if not ends_fit or (starts[1:] < starts[:-1]).any():
            raise MatchError(f"{self.source}: starts does not divide the {len(features):,} entries among tokens")
        if len(features) and not 0 <= int(features.min()) <= int(features.max()) < self.F:
            raise MatchError(f"{self.source}: features are numbered from 0 to {self.F - 1:,}; there are others")
        if not _ascends_in_rows(starts, features):
            raise MatchError(f"{self.source}: the features of a token must ascend, each of them once")
        sizes = np.abs(self.values)
        if len(sizes) and not _SMALLEST <= float(sizes.min()) <= float(sizes.max()) <= _LARGEST:  # NaN fails this too
            raise MatchError(
                f"{self.source}: codes of active features must be between {_SMALLEST:g} and {_LARGEST:g} in size"
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __repr__(self) -> str:
        mean = len(self.features) / max(1, len(self))
        return f"Codes({len(self)} tokens, F={self.F}, {mean:.3g} active features a token)"

    def _repr_html_(self) -> str:
        times = self.times_active
        rows = [["features that are active on some token", f"{(times > 0).sum():,}"], ["entries", f"{times.sum():,}"]]
        return html_table(repr(self), ["", "number"], rows)

    @classmethod
    def of(cls, given: Any, source: str = "codes") -> Codes:
        """Return the codes that an array `(N, F)` holds, which may be dense or one of SciPy's sparse arrays.

        Raises:
            MatchError: for anything but a matrix of finite numbers.

        Examples:
            >>> import torch
            >>> Codes.of(torch.eye(3)).features
            array([0, 1, 2], dtype=int32)
        """
        if isinstance(given, Codes):
            return given
        if hasattr(given, "tocsr"):
            return cls._of_sparse(given.tocsr(), source)
        array = dense_array(given, source, "(tokens, F), the code of each feature on each token")
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise MatchError(f"{source}: {array.dtype} {array.shape}; expected numbers (tokens, F)")
        if not np.isfinite(array).all():
            raise MatchError(f"{source}: codes are NaN or infinite")
        tokens, features = array.nonzero()
        values = array[tokens, features]
        values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
        starts = np.concatenate([[0], np.cumsum(np.bincount(tokens, minlength=len(array)))])
        return cls(starts, features.astype(np.int32), values, array.shape[1], source)

    @classmethod
    def _of_sparse(cls, given: Any, source: str) -> Codes:
        matrix = given.copy()
        matrix.sum_duplicates()  # which sorts them too
        matrix.eliminate_zeros()
        values = matrix.data if matrix.data.dtype in (np.float32, np.float64) else matrix.data.astype(np.float64)
        starts, features = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
        return cls(starts, features, values, int(matrix.shape[1]), source)

    @classmethod
    @torch_threads()
    def encode(cls, sae: SAE, activations: Any, source: str | None = None) -> Codes:
        """Return the codes of activations `(N, d)`, a tensor or an array, by an SAE, in its number type.

        The same tokens are always encoded together, so that memory does not decide how float32 products are rounded.
        float16 and bfloat16 are converted to float32.

        Raises:
            MatchError: for activations that are not finite, or not as wide as the SAE.

        Examples:
            >>> import saematch as sm, torch
            >>> from saematch.activations import Codes
            >>> sae = sm.load_layers("sample")[8]
            >>> Codes.encode(sae, torch.randn(5, sae.d, generator=torch.Generator().manual_seed(0))).F
            1024
        """
        source = source or f"codes of {sae.source}"
        if not isinstance(activations, Tensor):
            activations = dense_array(activations, source, f"(tokens, {sae.d})")
        if activations.ndim != 2 or activations.shape[1] != sae.d:
            raise MatchError(f"{source}: activations are {tuple(activations.shape)}; expected (tokens, {sae.d})")
        encoder = Encoder(sae, source)
        for start in range(0, len(activations), TOKENS_AT_ONCE):
            part = activations[start : start + TOKENS_AT_ONCE]
            encoder.add(part if isinstance(part, Tensor) else torch.from_numpy(np.array(part)))  # it may be read-only
        return encoder.codes()

    @cached_property
    def times_active(self) -> Indices:
        """int64 `(F,)`: on how many tokens each feature is active."""
        return np.bincount(self.features, minlength=self.F)

    def check_features(self, sae: SAE) -> None:
        """Raise `MatchError` unless these can be the codes of an SAE."""
        if self.F != sae.F:
            raise MatchError(f"{self.source} is of {self.F:,} features, and {sae.source} has {sae.F:,}")

    def select(self, tokens: NDArray[np.bool_]) -> Codes:
        """Return the codes of some tokens, from a mask `(N,)`."""
        lengths = np.diff(self.starts)
        entries = np.repeat(tokens, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[tokens])])
        documents = None if self.documents is None else self.documents[tokens]
        return replace(
            self, starts=starts, features=self.features[entries], values=self.values[entries], documents=documents
        )

    def save(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, made_from: dict[str, Any] | None = None
    ) -> None:
        """Write the codes to a file, `.safetensors`, whose layout is that of `saematch.activations.files`.

        Args:
            path: the file.
            overwrite: whether to replace a file that is there already.
            made_from: what identifies the SAE and the activations, as JSON, for a reader of the file.

        Raises:
            MatchError: if the file cannot be written, or is there already and `overwrite` is false.

        Examples:
            >>> import numpy as np
            >>> Codes.of(np.eye(3, dtype=np.float32)).save("codes.safetensors")
            >>> Codes.load("codes.safetensors")
            Codes(3 tokens, F=3, 1 active features a token)
        """
        tensors = {"starts": self.starts, "features": self.features, "values": self.values}
        if self.documents is not None:
            tensors["documents"] = self.documents
        save_codes(path, tensors, self.F, self.source, overwrite, made_from)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codes:
        """Read the codes that a file holds. Raises `MatchError` if it is damaged, or is no file of codes.

        Examples:
            >>> import numpy as np
            >>> Codes.of(np.eye(2, dtype=np.float32)).save("two.safetensors")
            >>> len(Codes.load("two.safetensors"))
            2
        """
        with memory_for(str(path)):
            tensors, features = read_codes(local_path(path))
            return cls(**tensors, F=features, source=str(path))

    def with_entries(self, everywhere: NDArray[np.bool_]) -> tuple[Indices, NDArray[np.int32], NDArray[Any]]:
        """Return `starts`, `features` and `values` with an entry on every token, 0 if need be, for some features.

        `everywhere (F,)` says for which.
        """
        if not everywhere.any():
            return self.starts, self.features, self.values
        missing = int(everywhere.sum()) * len(self) - int(self.times_active[everywhere].sum())
        starts = np.empty_like(self.starts)
        features = np.empty(len(self.features) + missing, dtype=np.int32)
        values = np.empty(len(features), dtype=self.values.dtype)
        chosen = np.nonzero(everywhere)[0].astype(np.int32)
        _fill_in(self.starts, self.features, self.values, chosen, starts, features, values)
        return starts, features, values


class Encoder:
    """The codes of tokens that come in batches, of activations that need not be in memory at the same time.

    Every batch but the last one must have `TOKENS_AT_ONCE` tokens, see `Codes.encode`.
    """

    def __init__(self, sae: SAE, source: str) -> None:
        self._documents: list[Indices] = []
        low = sae.W_enc.dtype in (torch.float16, torch.bfloat16)
        self._sae, self._source = (sae.to(torch.float32) if low else sae), source
        self._counts: list[Indices] = []
        self._features: list[NDArray[np.int32]] = []
        self._values: list[NDArray[Any]] = []
        self._tokens = 0

    def add(self, x: Tensor, documents: Indices | None = None) -> None:
        """Encode the next tokens, `(n, d)`, of some documents.

        Raises `MatchError` if their activations are not finite.
        """
        bad = (~x.isfinite()).nonzero()
        if len(bad):
            position = f"token {self._tokens + int(bad[0, 0]):,}, column {int(bad[0, 1]):,}"
            raise MatchError(f"{self._source}: activations are NaN or infinite, first at {position}")
        codes = self._sae.encode(x.to(self._sae.W_enc)).cpu().numpy()
        tokens, features = codes.nonzero()
        self._counts.append(np.bincount(tokens, minlength=len(codes)))
        self._features.append(features.astype(np.int32))
        self._values.append(codes[tokens, features])
        self._tokens += len(codes)
        if documents is not None:
            self._documents.append(documents)

    def codes(self) -> Codes:
        """Return the codes of all tokens that were added."""
        with memory_for(self._source):
            counts = np.concatenate([[0], *self._counts])
            features = np.concatenate([np.empty(0, np.int32), *self._features])
            values = np.concatenate(self._values) if self._values else np.empty(0, np.float32)
            documents = np.concatenate(self._documents) if self._documents else None
        return Codes(np.cumsum(counts), features, values, self._sae.F, self._source, documents)


@compiled
def _ascends_in_rows(starts: Any, features: Any) -> Any:
    for n in range(len(starts) - 1):
        for e in range(starts[n] + 1, starts[n + 1]):
            if features[e - 1] >= features[e]:
                return False
    return True


@compiled
def _fill_in(
    starts: Any, features: Any, values: Any, chosen: Any, new_starts: Any, new_features: Any, new_values: Any
) -> None:
    """Merge the entries of each token with entries 0 for all `chosen` features that the token lacks."""
    place = 0
    new_starts[0] = 0
    for n in range(len(starts) - 1):
        e, c = starts[n], 0
        while e < starts[n + 1] or c < len(chosen):
            if c == len(chosen) or (e < starts[n + 1] and features[e] <= chosen[c]):
                if c < len(chosen) and features[e] == chosen[c]:
                    c += 1
                new_features[place], new_values[place] = features[e], values[e]
                e += 1
            else:
                new_features[place], new_values[place] = chosen[c], 0.0
                c += 1
            place += 1
        new_starts[n + 1] = place
