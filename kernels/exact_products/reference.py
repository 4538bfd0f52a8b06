"""The specification of the pass."""

from torch import Tensor

from saematch.kernels.exact_products.stored import StoredRows, as_stored


def exact_products(
    x: Tensor | StoredRows, y: Tensor | StoredRows, rows: Tensor, columns: Tensor, a: Tensor, b: Tensor
) -> Tensor:
    """Return <x_i - a, y_j - b> of the listed pairs, `(pairs,)`, in float64."""
    return ((as_stored(x).float64(rows) - a) * (as_stored(y).float64(columns) - b)).sum(dim=1)
