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
_PAIR = 8  # nanoseconds that a pair takes
_LISTS_BYTES = 2**28  # of the lists of columns, of which each thread has its own
T = TypeVar("T")


class Tile(NamedTuple):
    """M in float32 for some rows and columns, which are places among the rows and the columns of the pass."""

    rows: slice
    columns: slice
    values: NDArray[np.float32]


class ShortLists(NamedTuple):
    """The smallest values of each row or column, ascending, and their partners; -1 where a list is not full."""

    values: NDArray[Any]
    partners: NDArray[Any]

    @classmethod
    def unfilled(cls, values: NDArray[Any]) -> ShortLists:
        """Return lists without partners, whose entries must be below `values`."""
        return cls(values, np.full(values.shape, -1, dtype=np.int32))


class Passes(ABC):
    """The values of M, `(F_A, F_B)`, which every pass over all pairs makes again.

    Attributes:
        device: the device that makes the values.
        backend: the library that makes them.
        precision: what they are computed from: "float64" or "float32" numbers, or "int8" whole numbers.
        number: the number type of the values, np.float32 or np.float64.
    """

    device = torch.device("cpu")
    backend = "torch"
    precision = "float32"
    number: type[np.floating[Any]] = np.float32

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    @abstractmethod
    def cheapest(
        self,
        rows: Indices,
        columns: Indices,
        constant: NDArray[Any],
        offset: NDArray[Any],
        limit: NDArray[Any],
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
        constant: NDArray[Any],
        offset: NDArray[Any],
        limit: NDArray[Any],
        k: int,
        k_of_columns: int,
    ) -> tuple[ShortLists, ShortLists]:
        by_row = ShortLists.unfilled(np.full((len(rows), k), np.inf, dtype=np.float32))

        def search(part: slice) -> ShortLists:
            """Make and search the tiles of some rows; return the lists of the columns among these rows."""
            by_column = ShortLists.unfilled(np.repeat(limit[:, None], k_of_columns, axis=1))
            values, partners = by_row.values[part], by_row.partners[part]
            for tile in self.make_tiles(rows[part], columns):
                lists = values[tile.rows], partners[tile.rows]
                scan_rows(tile.values, constant[tile.columns], *lists, tile.columns.start)
                if k_of_columns:
                    first = part.start + tile.rows.start
                    own_offset = offset[first : part.start + tile.rows.stop]
                    lists = by_column.values[tile.columns], by_column.partners[tile.columns]
                    scan_columns(tile.values, own_offset, *lists, first)
            return by_column

        # Each thread has rows of its own, so that threads wait for each other only at the end of the pass.
        with ThreadPool(_PAIR * len(rows) * len(columns)) as pool:
            most = max(1, _LISTS_BYTES // max(1, 8 * len(columns) * k_of_columns))
            parts = pool.split(len(rows), most)
            found = pool.run((partial(search, part) for part in parts), torch_threads=pool.size // len(parts))
        return by_row, merged_lists(found)


def merged_lists(found: list[ShortLists]) -> ShortLists:
    """Merge the lists of columns among successive rows; of equal values, that of the first row comes first."""
    if len(found) == 1:
        return found[0]
    values, partners = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    k = found[0].values.shape[1]
    order = np.argsort(values, axis=1, kind="stable")[:, :k]
    return ShortLists(np.take_along_axis(values, order, axis=1), np.take_along_axis(partners, order, axis=1))
