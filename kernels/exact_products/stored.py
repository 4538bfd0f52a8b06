"""Rows that a kernel computes in float64 from the numbers that are stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saematch.kernels.arguments import check_device, check_matrix, check_vector

FLOATS = (torch.float32, torch.float64)


class StoredRows(NamedTuple):
    """Rows `(F, K)` in float64, computed from stored numbers and a scale for each row; see `exact_products`.

    Entry (i, k) is `values[i, k] * scales[p, i] * factors[k]` where `multiplied[k]`, and `values[i, k] / scales[p, i] *
    factors[k]` elsewhere, for p = `part[k]`. Each operation rounds once.

    Attributes:
        values: float32 or float64, `(F, K)`.
        scales: float64, `(P, F)`.
        part: int64, `(K,)`.
        multiplied: bool, `(K,)`.
        factors: float64, `(K,)`.
    """

    values: Tensor
    scales: Tensor
    part: Tensor
    multiplied: Tensor
    factors: Tensor

    def float64(self, rows: Tensor) -> Tensor:
        """Return the listed rows, `(R, K)`."""
        values, scales = self.values[rows].double(), self.scales[self.part][:, rows].T
        return torch.where(self.multiplied, values * scales, values / scales) * self.factors

    def check(self, name: str, device: torch.device) -> None:
        """Raise `MatchError` unless the attributes fit each other, and lie on the device."""
        check_matrix(self.values, name, *FLOATS)
        check_matrix(self.scales, f"the scales of {name}", torch.float64)
        check_device(device, **{name: self.values, f"the scales of {name}": self.scales})
        features, width = self.values.shape
        check_vector(self.scales[0], f"a scale of {name}", features, device, torch.float64)
        for what, vector, dtype in (
            ("part", self.part, torch.int64),
            ("multiplied", self.multiplied, torch.bool),
            ("factors", self.factors, torch.float64),
        ):
            check_vector(vector, f"{what} of {name}", width, device, dtype)


def as_stored(rows: Tensor | StoredRows) -> StoredRows:
    """Return the rows of a matrix as they are."""
    if isinstance(rows, StoredRows):
        return rows
    features, width = rows.shape
    ones, zeros = rows.new_ones, rows.new_zeros
    return StoredRows(
        rows,
        ones((1, features), dtype=torch.float64),
        zeros(width, dtype=torch.int64),
        ones(width, dtype=torch.bool),
        ones(width, dtype=torch.float64),
    )
