"""Float64 values of listed pairs, from the rows themselves: what claims are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.kernels.costs import check_device, check_matrix, check_vector, launch
from saematch.kernels.exact_pairs.kernel import exact_pairs_kernel
from saematch.numeric.numbers import checked_count

BLOCK_E, BLOCK_K = 8, 128  # the sum's order, and with it the last digit, depends on BLOCK_K alone
FLOATS = (torch.float32, torch.float64)


def exact_pairs(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, parts: Sequence[int] | None = None, block_k: int = BLOCK_K
) -> Tensor:
    """|x_i - y_j|^2 of the pairs (rows_e, columns_e) by part, `(pairs, parts)`, float64; relative error gamma(K + 2).

    `x (F_A, K)` and `y (F_B, K)` are float32 or float64; `parts` are the widths of the parts whose sum is K, one of K
    unless given; `rows` and `columns` are int64.

    Raises `MatchError` for arguments of another shape, type or device, or parts that do not add up to K.
    """
    check_matrix(x, "x", *FLOATS)
    widths = [x.shape[-1]] if parts is None else list(parts)
    wrong = f"parts are {widths}; give whole numbers that add up to the {x.shape[-1]} columns of x"
    widths = [checked_count(width, 0, wrong) for width in widths]
    if sum(widths) != x.shape[-1]:
        raise MatchError(wrong)
    return _launch(x, y, rows, columns, widths, None, block_k)


def exact_products(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, a: Tensor, b: Tensor, block_k: int = BLOCK_K
) -> Tensor:
    """<x_i - a, y_j - b> of the listed pairs, `(pairs,)`, float64, for float64 centres `a (K,)` and `b (K,)`.

    Off by at most gamma(K + 2) in 2^-53 of |x_i - a| |y_j - b|. Raises `MatchError` as `exact_pairs` does.
    """
    check_matrix(x, "x", *FLOATS)
    return _launch(x, y, rows, columns, [x.shape[-1]], (a, b), block_k)[:, 0]


def _launch(
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    columns: Tensor,
    widths: list[int],
    centres: tuple[Tensor, Tensor] | None,
    block_k: int,
) -> Tensor:
    check_matrix(y, "y", *FLOATS)
    check_device(x.device, y=y)
    if x.shape[1] != y.shape[1]:
        raise MatchError(f"x has K = {x.shape[1]} and y has K = {y.shape[1]}: such rows have no distance")
    x, y = (each if each.stride(1) == 1 else each.contiguous() for each in (x, y))
    for given, name, features in ((rows, "rows", len(x)), (columns, "columns", len(y))):
        check_vector(given, name, len(rows) if isinstance(rows, Tensor) else 0, x.device, torch.int64)
        if len(given) and not (int(given.min()) >= 0 and int(given.max()) < features):
            raise MatchError(f"{name} reach from {int(given.min())} to {int(given.max())}; there are {features:,}")
    a, b = centres or (x.new_zeros(0, dtype=torch.float64),) * 2
    for given, name in ((a, "a"), (b, "b")):
        check_vector(given, name, x.shape[1] if centres else 0, x.device, torch.float64)
    out = torch.zeros((len(rows), len(widths)), dtype=torch.float64, device=x.device)
    if out.numel():
        ends = torch.tensor(widths, device=x.device).cumsum(0).int()
        launch(
            exact_pairs_kernel,
            (-(-len(rows) // BLOCK_E), len(widths)),
            x.device,
            x_ptr=x,
            y_ptr=y,
            a_ptr=a.contiguous(),
            b_ptr=b.contiguous(),
            rows_ptr=rows.contiguous(),
            columns_ptr=columns.contiguous(),
            ends_ptr=ends,
            out_ptr=out,
            E=len(rows),
            stride_xm=x.stride(0),
            stride_yn=y.stride(0),
            BLOCK_E=BLOCK_E,
            BLOCK_K=block_k,
            PRODUCT=centres is not None,
            enable_fp_fusion=True,
        )
    return out
