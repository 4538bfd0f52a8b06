"""Passes over all pairs: how the float32 values of M are made, kept in memory, and searched for the cheapest pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from saematch.errors import is_out_of_memory
from saematch.numeric.loops import scan_columns, scan_rows
from saematch.numeric.rounding import Indices
from saematch.numeric.threads import ThreadPool
from saematch.resources import BLOCK_BYTES

TILE = (1024, BLOCK_BYTES // 4 // 1024)
T = TypeVar("T")


class Tile(NamedTuple):
    """M in float32 for some rows and columns. `places` are the places of the rows among those of the pass."""

    places: slice
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
    """The float32 values of M, `(F_A, F_B)`, for passes over all pairs.

    Attributes:
        device: the device that makes the values.
        backend: the library that makes them, and `precision`, how they are computed.
        stored: whether the values, 4 F_A F_B bytes, are kept from the first pass on, because they fit into the given
            memory. Otherwise they are made again in every pass.
        notes: remarks for the user on how memory is used.
    """

    device = torch.device("cpu")
    backend = "torch"
    precision = "float32 chooses, float64 proves"

    def __init__(self, shape: tuple[int, int], memory: int) -> None:
        self.shape = shape
        self.stored = 4 * shape[0] * shape[1] <= memory
        self.notes: list[str] = []

    @property
    def form(self) -> str:
        """How the values are held, for the user."""
        return " ".join(["stored" if self.stored else "matrix-free", *self.notes])

    @abstractmethod
    def cheapest(
        self,
        rows: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
    ) -> tuple[ShortLists, ShortLists]:
        """Return the `k` smallest m_ij + constant_j of each listed row, and m_ij - offset_i of each column.

        `offset (R,)` belongs to the listed rows, which are ascending. Columns list only values below `limit (F_B,)`,
        and the partners of a column are places in the list of rows.
        """

    @abstractmethod
    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        """Return `run()`; if memory is too small for it, run it again with less memory for the values."""

    def drop_stored(self) -> None:
        """Release the stored values: from now on, values are made again in every pass."""
        self.stored = False
        self.notes.append(f"({4 * self.shape[0] * self.shape[1] / 1e9:.1f} GB of products did not fit)")


class TilePasses(Passes):
    """Passes on the CPU: the values are made tile by tile, and each tile is searched while it is in the cache."""

    def __init__(self, shape: tuple[int, int], memory: int) -> None:
        super().__init__(shape, memory)
        self._stored_tiles: list[Tile] = []

    @abstractmethod
    def make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:
        """Make M of the listed rows and all columns, tile by tile. Each row lies in tiles that cover every column once.

        Unless the tiles are to be kept, a tile is overwritten when the next one is made.
        """

    @override
    def cheapest(
        self,
        rows: Indices,
        constant: NDArray[np.float32],
        offset: NDArray[np.float32],
        limit: NDArray[np.float32],
        k: int,
    ) -> tuple[ShortLists, ShortLists]:
        by_row = ShortLists.unfilled(np.full((len(rows), k), np.inf, dtype=np.float32))
        by_column = ShortLists.unfilled(np.repeat(limit[:, None], k, axis=1))
        with ThreadPool(len(rows) * self.shape[1]) as pool:
            for tile in self._tiles(rows):
                pool.run(_search_jobs(pool, tile, constant, offset, by_row, by_column))
        return by_row, by_column

    @override
    def retry_if_out_of_memory(self, run: Callable[[], T]) -> T:
        if self.stored:
            try:
                return run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the exception holds on to what did not fit.
            self.drop_stored()
        return run()

    @override
    def drop_stored(self) -> None:
        super().drop_stored()
        self._stored_tiles = []

    def _tiles(self, rows: Indices) -> Iterator[Tile]:
        """Yield the tiles of the listed rows, stored ones if there are any. A first pass over all rows stores them."""
        all_rows = len(rows) == self.shape[0]
        if self._stored_tiles:
            for places, columns, values in self._stored_tiles:
                inside = slice(*np.searchsorted(rows, (places.start, places.stop)).tolist())
                if inside.start < inside.stop:
                    yield Tile(inside, columns, values if all_rows else values[rows[inside] - places.start])
            return
        keep = self.stored and all_rows
        new_tiles = []
        for tile in self.make_tiles(rows, keep):
            if keep:
                new_tiles.append(tile)
            yield tile
        self._stored_tiles = new_tiles


def _search_jobs(
    pool: ThreadPool,
    tile: Tile,
    constant: NDArray[np.float32],
    offset: NDArray[np.float32],
    by_row: ShortLists,
    by_column: ShortLists,
) -> list[Callable[[], object]]:
    """Return jobs that update the lists with the pairs of a tile, for parts of its rows and of its columns."""
    places, columns, values = tile
    jobs: list[Callable[[], object]] = []
    constant, row_values, row_partners = constant[columns], by_row.values[places], by_row.partners[places]
    for part in pool.split(len(values)):
        lists = row_values[part], row_partners[part]
        jobs.append(partial(scan_rows, values[part], constant, lists[0], lists[1], columns.start))
    offset, column_values, column_partners = offset[places], by_column.values[columns], by_column.partners[columns]
    for part in pool.split(values.shape[1]):
        lists = column_values[part], column_partners[part]
        jobs.append(partial(scan_columns, values, part.start, offset, lists[0], lists[1], places.start))
    return jobs
