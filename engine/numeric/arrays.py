"""Conversion of a caller's arrays to plain arrays of numpy or torch, which refuses what would lose values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saematch.errors import MatchError
from saematch.numeric.numbers import hides_values
from saematch.text import first_line

ArrayLike = npt.ArrayLike | Tensor | Sequence[Tensor]  # what `dense_array` takes


def dense_array(given: Any, name: str, expected: str) -> NDArray[Any]:
    """Return an array, a tensor, or a list of numbers, arrays or tensors as a numpy array on the CPU.

    The number type is kept if numpy has it; otherwise it becomes float64, as for bfloat16. `name` and `expected` appear
    in messages.

    Raises:
        MatchError: for masked values, for sparse arrays, whose missing entries may mean anything, and for objects that
            are not arrays.
    """
    if isinstance(given, Tensor):
        return _values(given, name)
    if hasattr(given, "todense"):
        raise MatchError(f"{name} is a sparse {type(given).__name__}; make it dense first")
    try:
        if isinstance(given, list | tuple):
            given = [dense_array(item, name, expected) if _holds_arrays(item) else item for item in given]
        array = np.asanyarray(given)  # keeps a mask, which some objects show only once they are arrays
        for candidate in (given, array):
            if hides_values(candidate):
                count = np.count_nonzero(np.broadcast_to(candidate.mask, array.shape))
                raise MatchError(f"{name} masks {count} of its values; fill them, or leave them out")
        return np.asarray(array)
    except MatchError:
        raise
    except Exception as error:  # the arrays of other libraries may raise anything
        raise MatchError(f"{name} is not an array ({first_line(error)}); expected {expected}") from error


def dense_tensor(given: Tensor, name: str) -> Tensor:
    """Return a plain tensor with the values of `given`: itself, unless it is sparse, quantised or negated.

    Raises:
        MatchError: for tensors that are not just their values: masked, nested, or not yet initialised ones.
    """
    if given.is_nested or isinstance(given, nn.UninitializedParameter | nn.UninitializedBuffer) or _is_wrapper(given):
        kind = "nested" if given.is_nested else type(given).__name__
        raise MatchError(f"{name} is a {kind} tensor; give a plain one")
    try:
        given = given if given.layout == torch.strided else given.to_dense()
        given = given.dequantize() if given.is_quantized else given
        return given.resolve_conj().resolve_neg()
    except RuntimeError as error:
        raise MatchError(f"{name} is a {given.dtype} tensor that has no values ({first_line(error)})") from error


def refuse_meta(given: Tensor, name: str) -> None:
    """Raise `MatchError` for a tensor on torch's meta device, which has a shape but no values."""
    if given.is_meta:
        raise MatchError(f"{name} is a {given.dtype} tensor on meta, torch's device without values; load them first")


def checked_last(given: Any, size: int, what: str) -> Tensor:
    """Return a dense tensor of real values `(…, size)`. Raises `MatchError` for anything else."""
    if not isinstance(given, Tensor):
        raise MatchError(f"{what} must be a tensor (…, {size}), got {type(given).__name__}")
    refuse_meta(given, what)
    tensor = dense_tensor(given, what)
    if tensor.shape[-1:] != (size,):
        raise MatchError(f"{what} must be a tensor (…, {size}), got {tuple(tensor.shape)}")
    if tensor.is_complex():
        raise MatchError(f"{what} are {tensor.dtype}, expected real numbers")
    return tensor


def _values(given: Tensor, name: str) -> NDArray[Any]:
    if "sparse" in str(given.layout):
        raise MatchError(f"{name} is a sparse tensor ({given.layout}); make it dense first (.to_dense())")
    refuse_meta(given, name)
    if given.is_complex():
        raise MatchError(f"{name} is a {given.dtype} tensor; expected one of real numbers")
    tensor = dense_tensor(given, name).detach().cpu()
    in_numpy = not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64)
    try:
        return (tensor if in_numpy else tensor.double()).numpy()
    except (RuntimeError, TypeError) as error:
        raise MatchError(f"{name} holds {tensor.dtype}, which numpy lacks; convert it first") from error


def _holds_arrays(given: Any) -> bool:
    """Whether an object is an array or contains one, however deep: numpy would drop the masks of these arrays."""
    if isinstance(given, list | tuple):
        return any(map(_holds_arrays, given))
    return _is_array(given)


def _is_array(given: Any) -> bool:
    return isinstance(given, Tensor | np.ndarray) or (hasattr(given, "__array__") and not isinstance(given, np.generic))


def _is_wrapper(given: Tensor) -> bool:
    """Whether a tensor belongs to a class that defines its values in its own way, as masked tensors do."""
    return bool(type(given).__torch_dispatch__ is not Tensor.__torch_dispatch__)
