"""Products of listed pairs of rows in float64, from the rows themselves: all claims are made of these values."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.arguments import check_matrix, check_range, check_vector, launch
from saematch.kernels.exact_products.kernel import exact_products_kernel
from saematch.kernels.exact_products.stored import FLOATS, StoredRows, as_stored

BLOCK_E, BLOCK_K = 8, 128  # the order of the sum, and with it the last digit, depends on BLOCK_K alone


def exact_products(
    x: Tensor | StoredRows,
    y: Tensor | StoredRows,
    rows: Tensor,
    columns: Tensor,
    a: Tensor,
    b: Tensor,
    block_k: int = BLOCK_K,
) -> Tensor:
    """Return <x_i - a, y_j - b> of the listed pairs in float64, `(pairs,)`.

    The error is at most gamma(K + 2) in units of 2^-53 of |x_i - a| |y_j - b|.

    Args:
        x: rows `(F_A, K)`: float32 or float64 numbers, or `StoredRows`.
        y: rows `(F_B, K)`, likewise.
        rows: int64 indices of rows of `x`, `(pairs,)`.
        columns: int64 indices of rows of `y`, `(pairs,)`.
        a: float64 centre of the rows of `x`, `(K,)`.
        b: float64 centre of the rows of `y`, `(K,)`.
        block_k: the number of columns that one step of the kernel adds up.

    Raises:
        MatchError: for arguments of another shape, type or device, or for indices out of range.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> x, zero, first = torch.tensor([[1.0, 2.0]]), torch.zeros(2).double(), torch.tensor([0])
        >>> kernels.exact_products(x, x, first, first, zero, zero)
        tensor([5.], dtype=torch.float64)
    """
    # The arguments must fit each other, since a kernel reads whatever lies in memory.
    folded = isinstance(x, StoredRows) or isinstance(y, StoredRows)
    for matrix, name in ((x, "x"), (y, "y")):
        if not isinstance(matrix, StoredRows):
            check_matrix(matrix, name, *FLOATS)
    stored_x, stored_y = as_stored(x), as_stored(y)
    device, (features, width) = stored_x.values.device, stored_x.values.shape
    stored_x.check("x", device)
    stored_y.check("y", device)
    others, other_width = stored_y.values.shape
    if width != other_width:
        raise MatchError(f"x has K = {width} and y has K = {other_width}: rows of different width have no product")
    count = len(rows) if isinstance(rows, Tensor) else 0
    for indices, name, most in ((rows, "rows", features), (columns, "columns", others)):
        check_vector(indices, name, count, device, torch.int64)
        check_range(indices, name, most)
    check_vector(a, "a", width, device, torch.float64)
    check_vector(b, "b", width, device, torch.float64)
    # Rows whose entries are apart in memory are copied.
    left, right = (
        values if values.stride(1) == 1 else values.contiguous() for values in (stored_x.values, stored_y.values)
    )
    out = torch.zeros(count, dtype=torch.float64, device=device)
    if count:
        launch(
            exact_products_kernel,
            (-(-count // BLOCK_E),),
            device,
            x_ptr=left,
            y_ptr=right,
            **_folds("x", stored_x),
            **_folds("y", stored_y),
            a_ptr=a.contiguous(),
            b_ptr=b.contiguous(),
            rows_ptr=rows.contiguous(),
            columns_ptr=columns.contiguous(),
            out_ptr=out,
            E=count,
            K=width,
            F_A=features,
            F_B=others,
            stride_xm=left.stride(0),
            stride_yn=right.stride(0),
            FOLDED=folded,
            BLOCK_E=BLOCK_E,
            BLOCK_K=block_k,
            enable_fp_fusion=False,  # a row is what the two roundings of its scale and its factor make it
        )
    return out


def _folds(name: str, stored: StoredRows) -> dict[str, Tensor]:
    """Return the arguments of the kernel that say how the rows of one side are computed from what is stored."""
    return {
        f"{name}_scales_ptr": stored.scales.contiguous(),
        f"{name}_part_ptr": stored.part.contiguous(),
        f"{name}_multiplied_ptr": stored.multiplied.to(torch.int8),
        f"{name}_factors_ptr": stored.factors.contiguous(),
    }
