"""Walks over all rows of a side: on the CPU by compiled loops, on a GPU by torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.cost.transform import BLOCK, Transform, measure_and_round_rows, measure_rows, quantised_tensor
from saematch.numeric.rounding import Floats
from saematch.numeric.rows import Rows, chunks
from saematch.numeric.threads import ThreadPool

if TYPE_CHECKING:
    from saematch.kernels import StoredRows

_ENTRIES = 2**26  # of the rows that a GPU computes in float64 at a time
_ROUNDED = 4  # nanoseconds that an entry takes if it is rounded to a whole number


class Whole(NamedTuple):
    """Rows, less their centre, transformed and rounded to whole numbers: `values * scale / (unit * 64)`.

    Attributes:
        values: int8, `(F, 64 n)`, on the device of the walks.
        unit: a power of two for each row, `(F,)`.
        scale: float32, `(F,)`.
        square: the square of the residual of (x_i - centre) * unit_i * 64, `(F,)`; see `quantised`.
    """

    values: Tensor
    unit: Floats
    scale: NDArray[np.float32]
    square: Floats


class Prepared(NamedTuple):
    """The measures of rows from their centre and from another point, and the rows as whole numbers.

    Attributes:
        square: |x_i - centre|^2, `(F,)`.
        toward: <x_i - centre, other - centre>, `(F,)`.
        from_other: |x_i - other|^2, `(F,)`.
        sums: the sum of x_i - centre, `(K,)`.
        whole: the rows as whole numbers, if these were wanted.
    """

    square: Floats
    toward: Floats
    from_other: Floats
    sums: Floats
    whole: Whole | None


class Walks(ABC):
    """Walks over `rows`, whose results that have the size of the rows stay on a device."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @abstractmethod
    def prepared(self, centre: Floats, other: Floats, whole: bool) -> Prepared:
        """Measure the rows, and round them to `whole` numbers if these are wanted."""

    @abstractmethod
    def float32(self, centre: Floats, scale: float) -> Tensor:
        """Return (x_i - centre) * scale for all rows, rounded once to float32."""


class HostWalks(Walks):
    """Walks on the CPU. No result depends on the number of threads."""

    @override
    def prepared(self, centre: Floats, other: Floats, whole: bool) -> Prepared:
        rows, parts, points = self.rows, chunks(len(self.rows)), (centre, other, other - centre)
        square, toward, from_other = (np.empty(len(rows)) for _ in range(3))
        sums = np.zeros((len(parts), rows.width))

        def given(n: int) -> tuple[Any, int, int, Any, Any, Floats]:
            measures, memory = (square, toward, from_other, sums[n]), np.empty(rows.width)
            return rows.arrays, parts[n].start, parts[n].stop, points, measures, memory

        if not whole:
            with ThreadPool(rows.size) as pool:
                pool.run(partial(measure_rows, *given(n)) for n in range(len(parts)))
            return Prepared(square, toward, from_other, sums.sum(axis=0), None)

        transform = Transform.of(rows.width)
        values = np.empty((len(rows), transform.width), dtype=np.int8)
        unit, scale, residual = np.empty(len(rows)), np.empty(len(rows), dtype=np.float32), np.empty(len(rows))

        def run(n: int) -> None:
            mixed = np.empty((2, transform.width), dtype=np.float32)
            measure_and_round_rows(*given(n), tuple(transform), (values, unit, scale, residual), mixed)

        with ThreadPool(_ROUNDED * rows.size) as pool:
            pool.run(partial(run, n) for n in range(len(parts)))
        numbers = Whole(torch.from_numpy(values), unit, scale, residual)
        return Prepared(square, toward, from_other, sums.sum(axis=0), numbers)

    @override
    def float32(self, centre: Floats, scale: float) -> Tensor:
        copy = np.empty((len(self.rows), self.rows.width), dtype=np.float32)
        self.rows.centred(np.arange(len(self.rows)), centre, scale, copy)
        return torch.from_numpy(copy)


class DeviceWalks(Walks):
    """Walks on a GPU, which has the rows as they are stored.

    Sums of the rows are added up in another order than on the CPU. Whole numbers are the same, bit for bit.
    """

    def __init__(self, rows: Rows, stored: StoredRows) -> None:
        super().__init__(rows)
        self.stored, self._device = stored, stored.values.device

    @override
    def prepared(self, centre: Floats, other: Floats, whole: bool) -> Prepared:
        a, b = to_device(centre, self._device), to_device(other, self._device)
        transform = Transform.of(self.rows.width)
        order, signs = (to_device(one, self._device) for one in (transform.order.astype(np.int64), transform.signs))
        square, toward, from_other, unit, residual = np.empty((5, len(self.rows)))
        scale, sums = np.empty(len(self.rows), dtype=np.float32), torch.zeros_like(a)
        shape = len(self.rows) if whole else 0, transform.width
        values = torch.empty(shape, dtype=torch.int8, device=self._device)
        for part, rows in self._parts():
            from_other[part] = (rows - b).square_().sum(dim=1).cpu()
            centred = rows.sub_(a)
            square[part] = centred.square().sum(dim=1).cpu()
            toward[part] = (centred @ (b - a)).cpu()
            sums += centred.sum(dim=0)
            if whole:
                # The same power of two as in `measure_and_round_rows`.
                unit[part] = np.ldexp(1.0 / BLOCK, -np.frexp(np.sqrt(square[part]))[1])
                padded = torch.zeros((len(centred), transform.width), dtype=torch.float32, device=self._device)
                padded[:, : self.rows.width] = centred * to_device(unit[part], self._device)[:, None]
                values[part], of_rows, left = quantised_tensor(padded, order, signs)
                scale[part], residual[part] = of_rows.cpu(), left.cpu()
        numbers = Whole(values, unit, scale, residual) if whole else None
        return Prepared(square, toward, from_other, sums.cpu().numpy(), numbers)

    @override
    def float32(self, centre: Floats, scale: float) -> Tensor:
        a = to_device(centre, self._device)
        copy = torch.empty((len(self.rows), self.rows.width), dtype=torch.float32, device=self._device)
        for part, rows in self._parts():
            copy[part] = (rows - a) * scale
        return copy

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows in float64, some successive rows at a time."""
        step = max(1, _ENTRIES // max(1, self.rows.width))
        for start in range(0, len(self.rows), step):
            part = slice(start, min(start + step, len(self.rows)))
            yield part, self.stored.float64(torch.arange(part.start, part.stop, device=self._device))


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device."""
    return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(device)
