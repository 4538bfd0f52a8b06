"""Walks over all rows of a side: on the CPU by compiled loops, on a GPU by torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.transform import Transform, quantise_rows, quantised_tensor
from saematch.numeric.loops import centre_rows, measure_rows
from saematch.numeric.rounding import Floats
from saematch.numeric.rows import Rows, chunks
from saematch.numeric.threads import ThreadPool

if TYPE_CHECKING:
    from saematch.kernels import StoredRows

_ENTRIES = 2**26  # of the rows that a GPU computes in float64 at a time


class Measured(NamedTuple):
    """Measures of all rows, from their centre and from another point.

    Attributes:
        square: |x_i - centre|^2, `(F,)`.
        toward: <x_i - centre, other - centre>, `(F,)`.
        from_other: |x_i - other|^2, `(F,)`.
        sums: the sum of x_i - centre, `(K,)`.
    """

    square: Floats
    toward: Floats
    from_other: Floats
    sums: Floats


class Whole(NamedTuple):
    """Rows as whole numbers, see `quantise_rows`."""

    values: Tensor
    scale: NDArray[np.float32]
    square: Floats


class Walks(ABC):
    """Walks over `rows`, whose results that have the size of the rows stay on a device."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @abstractmethod
    def measured(self, centre: Floats, other: Floats) -> Measured:
        """Measure the rows."""

    @abstractmethod
    def float32(self, centre: Floats, scale: float) -> Tensor:
        """Return (x_i - centre) * scale for all rows, rounded once to float32."""

    @abstractmethod
    def quantised(self, centre: Floats, unit: Floats, transform: Transform) -> Whole:
        """Return (x_i - centre) * unit_i for all rows, transformed and rounded to whole numbers."""


class HostWalks(Walks):
    """Walks on the CPU. No result depends on the number of threads."""

    @override
    def measured(self, centre: Floats, other: Floats) -> Measured:
        parts, rows = chunks(len(self.rows)), self.rows
        square, toward, from_other = (np.empty(len(rows)) for _ in range(3))
        sums = np.zeros((len(parts), rows.width))
        points, filled = (centre, other), (square, toward, from_other)
        with ThreadPool(rows.size) as pool:
            pool.run(
                partial(measure_rows, rows.arrays, part.start, part.stop, *points, *filled, sums[n])
                for n, part in enumerate(parts)
            )
        return Measured(*filled, sums.sum(axis=0))

    @override
    def float32(self, centre: Floats, scale: float) -> Tensor:
        copy = np.empty((len(self.rows), self.rows.width), dtype=np.float32)
        self._run(centre_rows, centre, scale, copy)
        return torch.from_numpy(copy)

    @override
    def quantised(self, centre: Floats, unit: Floats, transform: Transform) -> Whole:
        values = np.empty((len(self.rows), transform.width), dtype=np.int8)
        scale, square = np.empty(len(self.rows), dtype=np.float32), np.empty(len(self.rows))
        self._run(quantise_rows, centre, unit, *transform, values, scale, square)
        return Whole(torch.from_numpy(values), scale, square)

    def _run(self, loop: Any, *given: Any) -> None:
        """Run a compiled loop over all rows, on all threads."""
        with ThreadPool(self.rows.size) as pool:
            pool.run(
                partial(loop, self.rows.arrays, part.start, part.stop, *given) for part in pool.split(len(self.rows))
            )


class DeviceWalks(Walks):
    """Walks on a GPU, which has the rows as they are stored.

    Sums of the rows are added up in another order than on the CPU. Whole numbers are the same, bit for bit.
    """

    def __init__(self, rows: Rows, stored: StoredRows) -> None:
        super().__init__(rows)
        self.stored, self._device = stored, stored.values.device

    @override
    def measured(self, centre: Floats, other: Floats) -> Measured:
        a, b = to_device(centre, self._device), to_device(other, self._device)
        square, toward, from_other, sums = [], [], [], torch.zeros_like(a)
        for part in self._parts():
            rows = self.stored.float64(part)
            from_other.append((rows - b).square_().sum(dim=1))
            rows -= a
            toward.append(rows @ (b - a))
            sums += rows.sum(dim=0)
            square.append(rows.square_().sum(dim=1))
        of_rows = [torch.cat(parts).cpu().numpy() for parts in (square, toward, from_other)]
        return Measured(of_rows[0], of_rows[1], of_rows[2], sums.cpu().numpy())

    @override
    def float32(self, centre: Floats, scale: float) -> Tensor:
        a = to_device(centre, self._device)
        return torch.cat([((self.stored.float64(part) - a) * scale).float() for part in self._parts()])

    @override
    def quantised(self, centre: Floats, unit: Floats, transform: Transform) -> Whole:
        a, power = to_device(centre, self._device), to_device(unit, self._device)
        order, signs = (
            to_device(transform.order.astype(np.int64), self._device),
            to_device(transform.signs, self._device),
        )
        found = []
        for part in self._parts():
            rows = torch.zeros((len(part), transform.width), dtype=torch.float32, device=self._device)
            rows[:, : self.rows.width] = (self.stored.float64(part) - a) * power[part, None]
            found.append(quantised_tensor(rows, order, signs))
        values, scale, square = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Whole(values, scale.cpu().numpy(), square.cpu().numpy())

    def _parts(self) -> list[Tensor]:
        """Split the indices of all rows; at least one part."""
        indices = torch.arange(len(self.rows), device=self._device)
        return list(torch.split(indices, max(1, _ENTRIES // max(1, self.rows.width))))


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device."""
    return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(device)
