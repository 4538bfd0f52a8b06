"""Products of all rows of one side with all rows of the other side, made in Triton kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.passes import Passes, ShortLists, T
from saematch.cost.sides import Side
from saematch.errors import MatchError
from saematch.numeric.rounding import Floats, Indices

if TYPE_CHECKING:
    from saematch.kernels import Costs

ROW_BLOCK_BYTES = 2**30  # of products at a time, if they are not stored


class KernelProducts(Passes):
    """M_ij = -2 <x'_i, y'_j> on a GPU: products in a chosen precision, lists, and float64 values are all made there.

    `sides` are the source and the target; x' and y' are their centred and scaled rows. Raises `MatchError` if the rows
    and their parts do not fit into the memory of the GPU.
    """

    def __init__(self, sides: tuple[Side, Side], device: torch.device, memory: int, precision: str) -> None:
        # Kernels are imported where they are needed: they import triton.
        from saematch import kernels

        super().__init__((len(sides[0].rows), len(sides[1].rows)), memory)
        self._kernels, self._precision = kernels, kernels.precision_named(precision)
        self.device, self._sides = device, sides
        self._row_block_bytes = ROW_BLOCK_BYTES
        model = "" if self._precision.is_proved else ", trusting a model of how tensor cores round"
        self.precision = f"{precision} chooses, float64 proves{model}"
        self.backend = "triton, interpreted" if kernels.is_interpreted() else "triton"

        self._centres = [self._on_device(side.centre) for side in sides]
        self._rows = self._or_refuse(lambda: [self._on_device(side.rows) for side in sides])
        self._costs = self._or_refuse(self._split_rows)
        if self.stored:
            try:
                self._costs = kernels.stored(kernels.pairwise_cost(self._costs))
            except torch.OutOfMemoryError:
                super().drop_stored()

    def relative_error(self, width: int) -> float:
        """Return a bound for the error of float32 products and of their sum with a price, relative to |x'_i| |y'_j|.

        The rows are rounded to float32 before they are split: 2^-24 each, and eight roundings are counted to be safe.
        """
        return self._precision.error(width) + 8 * 2.0**-24

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x_i - a, y_j - b> of the listed pairs in float64, with the centres a and b."""

        def run() -> Tensor:
            pairs = self._on_device(rows), self._on_device(columns)
            products: Tensor = self._kernels.exact_products(*self._rows, *pairs, *self._centres)
            return products.cpu()

        products: Floats = self.retry_if_out_of_memory(run).numpy()
        return products

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x'_i, y'_j> of all pairs of the listed rows and columns in float64."""
        x, y = self._sides

        def run() -> Tensor:
            return (x.float64(rows).to(self.device) @ y.float64(columns).to(self.device).T).cpu()

        product: Floats = self.retry_if_out_of_memory(run).numpy()
        return product

    @override
    def cheapest(
        self,
        rows: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
    ) -> tuple[ShortLists, ShortLists]:
        def run() -> list[ShortLists]:
            lists = self._kernels.candidates(
                self._costs,
                self._on_device(-offset),
                self._on_device(constant),
                k,
                self._on_device(limit),
                self._on_device(rows),
                self._row_block_bytes,
            )
            return [ShortLists(one.values.cpu().numpy(), one.indices.cpu().numpy()) for one in lists]

        by_row, by_column = self.retry_if_out_of_memory(run)
        return by_row, by_column

    @override
    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        # Each remedy comes outside the handler: the exception holds on to what did not fit.
        if self.stored:
            with suppress(torch.OutOfMemoryError):
                return run()
            self.drop_stored()
        if self._row_block_bytes == ROW_BLOCK_BYTES:
            with suppress(torch.OutOfMemoryError):
                return run()
            self._row_block_bytes //= 8
            self.notes.append("(in smaller row blocks: the device has little memory)")
        return self._or_refuse(run)

    @override
    def drop_stored(self) -> None:
        super().drop_stored()
        del self._costs
        self._costs = self._or_refuse(self._split_rows)

    def _split_rows(self) -> Costs:
        """Return the products as parts of rows, whose working copies are on the device only while they are split."""
        parts = []
        for number, (side, factor) in enumerate(zip(self._sides, (-2.0, 1.0), strict=True)):
            copy = side.working_copy(factor).to(self.device)
            parts.append(self._kernels.split(copy, self._precision, number))
        return self._kernels.Costs(parts[0], parts[1], self._precision)

    def _or_refuse(self, run: Callable[[], T]) -> T:
        """Return `run()`; raise `MatchError` if the device has too little memory for it."""
        try:
            return run()
        except torch.OutOfMemoryError as error:
            width, itemsize = self._sides[0].rows.shape[1], self._sides[0].rows.itemsize
            parts = self._precision.dtype.itemsize * len(self._precision.pairs)
            row_bytes = sum(self.shape) * width * (itemsize + parts)
            raise MatchError(
                f"not enough memory on {self.device}: rows and their parts in {self._precision.name} take "
                f"{row_bytes / 1e9:.1f} GB, passes about {4 * self._row_block_bytes / 1e9:.1f} GB more; give "
                'backend="torch", a precision of fewer parts, or a larger GPU'
            ) from error

    def _on_device(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)
