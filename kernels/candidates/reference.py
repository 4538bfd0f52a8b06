"""The specification of the pass."""

from typing import NamedTuple

import torch
from torch import Tensor


class CandidateLists(NamedTuple):
    """The cheapest pairs of each line, `(lines, k)`: ascending values, and the indices of their partners.

    Where a list has fewer than k pairs, its other values are inf and their indices -1.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> products = kernels.Float32Products(torch.ones(1, 3), torch.ones(2, 3))
        >>> kernels.candidates(products, torch.tensor([torch.inf]), torch.zeros(2), k=1)[1].indices.tolist()
        [[-1], [-1]]
    """

    values: Tensor
    indices: Tensor


def candidates(
    M: Tensor, row_offset: Tensor, column_offset: Tensor, k: int, column_limit: Tensor
) -> tuple[CandidateLists, CandidateLists]:
    """Return the k cheapest of each row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i.

    Columns list only pairs below `column_limit (C,)`. Among equal pairs the one with the lowest index comes first.
    """
    by_column = (M + row_offset[:, None]).T
    return _first(M + column_offset, k), _first(torch.where(by_column < column_limit[:, None], by_column, torch.inf), k)


def _first(values: Tensor, k: int) -> CandidateLists:
    padded = torch.nn.functional.pad(values, (0, k), value=torch.inf)
    ordered, order = padded.sort(dim=1, stable=True)
    ordered, order = ordered[:, :k], order[:, :k]
    return CandidateLists(ordered, order.masked_fill(ordered.isinf(), -1))
