"""Squared distances whose passes run in Triton kernels, on the GPU where the rows then lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.base import Lists, T
from saematch.cost.distances import DistanceCost
from saematch.errors import MatchError
from saematch.numeric.rounding import Floats, Indices, Rows

if TYPE_CHECKING:
    from saematch.kernels import Costs

ROW_BLOCK_BYTES = 2**30  # of products at a time, where they are not kept


class KernelCost(DistanceCost):
    """`DistanceCost` on a GPU: products in a precision of choice, lists and exact values made where they are."""

    def __init__(self, x: Rows, y: Rows, device: torch.device, *, memory: int = 0, precision: str = "ieee") -> None:
        from saematch import kernels  # not before it is needed: it imports triton

        self._kernels, self._precision = kernels, kernels.precision_named(precision)
        super().__init__(x, y, torch.device("cpu"), memory=memory)
        self.device, self._block_bytes = device, ROW_BLOCK_BYTES
        model = "" if self._precision.is_proved else ", trusting a model of how tensor cores round"
        self.precision = f"{precision} chooses, float64 proves{model}"
        self.backend = "triton, interpreted" if kernels.is_interpreted() else "triton"
        self._centres = self._tensor(self._x.centre), self._tensor(self._y.centre)
        self._on_device = self._or_refuse(lambda: (self._tensor(self._x.rows), self._tensor(self._y.rows)))
        self._costs = self._or_refuse(self._products)
        if self.stored:
            try:
                self._costs = kernels.stored(kernels.pairwise_cost(self._costs))
            except torch.OutOfMemoryError:
                super()._let_go()

    def _product_error(self, width: int) -> float:
        """The rows are rounded to float32 before they are split: 2^-24 each, and eight roundings to spare."""
        return self._precision.error(width) + 8 * 2.0**-24

    def _products(self) -> Costs:
        """One side after the other: from here on there are parts, and no working copies."""
        parts = []
        for number, side in enumerate((self._x, self._y)):
            parts.append(self._kernels.split(side.working.to(self.device), self._precision, number))
            del side.working
        return self._kernels.Costs(parts[0], parts[1], self._precision)

    @override
    def _let_go(self) -> None:
        """Rows take the place of products."""
        super()._let_go()
        del self._costs
        self._x.prepare(self._x.scale, -2.0, torch.device("cpu"))
        self._y.prepare(self._y.scale, 1.0, torch.device("cpu"))
        self._costs = self._or_refuse(self._products)

    @override
    def with_room(self, run: Callable[[], T]) -> T:
        """After the products, the row blocks become smaller."""
        remedies = [self._let_go] * self.stored + [self._narrow] * (self._block_bytes == ROW_BLOCK_BYTES)
        for remedy in remedies:
            # The remedy comes after the exception, which holds on to what did not fit.
            with suppress(torch.OutOfMemoryError):
                return run()
            remedy()
        return self._or_refuse(run)

    def _narrow(self) -> None:
        self._block_bytes //= 8
        self._notes += " (in smaller row blocks: the device has little memory)"

    def _or_refuse(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except torch.OutOfMemoryError as error:
            K = self._x.rows.shape[1]
            parts = self._precision.dtype.itemsize * len(self._precision.pairs)
            rows = sum(self.shape) * K * (self._x.rows.itemsize + parts)
            raise MatchError(
                f"not enough memory on {self.device}: rows and their parts in {self._precision.name} take "
                f'{rows / 1e9:.1f} GB, passes about {4 * self._block_bytes / 1e9:.1f} GB more; give backend="torch", a '
                "precision of fewer parts, or a larger GPU"
            ) from error

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:

        def run() -> Tensor:
            listed = self._tensor(rows), self._tensor(columns)
            products: Tensor = self._kernels.exact_products(*self._on_device, *listed, *self._centres)
            return products.cpu()

        exact: Floats = self.with_room(run).numpy() * (-2 * self.scale)
        return exact

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        return self.with_room(lambda: super(KernelCost, self).block(rows, columns))

    def _cheapest(
        self,
        rows: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
    ) -> tuple[Lists, Lists]:
        def run() -> list[NDArray[Any]]:
            found = self._kernels.candidates(
                self._costs,
                self._tensor(-offset),
                self._tensor(constant),
                k,
                self._tensor(limit),
                self._tensor(rows),
                self._block_bytes,
            )
            return [each.cpu().numpy() for lists in found for each in lists]

        row_values, row_partners, column_values, column_partners = self.with_room(run)
        return Lists(row_values, row_partners), Lists(column_values, column_partners)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)
