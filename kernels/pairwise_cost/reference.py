"""The specification of the pass, in float64."""

from torch import Tensor


def pairwise_cost(x: Tensor, y: Tensor, row_constant: Tensor, column_constant: Tensor) -> Tensor:
    """Return <x_i, y_j> + p_i + q_j `(F_A, F_B)` of all rows of `x (F_A, K)` and `y (F_B, K)`."""
    return x.double() @ y.double().T + row_constant.double()[:, None] + column_constant.double()
