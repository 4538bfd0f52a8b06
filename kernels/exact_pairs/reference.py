"""What the pass computes, in float64."""

import torch
from torch import Tensor


def exact_pairs(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, ends: list[int]) -> Tensor:
    """|x_i - y_j|^2 over the columns of each part, `(pairs, parts)`, in float64."""
    squares = (x.double()[rows] - y.double()[columns]) ** 2
    return torch.stack([part.sum(dim=1) for part in squares.tensor_split(ends[:-1], dim=1)], dim=1)


def exact_products(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """<x_i - a, y_j - b>, `(pairs,)`, in float64."""
    return ((x.double()[rows] - a) * (y.double()[columns] - b)).sum(dim=1)
