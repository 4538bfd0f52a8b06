"""The products of all pairs of rows, as objects that make them block by block."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from saematch.kernels.arguments import check_operands
from saematch.kernels.int8_products.launch import int8_products
from saematch.kernels.pairwise_cost.launch import k_major, pairwise_cost


@dataclass(frozen=True, eq=False)
class Float32Products:
    """M_ij = <x_i, y_j> in float32, for rows `x (F_A, K)` and `y (F_B, K)`; see `pairwise_cost`.

    If `absolute`, the products are -|<x_i, y_j>| instead.

    The operands are kept K-major, and are copied into this layout once, unless they are already in it. Raises
    `MatchError` unless they are float32 matrices of one width on one device.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> kernels.Float32Products(torch.ones(3, 8), torch.ones(5, 8)).block(torch.tensor([2]))
        tensor([[8., 8., 8., 8., 8.]])
    """

    x: Tensor
    y: Tensor
    absolute: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_operands(torch.float32, x=self.x, y=self.y)
        object.__setattr__(self, "x", k_major(self.x))
        object.__setattr__(self, "y", k_major(self.y))

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return len(self.x), len(self.y)

    @property
    def device(self) -> torch.device:
        """The device that holds the operands."""
        return self.x.device

    def block(self, rows: Tensor | None = None, columns: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Return M of the listed rows and columns, `(R, C)`; all rows and all columns unless they are given."""
        return _signed(pairwise_cost(self.x, self.y, rows, columns, out=out), self.absolute)

    def part(self, rows: slice) -> Float32Products:
        """Return the products of some consecutive rows; those that begin at a multiple of 16 are not copied."""
        return replace(self, x=self.x[rows])

    def of_columns(self, columns: Tensor) -> Float32Products:
        """Return the products of the listed columns, whose operand is copied once."""
        return replace(self, y=k_major(self.y, columns))


@dataclass(frozen=True, eq=False)
class Int8Products:
    """M_ij = s_i t_j <q_i, p_j>, for int8 rows q and p with float32 scales s and t; see `int8_products`.

    `left (F_A, K)` is q, `right (F_B, K)` is p, `left_scale (F_A,)` is s, and `right_scale (F_B,)` is t. If `absolute`,
    the products are -|M_ij| instead.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> rows = torch.ones(2, 64, dtype=torch.int8)
        >>> kernels.Int8Products(rows, rows, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.5])).block()
        tensor([[ 64.,  32.],
                [128.,  64.]])
    """

    left: Tensor
    right: Tensor
    left_scale: Tensor
    right_scale: Tensor
    absolute: bool = field(default=False, kw_only=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(F_A, F_B)."""
        return len(self.left), len(self.right)

    @property
    def device(self) -> torch.device:
        """The device that holds the operands."""
        return self.left.device

    def block(self, rows: Tensor | None = None, columns: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """Return M of the listed rows and columns, `(R, C)`; all rows and all columns unless they are given."""
        products = int8_products(self.left, self.right, self.left_scale, self.right_scale, rows, columns, out)
        return _signed(products, self.absolute)

    def part(self, rows: slice) -> Int8Products:
        """Return the products of some consecutive rows, whose operand is not copied."""
        return replace(self, left=self.left[rows], left_scale=self.left_scale[rows])

    def of_columns(self, columns: Tensor) -> Int8Products:
        """Return the products of the listed columns, whose operand is copied once."""
        return replace(self, right=self.right[columns], right_scale=self.right_scale[columns])


Products = Float32Products | Int8Products


def _signed(products: Tensor, absolute: bool) -> Tensor:
    """Replace products by minus their absolute values, where they are, if these are wanted."""
    return products.abs_().neg_() if absolute else products
