"""Squared distances whose passes run in Triton kernels, on the GPU where the rows then lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.cost.base import Lists
from saematch.cost.distances import DistanceCost
from saematch.cost.rounding import Floats, Indices, Rows
from saematch.errors import MatchError

if TYPE_CHECKING:
    from saematch.kernels import Costs

STRIPE_BYTES = 2**30  # of products at a time, where they are not kept
T = TypeVar("T")


class KernelCost(DistanceCost):
    """`DistanceCost` on a GPU: products in a precision of choice, lists and exact values made where they are."""

    def __init__(self, x: Rows, y: Rows, device: torch.device, *, memory: int = 0, precision: str = "ieee") -> None:
        from saematch import kernels  # not before it is needed: it imports triton

        self._kernels, self._precision = kernels, kernels.precision_named(precision)
        super().__init__(x, y, torch.device("cpu"), memory=memory)
        self.device, self._not_kept = device, ""
        model = "" if self._precision.is_proved else ", trusting a model of how tensor cores round"
        self.precision = f"{precision} chooses, float64 proves{model}"
        self.backend = "triton, interpreted" if kernels.is_interpreted() else "triton"
        self._centres = self._tensor(self._x.centre), self._tensor(self._y.centre)
        self._costs = self._within_memory(self._made)

    @property
    def form(self) -> str:
        """See `Cost`."""
        return super().form + self._not_kept

    def _product_error(self, width: int) -> float:
        """The rows are rounded to float32 before they are split: 2^-24 each, and eight roundings to spare."""
        return self._precision.error(width) + 8 * 2.0**-24

    def _made(self) -> Costs:
        """The operands, or the products where they are to be kept and fit."""
        self._on_device = self._tensor(self._x.rows), self._tensor(self._y.rows)
        x, y = self._x.working.to(self.device), self._y.working.to(self.device)
        costs = self._kernels.products(x, y, self._precision.name)
        del x, y, self._x.working, self._y.working  # from here on there are parts
        if self.stored:
            try:
                return self._kernels.stored(self._kernels.pairwise_cost(costs))
            except torch.OutOfMemoryError:
                self.stored = False
                self._not_kept = f" ({4 * self.shape[0] * self.shape[1] / 1e9:.1f} GB of products did not fit)"
        return costs

    def _within_memory(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except torch.OutOfMemoryError as error:
            K = self._x.rows.shape[1]
            rows = sum(self.shape) * K * (self._x.rows.itemsize + 4 * len(self._precision.pairs))
            raise MatchError(
                f"not enough memory on {self.device}: rows and their parts in {self._precision.name} take "
                f'{rows / 1e9:.1f} GB, passes about {4 * STRIPE_BYTES / 1e9:.0f} GB more; give backend="torch", a '
                "precision of fewer parts, or a larger GPU"
            ) from error

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """See `Cost`."""
        x, y = self._on_device
        products = self._kernels.exact_products(x, y, self._tensor(rows), self._tensor(columns), *self._centres)
        exact: Floats = products.cpu().numpy() * (-2 * self.scale)
        return exact

    def soft_minima(self, prices: Floats, potentials: Floats, temperature: float) -> tuple[Floats, Floats]:
        """See `Cost`."""
        u, v = (self._tensor(-each.astype(np.float32)) for each in (potentials, prices))
        by_row, by_column = self._kernels.soft_minima(self._costs, u, v, temperature)
        return by_row.cpu().numpy(), by_column.cpu().numpy()

    def _cheapest(
        self, rows: Indices, constant: NDArray[np.float32], offset: NDArray[np.float32], limit: NDArray[np.float32],
        k: int,
    ) -> tuple[Lists, Lists]:  # fmt: skip
        def run(stripe_bytes: int) -> list[Tensor]:
            found = self._kernels.candidates(
                self._costs, self._tensor(-offset), self._tensor(constant), k, self._tensor(limit), self._tensor(rows),
                stripe_bytes,
            )  # fmt: skip
            return [each for lists in found for each in lists]

        try:
            found = run(STRIPE_BYTES)
        except torch.OutOfMemoryError:
            self._not_kept += " (in smaller stripes: the device has little room)"
            found = self._within_memory(lambda: run(STRIPE_BYTES // 8))
        row_values, row_partners, column_values, column_partners = (each.cpu().numpy() for each in found)
        return Lists(row_values, row_partners), Lists(column_values, column_partners)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)
