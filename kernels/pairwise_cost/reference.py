"""The specification of the pass, in float64."""

from torch import Tensor


def pairwise_cost(M: Tensor, rows: Tensor, row_constant: Tensor, column_constant: Tensor) -> Tensor:
    """Return M_ij + p_i + q_j `(R, F_B)` of the listed rows of `M (F_A, F_B)`."""
    return M.double()[rows.long()] + row_constant.double()[:, None] + column_constant.double()
