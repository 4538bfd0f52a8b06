"""The specification of the pass."""

import torch
from torch import Tensor


def pairs_below(
    M: Tensor, row_offset: Tensor, column_offset: Tensor, row_limit: Tensor, column_limit: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """List all pairs with M_ij + column_offset_j <= row_limit_i or M_ij + row_offset_i <= column_limit_j.

    Returns rows, columns, and the M of the pairs, row by row.
    """
    by_row = (M + column_offset <= row_limit[:, None]) & torch.isfinite(column_offset)
    by_column = (M + row_offset[:, None] <= column_limit) & torch.isfinite(row_offset)[:, None]
    rows, columns = torch.nonzero(by_row | by_column, as_tuple=True)
    return rows, columns, M[rows, columns]
