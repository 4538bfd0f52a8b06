"""Passes over all pairs: the values of M are made tile by tile, and searched for the cheapest pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from saematch.numeric.loops import scan_columns, scan_rows
from saematch.numeric.rounding import Indices
from saematch.numeric.threads import ThreadPool
from saematch.resources import BLOCK_BYTES

TILE = (1024, BLOCK_BYTES // 4 // 1024)
T = TypeVar("T")


class Tile(NamedTuple):
    """M in float32 for some rows and columns, which are places among the rows and the columns of the pass."""

    rows: slice
    columns: slice
    values: NDArray[np.float32]


class ShortLists(NamedTuple):
    """The smallest values of each row or column, ascending, and their partners; -1 where a list is not full."""

    values: NDArray[np.float32]
    partners: NDArray[Any]

    @classmethod
    def unfilled(cls, values: NDArray[np.float32]) -> ShortLists:
        """Return lists without partners, whose entries must be below `values`."""
        return cls(values, np.full(values.shape, -1, dtype=np.int32))


class Passes(ABC):
    """The values of M, `(F_A, F_B)`, in float32, which every pass over all pairs makes again.

    Attributes:
        device: the device that makes the values.
        backend: the library that makes them.
        precision: what they are computed from: "float32" numbers, or "int8" whole numbers.
    """

    device = torch.device("cpu")
    backend = "torch"
    precision = "float32"

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    @abstractmethod
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
        """Return the `k` smallest m_ij + constant_j of each listed row, and m_ij - offset_i of each listed column.

        `offset (R,)` belongs to the listed rows, `constant (C,)` and `limit (C,)` to the listed columns; both lists
        ascend. Columns list `k_of_columns` values at most, `k` or 0, all below `limit`. Partners are places in the list
        of columns and in that of rows.
        """

    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        """Return `run()`; if the memory of a device is too small for it, run it again with less at a time."""
        return run()


class TilePasses(Passes):
    """Passes on the CPU: each tile is searched while it is in the cache."""

    @abstractmethod
    def make_tiles(self, rows: Indices, columns: Indices) -> Iterator[Tile]:
        """Make M of the listed rows and columns, tile by tile. A tile may be overwritten when the next one is made."""

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
        by_row = ShortLists.unfilled(np.full((len(rows), k), np.inf, dtype=np.float32))
        by_column = ShortLists.unfilled(np.repeat(limit[:, None], k_of_columns, axis=1))
        with ThreadPool(len(rows) * len(columns)) as pool:
            for tile in self.make_tiles(rows, columns):
                pool.run(_search_jobs(pool, tile, constant, offset, by_row, by_column))
        return by_row, by_column


def _search_jobs(
    pool: ThreadPool,
    tile: Tile,
    constant: NDArray[np.float32],
    offset: NDArray[np.float32],
    by_row: ShortLists,
    by_column: ShortLists,
) -> list[Callable[[], object]]:
    """Return jobs that update the lists with the pairs of a tile, for parts of its rows and of its columns."""
    rows, columns, values = tile
    jobs: list[Callable[[], object]] = []
    constant, row_values, row_partners = constant[columns], by_row.values[rows], by_row.partners[rows]
    for part in pool.split(len(values)):
        lists = row_values[part], row_partners[part]
        jobs.append(partial(scan_rows, values[part], constant, lists[0], lists[1], columns.start))
    if not by_column.values.shape[1]:
        return jobs
    offset, column_values, column_partners = offset[rows], by_column.values[columns], by_column.partners[columns]
    for part in pool.split(values.shape[1]):
        lists = column_values[part], column_partners[part]
        jobs.append(partial(scan_columns, values, part.start, offset, lists[0], lists[1], rows.start))
    return jobs
