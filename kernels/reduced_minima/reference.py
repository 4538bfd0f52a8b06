"""What the pass computes, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor


class Minima(NamedTuple):
    """The smallest value of each line, where it is, -1 if it is inf, and the second smallest."""

    value: Tensor
    where: Tensor
    second: Tensor


def reduced_minima(M: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor) -> tuple[Minima, Minima]:
    """Of each listed row by M_ij + column_offset_j, and of each column by M_ij + row_offset_i; ties to the first."""
    M = M.double()[rows.long()]
    return _minima(M + column_offset.double()), _minima((M + row_offset.double()[:, None]).T)


def _minima(values: Tensor) -> Minima:
    padded = torch.nn.functional.pad(values, (0, 2), value=torch.inf)
    ordered, order = padded.sort(dim=1, stable=True)
    return Minima(ordered[:, 0], torch.where(ordered[:, 0].isinf(), -1, order[:, 0]), ordered[:, 1])
