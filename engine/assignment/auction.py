"""A matching of a sparse graph that is near the optimum, and its prices, by auctions.

If only rows bid, a column that lost its row keeps its price until the prices of all columns around it have fallen as
far, which takes many bids, or a large increment of bids at first. In `auction` such a column bids for a row instead:
both sides meet halfway, and a small increment is enough from the start. But with many equal costs, the two sides can
undo each other's bids for very long. Then only rows bid, in `scaled_auction`.

Sources: Bertsekas, *The auction algorithm: a distributed relaxation method for the assignment problem* (1988);
Bertsekas and Castañon, *A forward/reverse auction algorithm for asymmetric assignment problems* (1992).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.assignment.edges import Columns
from saematch.assignment.feasible import release
from saematch.numeric.compiled import compiled_minima
from saematch.numeric.csr import transposed
from saematch.numeric.rounding import Floats, Indices

# Epsilon is the least increment of a bid.
EPSILON = 3e-5  # of the median difference of a cost from the median cost
_SAMPLE = 2**14  # costs, for these medians
_SHARE = 5  # of the features without a partner, one in so many finds one before the other side bids
_MOST_FOR_SHARE = 2  # bids of a feature until then, on average
# If only rows bid, epsilon falls from round to round: its first and last value, in standard deviations of the costs.
FIRST_EPSILON, LAST_EPSILON, DIVISOR = 1.0, 5e-5, 5.0
_ERROR_IN_FIRST = 16  # times the first epsilon, for prices with a known error
_MOST_BIDS = 16  # bids of a row in one round, on average


def auction(
    starts: Indices, columns: Columns, costs: Floats, permutation: Indices, prices: Floats, most_released: int
) -> tuple[Indices, Floats, int] | None:
    """Return a complete matching near the optimum, its prices, and how many rows were released from their columns.

    Each row pays at most epsilon more, at these prices, than for its cheapest column. So the optimum is found from
    there in a fraction of the time that it takes without an auction.

    The answer is None where an auction of rows alone is better: if features outbid each other for too long, if most
    costs are equal, or if more than `most_released` rows prefer other columns to those that they start with. In the
    last two cases, bids settle at prices that leave many pairs open that are not in the graph yet.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge.
        costs: the cost of each edge.
        permutation: a matching to start with, -1 for a row without a column. Rows that prefer other columns leave it.
        prices: `(n,)`, prices to start with.
        most_released: see above.
    """
    n = len(prices)
    sample = costs[:: max(1, len(costs) // _SAMPLE)]
    epsilon = EPSILON * float(np.median(np.abs(sample - np.median(sample))))
    if epsilon == 0:
        return None
    permutation, prices = permutation.copy(), prices.copy()
    owner, paid, potentials = np.full(n, -1), np.empty(n), np.empty(n)
    released = release(starts, columns, costs, permutation, owner, paid, prices, potentials)
    if released > most_released:
        return None
    queue = np.empty(n, dtype=np.int64)
    rows = (starts, columns, costs), (potentials, prices, permutation, owner)
    bidders, others = rows, (transposed(starts, columns, costs, n), (prices, potentials, owner, permutation))
    free = int(np.count_nonzero(permutation < 0))
    while free > 0:
        free -= -(-free // _SHARE)
        graph, state = bidders
        if not _bid(*graph, *state, queue, free, epsilon, _MOST_FOR_SHARE * n):
            return None
        bidders, others = others, bidders
    return permutation, prices, released


def scaled_auction(
    starts: Indices, columns: Columns, costs: Floats, prices: Floats, price_error: float = np.inf
) -> Floats:
    """Return prices under which a complete matching is within LAST_EPSILON standard deviations of the costs per row.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge.
        costs: the cost of each edge.
        prices: `(n,)`, prices to start with.
        price_error: the estimated error of `prices`. It limits the first epsilon: a large epsilon would spoil good
            prices, and a small one leads to price wars among rows that want the same columns.
    """
    n, deviation, found = len(prices), float(costs.std()), prices.copy()
    epsilon = min(FIRST_EPSILON * deviation, price_error / _ERROR_IN_FIRST)
    while epsilon >= LAST_EPSILON * deviation > 0:
        permutation, owner = np.full((2, n), -1)
        potentials, queue = np.empty(n), np.empty(n, dtype=np.int64)
        if not _bid(starts, columns, costs, potentials, found, permutation, owner, queue, 0, epsilon, _MOST_BIDS * n):
            break
        epsilon /= DIVISOR
    # Bids of rows only lower prices. A constant that all prices share means nothing, so the median change is taken off.
    return found + np.median(prices - found)


@compiled_minima
def _bid(
    starts: Any,
    columns: Any,
    costs: Any,
    potentials: Any,
    prices: Any,
    permutation: Any,
    owner: Any,
    queue: Any,
    left: int,
    epsilon: float,
    most_bids: int,
) -> bool:
    """Let rows bid until all but `left` have a column; return False if that takes more than `most_bids` bids.

    A row bids for its cheapest column. It lowers the price, which it receives, by so much that its second cheapest
    column is as good, and by epsilon. The row that had the column before is without a column again. In a transposed
    graph, columns bid for rows. `queue` is memory for a ring of the rows without a column.
    """
    n, head, length = len(queue), 0, 0
    for i in range(n):
        if permutation[i] < 0:
            queue[length] = i
            length += 1
    for _ in range(most_bids):
        if length <= left:
            return True
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        # The cheapest and the second cheapest column at the present prices.
        best, second, wanted = np.inf, np.inf, columns[starts[i]]
        for e in range(starts[i], starts[i + 1]):  # without branches, which no processor predicts here
            j = columns[e]
            value = costs[e] - prices[j]
            second = min(second, max(best, value))
            wanted = j if value < best else wanted
            best = min(best, value)
        # The bid. A row with only one edge has no second cheapest column.
        second = best if second == np.inf else second
        prices[wanted] -= second - best + epsilon
        potentials[i] = second + epsilon
        before = owner[wanted]
        permutation[i], owner[wanted] = wanted, i
        if before >= 0:
            permutation[before] = -1
            queue[(head + length) % n] = before
            length += 1
    return False
