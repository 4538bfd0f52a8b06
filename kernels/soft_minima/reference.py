"""What the pass computes, in float64."""

from torch import Tensor


def soft_minima(
    M: Tensor, rows: Tensor, row_offset: Tensor, column_offset: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """-t log sum exp(-(.) / t) of M_ij + column_offset_j over j, and of M_ij + row_offset_i over the listed i."""
    M = M.double()[rows.long()]
    by_row = -temperature * ((M + column_offset.double()) / -temperature).logsumexp(dim=1)
    by_column = -temperature * ((M + row_offset.double()[:, None]) / -temperature).logsumexp(dim=0)
    return by_row, by_column
