"""Shortest alternating cycles: the least that any other matching costs more, by searches that few pairs decide."""

from __future__ import annotations

from functools import partial
from heapq import heappop, heappush
from typing import Any

import numpy as np

from saematch.assignment.paths import Exchanges, sorted_edges
from saematch.assignment.reduced_bounds import ReducedBounds
from saematch.numeric.compiled import compiled
from saematch.numeric.gather import are_missing, merged_by_key
from saematch.numeric.rounding import Floats, Indices
from saematch.numeric.threads import ThreadPool

_STEP = 8  # nanoseconds of a node in a search


class Cycles:
    """The alternating cycles of an optimal `permutation`, whose lengths are sums of lower bounds of reduced costs.

    A cycle through a row is a path in the graph `Exchanges`, from the row's column back to it, or from an unmatched row
    to the hub. Only some pairs are listed; floors bound the lengths of all other pairs of each row, and of each column.
    A search knows how short a path over pairs that are not listed can be. Where that may matter, pairs are added.

    Args:
        permutation: the optimum.
        bounds: the lower bounds. Lengths below 0 are set to 0.

    Attributes:
        out: `(F_A,)`, a lower bound for what a row pays if it loses its partner; not set to 0 where it is below.
        into: `(F_B,)`, the same for columns.
    """

    def __init__(self, permutation: Indices, bounds: ReducedBounds) -> None:
        self._permutation, self._bounds = permutation, bounds
        self._matched = permutation >= 0
        self._free = np.nonzero(~self._matched)[0]
        self._hub = len(bounds.column_exit)
        self._owner = np.full(self._hub, -1)
        self._owner[permutation[self._matched]] = np.nonzero(self._matched)[0]
        # The listed pairs, sorted by row and column.
        self._keys, self._lengths = bounds.rows * self._hub + bounds.columns, bounds.edges
        self._floors, self._column_floors = bounds.floors.copy(), bounds.column_floors.copy()
        self.measure()

    def measure(self) -> None:
        """Set `out` and `into` by the pairs that are listed now, and the graph that searches use."""
        bounds, hub = self._bounds, self._hub
        rows, columns = self._keys // hub, self._keys % hub
        self._link()
        unlisted = self._unlisted[:hub]
        self.out = np.where(self._matched, np.minimum(self._floors, bounds.row_exit), self._floors)
        self.into = np.minimum(unlisted, bounds.column_exit)
        np.minimum.at(self.out, rows, self._lengths)
        np.minimum.at(self.into, columns, self._lengths)
        # The same for the nodes of the graph: the columns, the hub, and the unmatched rows, where paths only start.
        into_hub = 0.0 if (self._owner < 0).any() else bounds.row_exit[self._matched].min(initial=np.inf)
        never = np.full(len(self._free), np.inf)
        self._into = np.maximum(np.concatenate([self.into, [into_hub], never]), 0.0)

    def _link(self) -> None:
        """Make the graph of the pairs that are listed now."""
        rows, columns, hub = self._keys // self._hub, self._keys % self._hub, self._hub
        exits = self._bounds.row_exit, self._bounds.column_exit
        exchanges = Exchanges.of(self._permutation, rows, columns, self._lengths, *exits)
        # From the hub, only the shortest edge to each column.
        from_hub = exchanges.sources == hub
        shortest = np.full(hub, np.inf)
        np.minimum.at(shortest, exchanges.targets[from_hub], exchanges.lengths[from_hub])
        reached = np.nonzero(np.isfinite(shortest))[0]
        # From each unmatched row, the columns that it may take.
        node = np.full(len(self._permutation), -1)
        node[self._free] = hub + 1 + np.arange(len(self._free))
        free = node[rows] >= 0
        sources = exchanges.sources[~from_hub], np.full(len(reached), hub), node[rows[free]]
        targets = exchanges.targets[~from_hub], reached, columns[free]
        lengths = exchanges.lengths[~from_hub], shortest[reached], np.maximum(self._lengths[free], 0.0)
        edges = (np.concatenate(parts) for parts in (sources, targets, lengths))
        self._graph = sorted_edges(hub + 1 + len(self._free), *edges)  # the shortest edges of each node first
        # The floor of a column is that of the row that loses it; the hub has the least floor of all unmatched rows.
        floors = np.maximum(self._floors, 0.0)
        of_columns = np.where(self._owner >= 0, floors[self._owner], np.inf)
        self._node_floors = np.concatenate([of_columns, [floors[self._free].min(initial=np.inf)], floors[self._free]])
        # A pair that is not listed is bounded by the floor of its column, and by the floor of whatever row it is in.
        self._unlisted = np.full(len(self._node_floors), np.inf)
        self._unlisted[:hub] = np.maximum(self._column_floors, self._floors.min())

    def add(self, rows: Indices, limits: Floats) -> None:
        """List all pairs of some rows whose lengths are below `limits`, one for each row."""
        limits = np.maximum(limits, self._floors[rows])
        self._add(*self._bounds.below(rows, np.arange(self._hub), limits[:, None]))
        self._floors[rows] = limits

    def add_into(self, columns: Indices, limits: Floats) -> None:
        """List all pairs of some columns whose lengths are below `limits`, one for each column."""
        limits = np.maximum(limits, self._column_floors[columns])
        self._add(*self._bounds.below(np.arange(len(self._permutation)), columns, limits[None]))
        self._column_floors[columns] = limits

    def _add(self, rows: Indices, columns: Indices, lengths: Floats) -> None:
        keys = rows * self._hub + columns
        new = are_missing(self._keys, keys)
        self._keys, self._lengths = merged_by_key(self._keys, self._lengths, keys[new], lengths[new])

    def glance(self, rows: Indices) -> tuple[Floats, Floats]:
        """Return the least and the most that the shortest cycle of each row can be long, by the pairs listed now."""
        best, rest, _, _ = self._search(rows, np.full(len(rows), np.inf), thorough=False)
        return np.minimum(best, rest), best

    def shortest(self, rows: Indices, limits: Floats, most_pairs: float = np.inf) -> tuple[Floats, Floats]:
        """Return the least and the most that the shortest cycle of each row can be long, as far as below its limit.

        Both are equal, because pairs are added to the lists wherever that may matter. Only if more than `most_pairs`
        would have to be computed, the search ends with what is known by then.
        """
        least, most, left = limits.copy(), limits.copy(), np.arange(len(rows))
        while True:
            most[left], rest, needed, needed_last = self._search(rows[left], most[left], thorough=True)
            least[left] = np.minimum(rest, most[left])
            left = left[least[left] < most[left]]
            # List the pairs that may be part of a shorter cycle.
            lengths = np.zeros(len(self._permutation))
            lengths[self._matched] = needed[self._permutation[self._matched]]
            lengths[self._free] = np.maximum(needed[self._hub], needed[self._hub + 1 :])
            wanted = np.nonzero(lengths > self._floors)[0]
            wanted_last = np.nonzero(needed_last[: self._hub] > self._column_floors)[0]
            most_pairs -= len(wanted) * self._hub + len(wanted_last) * len(self._permutation)
            if not len(left) or most_pairs < 0:
                return least, most
            self.add(wanted, lengths[wanted])
            self.add_into(wanted_last, needed_last[wanted_last])
            self._link()

    def _search(self, rows: Indices, limits: Floats, thorough: bool) -> tuple[Floats, Floats, Floats, Floats]:
        """Search for the shortest cycle through each row in parallel threads; see `_search_all`."""
        nodes, own = len(self._node_floors), self._permutation[rows]
        goals = np.where(own >= 0, own, self._hub)
        begins = np.where(own >= 0, own, self._hub + 1 + np.searchsorted(self._free, rows))
        best, rest = np.empty(len(rows)), np.empty(len(rows))
        given = *self._graph, self._node_floors, self._into, self._unlisted
        with ThreadPool(_STEP * len(rows) * nodes) as pool:
            parts = pool.split(len(rows))
            needed = [np.zeros((2, nodes)) for _ in parts]
            pool.run(
                partial(_search_all, *given, begins[i], goals[i], limits[i], thorough, best[i], rest[i], *most)
                for i, most in zip(parts, needed, strict=True)
            )
        return best, rest, *np.maximum.reduce(needed)


