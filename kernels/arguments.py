"""The arguments of launches: what a kernel can read and write, checked, and the start of a kernel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError

LARGEST = 2**31 - 2**10  # features: indices, up to the end of the last tile, are int32; offsets into memory are int64
GRID = (2**31 - 1, 2**16 - 1)  # programs of one launch along each axis, CUDA C++ guide, table 29
ALIGNED = 16  # lines in memory start at multiples of this many numbers, for loads and stores of 16 bytes


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, **arguments: Any) -> None:
    """Start a kernel on the device of its tensors: Triton takes the current device, which may be another.

    Raises `MatchError` for more programs than CUDA starts at once.
    """
    if any(size > most for size, most in zip(grid, GRID, strict=False)):
        raise MatchError(f"{grid} tiles, and one launch takes {GRID} at most: give fewer rows at once")
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](**arguments)


def up_to_aligned(length: int) -> int:
    """Return the next multiple of `ALIGNED`."""
    return -(-length // ALIGNED) * ALIGNED


def check_matrix(given: Tensor, name: str, *dtypes: torch.dtype) -> None:
    """Raise `MatchError` unless `given` is a dense matrix of one of the dtypes, with sizes that indices can hold."""
    if not isinstance(given, Tensor) or given.ndim != 2 or given.layout != torch.strided:
        raise MatchError(f"{name} is {_described(given)}; expected a dense matrix")
    _check_plain(given, name)
    if given.dtype not in dtypes:
        raise MatchError(f"{name} is {given.dtype}; expected {' or '.join(map(str, dtypes))}")
    if max(given.shape) > LARGEST:
        raise MatchError(f"{name} is {tuple(given.shape)}; sides up to {LARGEST:,} can be indexed")


def check_operands(dtype: torch.dtype, **operands: Tensor) -> None:
    """Raise `MatchError` unless the two operands are matrices of the dtype and of one width, on one device."""
    (left_name, left), (right_name, right) = operands.items()
    check_matrix(left, left_name, dtype)
    check_matrix(right, right_name, dtype)
    check_device(left.device, **{right_name: right})
    if left.shape[1] != right.shape[1]:
        raise MatchError(
            f"{left_name} has K = {left.shape[1]} and {right_name} has K = {right.shape[1]}: rows of different width "
            "have no product"
        )


def check_vector(given: Tensor, name: str, length: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raise `MatchError` unless `given` is a vector `(length,)` of the dtype on the device."""
    if not isinstance(given, Tensor) or given.shape != (length,) or given.dtype != dtype:
        raise MatchError(f"{name} is {_described(given)}; expected a {dtype} vector of {length:,}")
    _check_plain(given, name)
    check_device(device, **{name: given})


def _check_plain(given: Tensor, name: str) -> None:
    # The sign of such a view is not in the memory that a kernel reads.
    if given.is_neg():
        raise MatchError(f"{name} is a view that torch negates as it reads it; give {name}.resolve_neg()")


def check_device(device: torch.device, **tensors: Tensor) -> None:
    """Raise `MatchError` unless all tensors lie on the device, and kernels can run there."""
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise MatchError(f"{name} lies on {tensor.device} and the others on {device}; move one of them")
    if device.type != "cuda" and not is_interpreted():
        raise MatchError(
            f"the tensors lie on {device}; Triton kernels need a CUDA GPU (TRITON_INTERPRET=1, set before triton is "
            "imported, runs them on a CPU, slowly)"
        )


def check_indices(given: Tensor | None, name: str, features: int, device: torch.device) -> None:
    """Raise `MatchError` unless `given` is None or a vector of indices of features on the device."""
    if given is None:
        return
    if not isinstance(given, Tensor) or given.ndim != 1 or given.dtype not in (torch.int32, torch.int64):
        raise MatchError(f"{name} is {_described(given)}; expected a vector of indices")
    check_device(device, **{name: given})
    check_range(given, name, features)


def check_range(indices: Tensor, name: str, features: int) -> None:
    """Raise `MatchError` unless all indices are those of features. A GPU is waited for once."""
    if not len(indices):
        return
    low, high = torch.stack(torch.aminmax(indices)).tolist()
    if low < 0 or high >= features:
        raise MatchError(f"{name} reach from {low} to {high}; there are {features:,}")


def output(given: Tensor | None, size: tuple[int, int], device: torch.device) -> tuple[Tensor, bool]:
    """Return the float32 matrix that a kernel writes to, and whether all of its stores may take 16 bytes.

    A new matrix has room at the end of its rows for that, where a kernel leaves numbers without meaning. Raises
    `MatchError` unless a given matrix is of this size and has its columns side by side.
    """
    if given is None:
        return torch.empty((size[0], up_to_aligned(size[1])), dtype=torch.float32, device=device)[:, : size[1]], True
    check_matrix(given, "out", torch.float32)
    if given.shape != size or given.stride(1) != 1 or given.stride(0) < size[1]:
        raise MatchError(f"out is {tuple(given.shape)}; expected {size} with columns side by side and rows apart")
    check_device(device, out=given)
    return given, size[1] % ALIGNED == 0


def is_interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter.

    Examples:
        >>> from saematch import kernels
        >>> kernels.is_interpreted() in (True, False)
        True
    """
    from saematch.kernels.cost_tile import locate_tile

    return type(locate_tile).__name__ == "InterpretedFunction"


def _described(given: object) -> str:
    if isinstance(given, Tensor):
        return f"a {given.dtype} tensor {tuple(given.shape)} ({given.layout})"
    return f"a {type(given).__name__}"
