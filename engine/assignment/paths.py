"""Exchanges of partners as a graph: how far prices can move while they prove an optimum, by shortest paths."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

SWEEPS = 8  # of `Exchanges.balanced`


@dataclass(frozen=True)
class Exchanges:
    """Exchanges of partners as edges between columns: from the column that a row leaves to the one that it takes.

    The length of an edge is the reduced cost of the pair that is taken. Under prices that prove the optimum
    `permutation`, no length is negative; lengths that rounding leaves below 0 are set to 0. A last node, the hub,
    stands for being unmatched. An alternating cycle of a matching is a cycle of this graph.

    Attributes:
        permutation: the partner of each row, -1 if it has none.
        sources: the node at which each edge starts.
        targets: the node at which each edge ends.
        lengths: the length of each edge.
        nodes: the number of nodes, F_B + 1.
        root: the node whose price is fixed.
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
    ) -> Exchanges:
        """Return the exchanges along some pairs.

        Args:
            permutation: the optimum.
            rows: the row of each pair. The pairs of the matching are skipped.
            columns: the column of each pair.
            reduced: the reduced cost of each pair.
            row_exit: `(F_A,)`, the reduced unmatched costs of the rows, inf for rows that must be matched.
            column_exit: `(F_B,)`, the same for the columns.
            through_shortest: which price is fixed if no feature may be unmatched. False fixes the price of the first
                row's column; True that of a column at the shortest edge, whose neighbours then keep the most digits.
        """
        hub = len(column_exit)
        owner = np.full(hub, -1)
        matched = np.nonzero(permutation >= 0)[0]
        owner[permutation[matched]] = matched
        # A row takes another column: from its own column, or from the hub if it is unmatched.
        other = permutation[rows] != columns
        leaves = permutation[rows[other]]
        sources, targets, lengths = [np.where(leaves >= 0, leaves, hub)], [columns[other]], [reduced[other]]
        # A row becomes unmatched: from its own column to the hub.
        if np.isfinite(row_exit).all():
            sources.append(permutation[matched])
            targets.append(np.full(len(matched), hub))
            lengths.append(row_exit[matched])
        # A column becomes unmatched: from the hub to the column that its row has left. A column that is unmatched, and
        # is taken, ends the exchange: from the column to the hub, at no cost.
        if np.isfinite(column_exit).all():
            every, unpaired = np.arange(hub), np.nonzero(owner < 0)[0]
            sources += [np.full(hub, hub), unpaired]
            targets += [every, np.full(len(unpaired), hub)]
            lengths += [column_exit, np.zeros(len(unpaired))]
        # The node whose price is fixed: the hub, or a column if no feature may be unmatched.
        partial = np.isfinite(row_exit).any() or np.isfinite(column_exit).any()
        start, end, length = (np.concatenate(parts) for parts in (sources, targets, lengths))
        root = hub if partial else int(permutation[0])
        if not partial and through_shortest and (length > 0).any():
            root = int(start[np.where(length > 0, length, np.inf).argmin()])
        return cls(permutation, start, end, np.maximum(length, 0.0), hub + 1, root)

    def extremes(self) -> tuple[Floats, Floats]:
        """Return how far each price can rise, and how far it can fall, while the prices prove the optimum.

        An edge from j to k of length l requires that the change of v_k is at most the change of v_j plus l. The price
        of the root is fixed, so v_j can rise by the length of the shortest path from the root to j, and fall by that of
        the shortest path from j to the root.
        """
        rise = _shortest(self.sources, self.targets, self.lengths, self.root, self.nodes)
        fall = _shortest(self.targets, self.sources, self.lengths, self.root, self.nodes)
        return rise[:-1], fall[:-1]

    def balanced(self, prices: Floats) -> Floats:
        """Return prices that are each midway between the limits that the prices of their neighbours leave.

        One limit is the shortest edge out of the column, the other the shortest edge into it. The columns are visited
        one after the other, in some sweeps.
        """
        ends = (self.sources, self.targets), (self.targets, self.sources)
        out, into = (sorted_edges(self.nodes, start, end, self.lengths) for start, end in ends)
        moved = np.zeros(self.nodes)
        for _ in range(SWEEPS):
            _balance(*out, *into, self.permutation[self.permutation >= 0], moved)
        return prices + moved[:-1]


def _shortest(sources: Indices, targets: Indices, lengths: Floats, root: int, nodes: int) -> Floats:
    """Return the distance from `root` to every node; for a node without a path, the distance of the farthest."""
    distance: Floats = _dijkstra(*sorted_edges(nodes, sources, targets, lengths), root)
    distance[np.isinf(distance)] = distance[np.isfinite(distance)].max()
    return distance


def sorted_edges(nodes: int, ends: Indices, others: Indices, lengths: Floats) -> tuple[Indices, Indices, Floats]:
    """Sort edges by one end, then by length.

    Return the first edge of each node, the other end of each edge, and its length.
    """
    order = np.lexsort((lengths, ends))
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
            length = so_far + lengths[e]
            if length < distance[targets[e]]:
                distance[targets[e]] = length
                heappush(heap, (length, np.int64(targets[e])))
    return distance
