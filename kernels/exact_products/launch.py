"""Products of listed pairs of rows in float64, from the rows themselves: all claims are made of these values."""

from __future__ import annotations

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.arguments import check_device, check_matrix, check_vector, launch
from saematch.kernels.exact_products.kernel import exact_products_kernel

BLOCK_E, BLOCK_K = 8, 128  # the order of the sum, and with it the last digit, depends on BLOCK_K alone
FLOATS = (torch.float32, torch.float64)


def exact_products(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, a: Tensor, b: Tensor, block_k: int = BLOCK_K
) -> Tensor:
    """Return <x_i - a, y_j - b> of the listed pairs in float64, `(pairs,)`.

    The error is at most gamma(K + 2) in units of 2^-53 of |x_i - a| |y_j - b|.

    Args:
        x: float32 or float64 rows `(F_A, K)`.
        y: float32 or float64 rows `(F_B, K)`.
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
    check_matrix(x, "x", *FLOATS)
    check_matrix(y, "y", *FLOATS)
    check_device(x.device, y=y)
    width = x.shape[1]
    if width != y.shape[1]:
        raise MatchError(f"x has K = {width} and y has K = {y.shape[1]}: rows of different width have no product")
    count = len(rows) if isinstance(rows, Tensor) else 0
    for indices, name, features in ((rows, "rows", len(x)), (columns, "columns", len(y))):
        check_vector(indices, name, count, x.device, torch.int64)
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < features):
            raise MatchError(f"{name} reach from {int(indices.min())} to {int(indices.max())}; there are {features:,}")
    check_vector(a, "a", width, x.device, torch.float64)
    check_vector(b, "b", width, x.device, torch.float64)
    # Rows whose entries are apart in memory are copied.
    x, y = (matrix if matrix.stride(1) == 1 else matrix.contiguous() for matrix in (x, y))
    out = torch.zeros(count, dtype=torch.float64, device=x.device)
    if count:
        launch(
            exact_products_kernel,
            (-(-count // BLOCK_E),),
            x.device,
            x_ptr=x,
            y_ptr=y,
            a_ptr=a.contiguous(),
            b_ptr=b.contiguous(),
            rows_ptr=rows.contiguous(),
            columns_ptr=columns.contiguous(),
            out_ptr=out,
            E=count,
            K=width,
            stride_xm=x.stride(0),
            stride_yn=y.stride(0),
            BLOCK_E=BLOCK_E,
            BLOCK_K=block_k,
            enable_fp_fusion=True,
        )
    return out
