"""Shortest paths in a sparse graph."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

SWEEPS = 8


@dataclass(frozen=True)
class Ways:
    """Exchanges of partners as edges between columns: from the one that a row leaves to the one that it takes.

    A last node, the hub, stands for staying free. The `lengths` are reduced costs, at prices that prove the optimum
    `permutation`; those that rounding leaves below 0 are 0.
    """

    permutation: Indices
    sources: Indices
    targets: Indices
    lengths: Floats
    nodes: int
    root: int

    @classmethod
    def of(
        cls,
        permutation: Indices,
        rows: Indices,
        columns: Indices,
        reduced: Floats,
        row_exit: Floats,
        column_exit: Floats,
        *,
        through_shortest: bool = False,
    ) -> Ways:
        """By the reduced costs of pairs, and of staying free for rows and columns, infinite for those that must not.

        Those of the pairs of the matching are 0, and not used. Where no feature may stay free, one price stays put:
        that of the first row's column, or one at the shortest edge, whose neighbours keep the most digits.
        """
        hub = len(column_exit)
        owner = np.full(hub, -1)
        matched = np.nonzero(permutation >= 0)[0]
        owner[permutation[matched]] = matched
        other = permutation[rows] != columns
        leaves = permutation[rows[other]]
        sources, targets, lengths = [np.where(leaves >= 0, leaves, hub)], [columns[other]], [reduced[other]]
        if np.isfinite(row_exit).all():
            sources.append(permutation[matched])
            targets.append(np.full(len(matched), hub))
            lengths.append(row_exit[matched])
        if np.isfinite(column_exit).all():
            every, alone = np.arange(hub), np.nonzero(owner < 0)[0]
            sources += [np.full(hub, hub), alone]
            targets += [every, np.full(len(alone), hub)]
            lengths += [column_exit, np.zeros(len(alone))]
        some_unmatched = np.isfinite(row_exit).any() or np.isfinite(column_exit).any()
        start, end, length = (np.concatenate(each) for each in (sources, targets, lengths))
        root = hub if some_unmatched else int(permutation[0])
        if not some_unmatched and through_shortest and (length > 0).any():
            root = int(start[np.where(length > 0, length, np.inf).argmin()])
        return cls(permutation, start, end, np.maximum(length, 0.0), hub + 1, root)

    def extremes(self) -> tuple[Floats, Floats]:
        """How far each price can rise, and fall, while the prices prove the optimum.

        Column j can rise by the shortest way to it, and fall by the shortest way back: from the node that stands for
        staying free, or, where no feature may, from the first row's column, whose price stays put.
        """
        rise = _shortest(self.sources, self.targets, self.lengths, self.root, self.nodes)
        fall = _shortest(self.targets, self.sources, self.lengths, self.root, self.nodes)
        return rise[:-1], fall[:-1]

    def balanced(self, prices: Floats) -> Floats:
        """Return prices each midway between its row's cheapest edge out and its column's cheapest edge in."""
        ends = (self.sources, self.targets), (self.targets, self.sources)
        out, into = (_by(start, self.nodes, end, self.lengths) for start, end in ends)
        moved = np.zeros(self.nodes)
        for _ in range(SWEEPS):
            _balance(*out, *into, self.permutation[self.permutation >= 0], moved)
        return prices + moved[:-1]


def _shortest(sources: Indices, targets: Indices, lengths: Floats, root: int, nodes: int) -> Floats:
    """Distance from `root` to every node over edges of lengths >= 0; where there is no way, that of the farthest."""
    distance: Floats = _dijkstra(*_by(sources, nodes, targets, lengths), root)
    distance[np.isinf(distance)] = distance[np.isfinite(distance)].max()
    return distance


def _by(ends: Indices, nodes: int, others: Indices, lengths: Floats) -> tuple[Indices, Indices, Floats]:
    """Edges sorted by one end: where each node's begin, their other ends, their lengths."""
    order = np.argsort(ends, kind="stable")
    return np.searchsorted(ends[order], np.arange(nodes + 1)), others[order], lengths[order]


@compiled
def _balance(
    out_starts: Any,
    out_others: Any,
    out_lengths: Any,
    in_starts: Any,
    in_others: Any,
    in_lengths: Any,
    movable: Any,
    moved: Any,
) -> None:
    for node in movable:
        out, into = np.inf, np.inf
        for e in range(out_starts[node], out_starts[node + 1]):
            out = min(out, out_lengths[e] + moved[node] - moved[out_others[e]])
        for e in range(in_starts[node], in_starts[node + 1]):
            into = min(into, in_lengths[e] + moved[in_others[e]] - moved[node])
        if out < np.inf and into < np.inf:
            moved[node] += (into - out) / 2


@compiled
def _dijkstra(starts: Any, targets: Any, lengths: Any, root: Any) -> Any:
    distance = np.full(len(starts) - 1, np.inf)
    distance[root] = 0.0
    heap = [(0.0, np.int64(root))]
    while len(heap) > 0:
        so_far, node = heappop(heap)
        if so_far > distance[node]:
            continue
        for e in range(starts[node], starts[node + 1]):
            there = so_far + lengths[e]
            if there < distance[targets[e]]:
                distance[targets[e]] = there
                heappush(heap, (there, np.int64(targets[e])))
    return distance
