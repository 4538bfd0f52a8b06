"""Products of all rows of one side with all rows of the other side, made in Triton kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.passes import Passes, ShortLists, T
from saematch.cost.sides import Side
from saematch.errors import MatchError
from saematch.numeric.rounding import UNIT_32, Floats, Indices, gamma

ROW_BLOCK_BYTES = 2**30  # of products at a time


class KernelProducts(Passes):
    """M_ij = -2 <x'_i, y'_j> on a GPU: float32 products, lists, and float64 values are all made there.

    `sides` are the source and the target; x' and y' are their centred and scaled rows. Raises `MatchError` if the rows
    do not fit into the memory of the GPU.
    """

    def __init__(self, sides: tuple[Side, Side], device: torch.device, memory: int, precision: str) -> None:
        # Kernels are imported where they are needed: they import triton.
        from saematch import kernels

        super().__init__((len(sides[0].rows), len(sides[1].rows)), memory)
        self._kernels = kernels
        self.device, self._sides = device, sides
        self._row_block_bytes = ROW_BLOCK_BYTES
        self.precision = f"{precision} chooses, float64 proves"
        self.backend = "triton, interpreted" if kernels.is_interpreted() else "triton"

        self._centres = [self._on_device(side.centre) for side in sides]
        self._rows = self._or_refuse(lambda: [self._on_device(side.rows) for side in sides])
        copies = (side.working_copy(factor) for side, factor in zip(sides, (-2.0, 1.0), strict=True))
        self._products = self._or_refuse(lambda: kernels.Float32Products(*(copy.to(self.device) for copy in copies)))

    def relative_error(self, width: int) -> float:
        """Return a bound for the error of float32 products and of their sum with a price, relative to |x'_i| |y'_j|.

        The rounding of both rows to float32 is among the eight roundings that are to spare.
        """
        return gamma(width + 8, UNIT_32)

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

        def run() -> Tensor:
            x, y = (
                (of_side[self._on_device(some)] - centre) * side.scale
                for of_side, some, centre, side in zip(
                    self._rows, (rows, columns), self._centres, self._sides, strict=True
                )
            )
            return (x @ y.T).cpu()

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
                self._products,
                self._on_device(-offset),
                self._on_device(constant),
                k,
                self._on_device(limit),
                None if len(rows) == self.shape[0] else self._on_device(rows),
                None,
                self._row_block_bytes,
            )
            return [ShortLists(one.values.cpu().numpy(), one.indices.cpu().numpy()) for one in lists]

        by_row, by_column = self.retry_if_out_of_memory(run)
        return by_row, by_column

    @override
    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        # The remedy comes outside the handler: the exception holds on to what did not fit.
        if self._row_block_bytes == ROW_BLOCK_BYTES:
            with suppress(torch.OutOfMemoryError):
                return run()
            self._row_block_bytes //= 8
            self.notes.append("(in smaller row blocks: the device has little memory)")
        return self._or_refuse(run)

    def _or_refuse(self, run: Callable[[], T]) -> T:
        """Return `run()`; raise `MatchError` if the device has too little memory for it."""
        try:
            return run()
        except torch.OutOfMemoryError as error:
            width, itemsize = self._sides[0].rows.shape[1], self._sides[0].rows.itemsize
            row_bytes = sum(self.shape) * width * (itemsize + 4)
            raise MatchError(
                f"not enough memory on {self.device}: rows take {row_bytes / 1e9:.1f} GB, passes about "
                f'{4 * self._row_block_bytes / 1e9:.1f} GB more; give device="cpu", or a larger GPU'
            ) from error

    def _on_device(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)
