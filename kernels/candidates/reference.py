"""What the pass computes."""

from typing import NamedTuple

import torch
from torch import Tensor


class Lists(NamedTuple):
    """The cheapest of each line, ascending, and where they are; inf and -1 where a list is shorter than k."""

    values: Tensor
    indices: Tensor


def candidates(
    M: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, column_limit: Tensor
) -> tuple[Lists, Lists]:
    """The k cheapest of each listed row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i.

    Columns list only what is below `column_limit (F_B,)`. Ties go to the first.
    """
    M = M[rows.long()]
    by_column = (M + row_offset[:, None]).T
    return _first(M + column_offset, k), _first(torch.where(by_column < column_limit[:, None], by_column, torch.inf), k)


def _first(values: Tensor, k: int) -> Lists:
    padded = torch.nn.functional.pad(values, (0, k), value=torch.inf)
    ordered, order = padded.sort(dim=1, stable=True)
    ordered, order = ordered[:, :k], order[:, :k]
    return Lists(ordered, order.masked_fill(ordered.isinf(), -1))
