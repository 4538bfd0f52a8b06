"""The specification of the pass."""

from torch import Tensor


def exact_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return <x_i - a, y_j - b> of the listed pairs, `(pairs,)`, in float64."""
    return ((x.double()[rows] - a) * (y.double()[columns] - b)).sum(dim=1)