@compiled
def _search_all(
    starts: Any,
    targets: Any,
    lengths: Any,
    floors: Any,
    into: Any,
    unlisted: Any,
    begins: Any,
    goals: Any,
    limits: Any,
    thorough: Any,
    best: Any,
    rest: Any,
    needed: Any,
    needed_last: Any,
) -> None:
    """Find the shortest path from each of `begins` to its goal, by Dijkstra's algorithm.

    Fill `best` with the length of the shortest path over listed pairs, or the limit if that is less, and `rest` with a
    lower bound for the paths over other pairs. Unless the search is `thorough`, it ends where it can prove no more.

    A path that has reached a node, and takes a pair that is not listed from there, pays the floor of the node, and then
    at least `into` of the goal; or the pair leads to the goal itself, and is one of those that `unlisted` bounds. Such
    paths may be shorter than `best` only over pairs below the lengths that `needed` receives for the node in the first
    case, and `needed_last` for the goal in the second one.
    """
    distance = np.full(len(floors), np.inf)
    reached = np.empty(len(floors), dtype=np.int64)
    for n in range(len(goals)):
        begin, goal, shortest, other = begins[n], goals[n], limits[n], np.inf
        last = into[goal]  # the least that the last step of a path costs
        distance[begin], reached[0], count = 0.0, begin, 1
        heap = [(0.0, begin)]
        while len(heap) > 0:
            so_far, node = heappop(heap)
            if so_far + last >= shortest or (not thorough and so_far + last >= other):
                break
            if so_far > distance[node]:
                continue
            other = min(other, so_far + min(max(floors[node], unlisted[goal]), floors[node] + last))
            for e in range(starts[node], starts[node + 1]):
                length, target = so_far + lengths[e], targets[e]
                if length >= shortest:
                    break
                if target == goal:
                    shortest = length
                elif length + last < shortest and length < distance[target]:
                    if distance[target] == np.inf:
                        reached[count], count = target, count + 1
                    distance[target] = length
                    heappush(heap, (length, target))
        best[n], rest[n] = shortest, other
        for node in reached[:count]:
            # A little more than needed, so that rounding does not leave the path open.
            length = shortest - distance[node] + 2.0**-50 * shortest
            if distance[node] + floors[node] + last < shortest:
                needed[node] = max(needed[node], length - last)
            if distance[node] + max(floors[node], unlisted[goal]) < shortest:
                needed_last[goal] = max(needed_last[goal], length)
            distance[node] = np.inf
