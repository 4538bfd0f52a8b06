"""Maps between the activations of two models, and their files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saematch.errors import MatchError, refusals
from saematch.numeric.arrays import ArrayLike, checked_last, dense_array
from saematch.numeric.threads import ThreadPool, torch_threads
from saematch.storage.folders import local_path, replacing
from saematch.storage.reading import refuse_pointer_at, stored_array

SCHEMA = 1  # of the files of maps
PROCRUSTES = "procrustes"  # what calls for a map that is fitted to activations, in place of a map
_ORTHOGONAL = 1e-5  # largest entry of M M^T - 1 of a matrix that is called orthogonal: float32 numbers reach 1e-6
_TRANSPOSED = 1e-10  # the same for a matrix whose transpose is taken for its inverse
_LARGEST = 1e15  # of the entries of a matrix, and the inverse of the smallest that the largest may be
_VECTORS = ("mean_a", "mean_b")
_DAMAGED = (
    *(OSError, SafetensorError, EOFError, RecursionError),
    *(KeyError, TypeError, ValueError, AttributeError, ArithmeticError),
)


@dataclass(frozen=True)
class Fit:
    """How well a fitted map predicts the activations of model B.

    A residual is the sum of squared errors, divided by that of `mean_b` alone: 0 is exact, and 1 is no better than the
    mean.

    Attributes:
        tokens: the numbers of tokens that the map was fitted on, and of those that it was only measured on.
        residual: the residual on the tokens that the map was fitted on.
        held_out: the residual on the other tokens.
        scale: the factor of the mapped activations that would make the residual smallest. The map does not apply it.
        left_out: the number of tokens that were left out as outliers.
    """

    tokens: tuple[int, int]
    residual: float
    held_out: float
    scale: float
    left_out: int = 0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Fit:
        """Return the fit that a record describes.

        Raises `ArithmeticError`, `ValueError`, `TypeError` or `KeyError` for anything else.
        """
        fitted, others = map(int, record["tokens"])
        residual, held_out, scale = (float(record[name]) for name in ("residual", "held_out", "scale"))
        if not math.isfinite(residual + held_out + scale):
            raise ValueError(f"residuals and scale are {residual}, {held_out} and {scale}")
        return cls((fitted, others), residual, held_out, scale, int(record["left_out"]))

    def record(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return {**vars(self), "tokens": list(self.tokens)}


@dataclass(frozen=True, eq=False, repr=False)
class Map:
    """An affine map from the activations of model A to those of model B: h_B ~ (h_A - mean_a) M + mean_b.

    `saematch.activations.procrustes` fits one, and `SAE.mapped` applies one to an SAE.

    Attributes:
        matrix: M, float64 `(d_A, d_B)`, of full rank.
        mean_a: float64 `(d_A,)`; zeros by default.
        mean_b: float64 `(d_B,)`; zeros by default.
        fit: how well it predicts activations, if it was fitted to some.

    Raises:
        MatchError: for shapes that do not fit each other, numbers that are not finite, and a matrix without full rank.

    Examples:
        >>> import torch
        >>> import saematch as sm
        >>> swap = sm.Map(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> swap.apply(torch.tensor([[3.0, 4.0]]))
        tensor([[4., 3.]])
        >>> swap
        Map(2 x 2, orthogonal)
    """

    matrix: Tensor
    mean_a: Tensor = None  # type: ignore[assignment] # zeros
    mean_b: Tensor = None  # type: ignore[assignment]
    fit: Fit | None = None

    def __post_init__(self) -> None:
        matrix = _numbers(self.matrix, "the matrix of a map", "(d_A, d_B)")
        if matrix.ndim != 2 or not matrix.numel():
            raise MatchError(f"the matrix of a map is {tuple(matrix.shape)}; expected (d_A, d_B)")
        largest = float(matrix.abs().max())
        if not 1 / _LARGEST <= largest <= _LARGEST:
            raise MatchError(
                f"the largest entry of the matrix of a map is {largest:g}, and mapped weights would leave float32: "
                "give the activations of both models in units in which their norms are less far apart"
            )
        object.__setattr__(self, "matrix", matrix)
        for name, width in zip(_VECTORS, matrix.shape, strict=True):
            given = getattr(self, name)
            if given is None:
                mean = torch.zeros(width, dtype=torch.float64, device="cpu")
            else:
                mean = _numbers(given, f"{name} of a map", f"({width},)")
            if mean.shape != (width,):
                raise MatchError(f"{name} of a map is {tuple(mean.shape)}, expected ({width},) from its matrix")
            object.__setattr__(self, name, mean)
        _ = self.inverse  # refuses a matrix without full rank

    def __repr__(self) -> str:
        return f"Map({' x '.join(map(str, self.matrix.shape))}, {self.describe()})"

    @classmethod
    def of(cls, given: MapLike) -> Map:
        """Return a map as it is, make one of a matrix `(d_A, d_B)`, or read one from a file.

        Raises:
            MatchError: for anything else.

        Examples:
            >>> import numpy as np
            >>> import saematch as sm
            >>> sm.Map.of(2 * np.eye(3))
            Map(3 x 3, linear)
        """
        if isinstance(given, Map):
            return given
        return cls.load(given) if isinstance(given, str | os.PathLike) else cls(given)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Map:
        """Read a file that `save` wrote, or the matrix `(d_A, d_B)` in a `.npy` file.

        Raises:
            MatchError: if the file cannot be read, or holds something else.
        """
        path = local_path(path)
        refuse_pointer_at(path)
        if not path.is_file():
            raise MatchError(f"{path}: no such file; a map is a .npy or .safetensors file")
        with refusals("not a map between activations that can be read", path, *_DAMAGED):
            tensors, record = _read(path)
            fit = None if record.get("fit") is None else Fit.of(record["fit"])
        try:
            return cls(**tensors, fit=fit)
        except MatchError as error:
            raise MatchError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the map to a `.safetensors` file, in one step.

        Raises:
            MatchError: if the file cannot be written, or is there already and `overwrite` is false.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sm.Map(torch.eye(3)).save("map.safetensors")
            >>> sm.Map.load("map.safetensors")
            Map(3 x 3, orthogonal)
        """
        path = local_path(path)
        if path.suffix != ".safetensors":
            raise MatchError(f"{path}: a map is written as .safetensors; choose another name")
        if os.path.lexists(path) and not overwrite:
            raise MatchError(f"{path}: is there already; choose another name, or overwrite it (overwrite=True)")
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        record = {"schema": SCHEMA, "map": self.record()}
        with replacing(path) as aside, refusals("cannot be written", path, SafetensorError):
            save_file(tensors, aside, {"saematch": json.dumps(record)})

    @cached_property
    def inverse(self) -> Tensor:
        """The pseudo-inverse of M, float64 `(d_B, d_A)`: the transpose of an orthogonal matrix.

        Raises:
            MatchError: if M does not have full rank.
        """
        if self._from_orthogonal <= _TRANSPOSED:
            return self.matrix.T
        with ThreadPool(1) as pool:  # the number of threads does not decide how the inverse is rounded
            return pool.run([partial(_inverse, self.matrix)], torch_threads=1)[0]

    @cached_property
    @torch_threads()
    def _from_orthogonal(self) -> float:
        """The largest entry of M M^T - 1, or of M^T M - 1 if that is smaller."""
        narrow = self.matrix if self.matrix.shape[0] <= self.matrix.shape[1] else self.matrix.T
        square = narrow @ narrow.T
        square.diagonal().sub_(1)
        return float(square.abs().max())

    @property
    def kind(self) -> str:
        """Whether M keeps all lengths and angles of the narrower model: "orthogonal" or "linear"."""
        return "orthogonal" if self._from_orthogonal <= _ORTHOGONAL else "linear"

    @torch_threads()
    def apply(self, activations: Tensor) -> Tensor:
        """Return activations of model A `(…, d_A)` as activations of model B `(…, d_B)`, in their own number type."""
        x = checked_last(activations, len(self.mean_a), "activations")
        matrix, mean_a, mean_b = (tensor.to(x.device) for tensor in (self.matrix, self.mean_a, self.mean_b))
        mapped = (x.double() - mean_a) @ matrix + mean_b
        return mapped.to(x.dtype if x.is_floating_point() else torch.float64)

    def record(self) -> dict[str, Any]:
        """Return what identifies the map, for JSON: the hash of its numbers, its shape, and its fit."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().data)
        fit = None if self.fit is None else self.fit.record()
        return {"sha256": digest.hexdigest(), "shape": list(self.matrix.shape), "kind": self.kind, "fit": fit}

    def describe(self) -> str:
        """Describe the map in a few words."""
        return describe_map({"kind": self.kind, "fit": self.fit and self.fit.record()})

    def _tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix, "mean_a": self.mean_a, "mean_b": self.mean_b}


MapLike = Map | ArrayLike | str | os.PathLike[str]  # what `Map.of` takes


def describe_map(record: dict[str, Any]) -> str:
    """Describe the record of a map in a few words.

    >>> fit = {"tokens": [4000, 4080], "residual": 0.05, "held_out": 0.061, "scale": 1.0, "left_out": 0}
    >>> describe_map({"kind": "orthogonal", "fit": fit})
    'orthogonal, fitted on 4,000 tokens; it leaves 6.1% of the variance of 4,080 other tokens (5.0% of its own)'
    """
    fit = record["fit"]
    if fit is None:
        return str(record["kind"])
    fitted, others = fit["tokens"]
    return (
        f"{record['kind']}, fitted on {fitted:,} tokens; it leaves {fit['held_out']:.1%} of the variance of {others:,} "
        f"other tokens ({fit['residual']:.1%} of its own)"
    )


def _inverse(matrix: Tensor) -> Tensor:
    """Return the pseudo-inverse of a matrix. Raises `MatchError` unless the matrix has full rank."""
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((sizes > sizes[0] * max(matrix.shape) * torch.finfo(sizes.dtype).eps).sum())
    if rank < len(sizes):
        raise MatchError(
            f"the matrix of a map {tuple(matrix.shape)} has rank {rank}, and full rank would be {len(sizes)}: it sends "
            "different activations to the same ones, so that codes are not kept"
        )
    inverse: Tensor = (v.T / sizes) @ u.T
    return inverse


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a file, by the names of the arguments of `Map`, and what the file says of them."""
    if path.suffix == ".npy":
        return {"matrix": stored_array(path)}, {}
    with safe_open(path, framework="pt") as file:
        record = json.loads((file.metadata() or {})["saematch"])
        if record["schema"] != SCHEMA:
            raise MatchError(f"{path}: schema {record['schema']!r:.20} of a map, this version reads {SCHEMA}")
        return {name: file.get_tensor(name) for name in ("matrix", *_VECTORS)}, record["map"]


def _numbers(given: Any, what: str, expected: str) -> Tensor:
    """Return a caller's array as a float64 tensor on the CPU. Raises `MatchError` unless it holds finite numbers."""
    array = dense_array(given, what, expected)
    if array.dtype.kind not in "fiu":
        raise MatchError(f"{what} holds {array.dtype}; expected numbers {expected}")
    if not np.isfinite(array).all():
        raise MatchError(f"{what} holds {(~np.isfinite(array)).sum():,} values that are NaN or infinite")
    return torch.from_numpy(array.astype(np.float64, order="C"))
