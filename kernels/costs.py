"""The costs that a pass works on: products of rows that are still to be made, or a stored matrix."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.precision import PRECISIONS, Precision, precision_named, split

LARGEST = 2**31 - 2**10  # features: indices, up to the end of the last tile, are int32; offsets into memory are int64
GRID = (2**31 - 1, 2**16 - 1)  # programs of one launch along each axis, CUDA C++ guide, table 29


@dataclass(frozen=True)
class Costs:
    """M `(F_A, F_B)`: `left (F_A, n)` times `right (F_B, n)` transposed, or `left` itself if `right` is None.

    Made by `products` and `stored`.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> kernels.products(torch.ones(3, 8), torch.ones(5, 8), "bf16x3").operand
        'bfloat16'
    """

    left: Tensor
    right: Tensor | None
    precision: Precision

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return self.left.shape[0], self.left.shape[1] if self.right is None else self.right.shape[0]

    @property
    def device(self) -> torch.device:
        """The device that holds the costs."""
        return self.left.device

    @property
    def is_stored(self) -> bool:
        """Whether the costs are a matrix in memory, so that a pass reads them instead of making products."""
        return self.right is None

    @property
    def operand(self) -> str:
        """How rows are multiplied: "ieee" for float32 arithmetic, or the number type of a tensor-core operand."""
        return "ieee" if self.precision.is_proved else str(self.left.dtype).removeprefix("torch.")


def products(x: Tensor, y: Tensor, precision: str = "ieee") -> Costs:
    """Describe the costs M_ij = <x_i, y_j> for float32 rows `x (F_A, K)` and `y (F_B, K)`, made again in every pass.

    The rows must be finite, see `Precision.error`.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> kernels.products(torch.ones(3, 8), torch.ones(5, 8)).shape
        (3, 5)

    Raises:
        MatchError: unless `x` and `y` are float32 matrices of one width on one device.
    """
    chosen = precision_named(precision)
    check_matrix(x, "x", torch.float32)
    check_matrix(y, "y", torch.float32)
    check_device(x.device, y=y)
    if x.shape[1] != y.shape[1]:
        raise MatchError(f"x has K = {x.shape[1]} and y has K = {y.shape[1]}: rows of different width have no product")
    return Costs(split(x, chosen, 0), split(y, chosen, 1), chosen)


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, **arguments: Any) -> None:
    """Start a kernel on the device of its tensors: Triton takes the current device, which may be another.

    Raises `MatchError` for more programs than CUDA starts at once.
    """
    if any(size > most for size, most in zip(grid, GRID, strict=False)):
        raise MatchError(f"{grid} tiles, and one launch takes {GRID} at most: give fewer rows at once")
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](**arguments)


def stored(matrix: Tensor) -> Costs:
    """Describe the costs M that are given as a float32 `matrix (F_A, F_B)` of any strides, without NaN and -inf.

    The entries are not checked. Raises `MatchError` for an argument that is not such a matrix, or that a kernel cannot
    read.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> kernels.stored(torch.ones(3, 5)).is_stored
        True
    """
    check_matrix(matrix, "matrix", torch.float32)
    check_device(matrix.device)
    return Costs(matrix, None, PRECISIONS["ieee"])


def check_matrix(given: Tensor, name: str, *dtypes: torch.dtype) -> None:
    """Raise `MatchError` unless `given` is a dense matrix of one of the dtypes, with sizes that indices can hold."""
    if not isinstance(given, Tensor) or given.ndim != 2 or given.layout != torch.strided:
        raise MatchError(f"{name} is {_described(given)}; expected a dense matrix")
    _check_plain(given, name)
    if given.dtype not in dtypes:
        raise MatchError(f"{name} is {given.dtype}; expected {' or '.join(map(str, dtypes))}")
    if max(given.shape) > LARGEST:
        raise MatchError(f"{name} is {tuple(given.shape)}; sides up to {LARGEST:,} can be indexed")


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
            raise MatchError(f"{name} lies on {tensor.device} and the costs on {device}; move one of them")
    if device.type != "cuda" and not is_interpreted():
        raise MatchError(
            f"the tensors lie on {device}; Triton kernels need a CUDA GPU (TRITON_INTERPRET=1, set before triton is "
            "imported, runs them on a CPU, slowly)"
        )


def check_rows(rows: Tensor | None, costs: Costs) -> Tensor:
    """Return the requested rows of M as int32: all rows if `rows` is None.

    Raises `MatchError` for indices that are out of range or not integers.
    """
    if rows is None:
        return torch.arange(costs.shape[0], dtype=torch.int32, device=costs.device)
    if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise MatchError(f"rows is {_described(rows)}; expected a vector of indices")
    check_device(costs.device, rows=rows)
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < costs.shape[0]):
        raise MatchError(f"rows reach from {int(rows.min())} to {int(rows.max())}; there are {costs.shape[0]:,} rows")
    return rows.to(torch.int32).contiguous()


def is_interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter.

    The interpreter multiplies bfloat16 wrongly: kernels get the operands as float32 there.

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
