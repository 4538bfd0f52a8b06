"""Shortest paths in a sparse graph."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np

from saematch.compiled import compiled
from saematch.cost import Floats, Indices


def shortest_paths(sources: Indices, targets: Indices, lengths: Floats, root: int, nodes: int) -> Floats:
    """Distance from `root` to every node over edges of lengths >= 0; where there is no way, that of the farthest."""
    distance: Floats = _dijkstra(*_by(sources, nodes, targets, lengths), root)
    distance[np.isinf(distance)] = distance[np.isfinite(distance)].max()
    return distance


def centred(sources: Indices, targets: Indices, lengths: Floats, movable: Indices, nodes: int, sweeps: int) -> Floats:
    """Potentials s, moving one node after the other, that balance every node's shortest edges in and out.

    With them an edge from i to j has the length `lengths` + s_i - s_j, which stays >= 0.
    """
    out, into = _by(sources, nodes, targets, lengths), _by(targets, nodes, sources, lengths)
    moved = np.zeros(nodes)
    for _ in range(sweeps):
        _balance(*out, *into, movable, moved)
    return moved


def _by(ends: Indices, nodes: int, others: Indices, lengths: Floats) -> tuple[Indices, Indices, Floats]:
    """Edges sorted by one end: where each node's begin, their other ends, their lengths."""
    order = np.argsort(ends, kind="stable")
    return np.searchsorted(ends[order], np.arange(nodes + 1)), others[order], lengths[order]


@compiled
def _balance(
    out_starts: Any, out_others: Any, out_lengths: Any, in_starts: Any, in_others: Any, in_lengths: Any, movable: Any,
    moved: Any,
) -> None:  # fmt: skip
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
