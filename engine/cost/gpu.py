"""Products of all rows of one side with all rows of the other side, made in Triton kernels on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.passes import ShortLists, T
from saematch.cost.products import Operands, Products, float32_operands, int8_operands
from saematch.cost.sides import Side
from saematch.cost.upload import upload
from saematch.cost.walks import DeviceWalks, HostWalks, Walks, to_device
from saematch.errors import MatchError
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.rows import Rows

if TYPE_CHECKING:
    from saematch import kernels

ROW_BLOCK_BYTES = 2**30  # of products at a time


class KernelProducts(Products):
    """M_ij = -2 <x'_i, y'_j> on a GPU: products, lists, and float64 values are all made there.

    `sides` are the source and the target; x' and y' are their centred and scaled rows. Raises `MatchError` if the rows
    do not fit into the memory of the GPU.
    """

    def __init__(self, sides: tuple[Side, Side], device: torch.device, precision: str, absolute: bool = False) -> None:
        # Kernels are imported where they are needed: they import triton.
        from saematch import kernels

        super().__init__(sides, absolute)
        self._kernels, self.device = kernels, device
        self._row_block_bytes = ROW_BLOCK_BYTES
        self.backend = "triton, interpreted" if kernels.is_interpreted() else "triton"

        self._centres = [self._on_device(side.centre) for side in sides]
        self._rows = self._or_refuse(lambda: [stored_rows(side.walks, device) for side in sides])
        self.precision = precision

    @cached_property
    def _prepared(self) -> tuple[Operands, kernels.Products]:
        """The operands, without the matrices that the device has, and the products that it makes of them."""
        made = int8_operands(self._sides) if self.precision == "int8" else float32_operands(self._sides)
        of_kind = self._kernels.Int8Products if self.precision == "int8" else self._kernels.Float32Products
        given = *made.values, *made.scales
        products = self._or_refuse(lambda: of_kind(*[one.to(self.device) for one in given], absolute=self.absolute))
        return made._replace(values=[], scales=[]), products

    @property
    @override
    def operands(self) -> Operands:
        return self._prepared[0]

    @property
    def _products(self) -> kernels.Products:
        return self._prepared[1]

    @override
    def in_float32(self) -> Products:
        self.precision = "float32"
        self.__dict__.pop("_prepared", None)
        return self

    @override
    def total(self) -> float:
        step = max(16, self._row_block_bytes // (4 * max(1, self.shape[1])) // 16 * 16)
        blocks = (slice(top, min(top + step, self.shape[0])) for top in range(0, self.shape[0], step))
        return math.fsum(float(self._products.part(rows).block().sum(dtype=torch.float64)) for rows in blocks)

    @override
    def exact(self, rows: Indices, columns: Indices) -> Floats:
        def run() -> Tensor:
            pairs = self._on_device(rows), self._on_device(columns)
            products: Tensor = self._kernels.exact_products(*self._rows, *pairs, *self._centres)
            return products.cpu()

        products: Floats = self.retry_if_out_of_memory(run).numpy()
        return products

    @override
    def block(self, rows: Indices, columns: Indices) -> Floats:
        def run() -> Tensor:
            x, y = (
                (of_side.float64(self._on_device(some)) - centre) * side.scale
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
        columns: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
        k_of_columns: int,
    ) -> tuple[ShortLists, ShortLists]:
        def run() -> list[ShortLists]:
            lists = self._kernels.candidates(
                self._products,
                self._on_device(-offset),
                self._on_device(constant),
                k,
                self._on_device(limit if k_of_columns else np.full_like(limit, -np.inf)),
                *(
                    None if len(some) == size else self._on_device(some)
                    for some, size in zip((rows, columns), self.shape, strict=True)
                ),
                self._row_block_bytes,
            )
            return [ShortLists(one.values.cpu().numpy(), one.indices.cpu().numpy()) for one in lists]

        by_row, by_column = self.retry_if_out_of_memory(run)
        return by_row, ShortLists(by_column.values[:, :k_of_columns], by_column.partners[:, :k_of_columns])

    @override
    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        # The remedy comes outside the handler: the exception holds on to what did not fit.
        if self._row_block_bytes == ROW_BLOCK_BYTES:
            with suppress(torch.OutOfMemoryError):
                return run()
            self._row_block_bytes //= 8
        return self._or_refuse(run)

    def _or_refuse(self, run: Callable[[], T]) -> T:
        """Return `run()`; raise `MatchError` if the device has too little memory for it."""
        try:
            return run()
        except torch.OutOfMemoryError as error:
            rows = self._sides[0].rows
            row_bytes = sum(self.shape) * rows.width * (rows.values.itemsize + (1 if self.precision == "int8" else 4))
            raise MatchError(
                f"not enough memory on {self.device}: rows take {row_bytes / 1e9:.1f} GB, passes about "
                f'{4 * self._row_block_bytes / 1e9:.1f} GB more; give device="cpu", or a larger GPU'
            ) from error

    def _on_device(self, values: NDArray[np.generic]) -> Tensor:
        return to_device(values, self.device)


def walks_on(device: torch.device, x: Rows, y: Rows) -> tuple[Walks, Walks]:
    """Return the walks over the rows of both sides for kernels on a device: there, if it is a GPU."""
    if device.type == "cpu":
        return HostWalks(x), HostWalks(y)
    return DeviceWalks(x, _upload(x, device)), DeviceWalks(y, _upload(y, device))


def stored_rows(walks: Walks, device: torch.device) -> kernels.StoredRows:
    """Return rows on the device, as they are stored."""
    return walks.stored if isinstance(walks, DeviceWalks) else _upload(walks.rows, device)


def _upload(rows: Rows, device: torch.device) -> kernels.StoredRows:
    """Return rows on the device. Pairs that are in work at the same time share the weights of a layer."""
    from saematch.kernels import StoredRows

    values = rows.copies.get(device)
    if values is None:
        values = rows.copies[device] = upload(rows.values, device)
    part = np.searchsorted(rows.ends, np.arange(rows.width), side="right")
    of_columns = part, rows.multiplied[part], rows.factors[part]
    return StoredRows(values, *(to_device(one, device) for one in (rows.scales, *of_columns)))
