"""Good prices for a sparse assignment problem: a forward auction with epsilon scaling.

Source: Bertsekas, *The auction algorithm: a distributed relaxation method for the assignment problem* (1988).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.assignment.edges import Columns
from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

# Epsilon is the least increment of a bid. Its first and last value are in standard deviations of the costs; from one
# round to the next it is divided by the last of these numbers.
FIRST_EPSILON, LAST_EPSILON, DIVISOR = 16.0, 5e-5, 5.0
_ERROR_IN_FIRST = 16  # times the first epsilon, for prices with a known error
_FARTHEST = 2.0**100  # that a price can be from the median, in standard deviations
_MOST_BIDS = 16  # bids of a row in one round, on average


def auction(starts: Indices, columns: Columns, costs: Floats, prices: Floats, price_error: float = np.inf) -> Floats:
    """Return prices under which a complete matching is near the optimum.

    The matching is within LAST_EPSILON standard deviations of the costs per row. The prices are good, not exact.
    The optimum is found from there in a fraction of the time that it takes without an auction.

    Args:
        starts: `(n + 1,)`, the first edge of each row, and the number of edges.
        columns: the column of each edge.
        costs: the cost of each edge.
        prices: `(n,)`, prices to start with.
        price_error: the estimated error of `prices`. It limits the first epsilon: a large epsilon would spoil good
            prices, and a small one leads to price wars among rows that want the same columns.
    """
    deviation = float(costs.std())
    epsilon = min(FIRST_EPSILON * deviation, price_error / _ERROR_IN_FIRST)
    if deviation == 0 or epsilon < LAST_EPSILON * deviation:
        return prices
    # In standard deviations, float32 has digits enough for the last epsilon, and half as much memory has to be read.
    # What a row pays for a column, `asked`, has the opposite sign of the price, so that bids raise it.
    with np.errstate(over="ignore"):
        standard = (np.median(prices) - prices) / deviation
    asked = np.clip(standard, -_FARTHEST, _FARTHEST).astype(np.float32)
    standard = ((costs - costs.mean()) / deviation).astype(np.float32)
    epsilon /= deviation
    while epsilon >= LAST_EPSILON:
        owner, queue = np.full(len(prices), -1), np.arange(len(prices))
        most_bids = _MOST_BIDS * len(prices)
        if not _bid(starts, columns, standard, asked, np.float32(epsilon), most_bids, owner, queue):
            break
        epsilon /= DIVISOR
    # Bids only raise prices. A constant that all prices share means nothing, so the median change is taken off again.
    found = -asked.astype(np.float64) * deviation
    return found + np.median(prices - found)


@compiled
def _bid(
    starts: Any, columns: Any, costs: Any, asked: Any, epsilon: Any, most_bids: int, owner: Any, queue: Any
) -> bool:
    """Let rows bid until each has a column; return False if that takes more than `most_bids` bids.

    A row bids for its cheapest column. It raises the price by so much that its second cheapest column is as good, plus
    epsilon. The row that had the column before is without a column again. `owner` is the row of each column, at first
    -1, and `queue` is a ring of the rows without a column, at first all of them.
    """
    n, head, length = len(asked), 0, len(asked)
    for _ in range(most_bids):
        if length == 0:
            return True
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        # The cheapest and the second cheapest column at the present prices.
        best, second, wanted = np.inf, np.inf, columns[starts[i]]
        for e in range(starts[i], starts[i + 1]):  # without branches, which no processor predicts here
            j = columns[e]
            value = costs[e] + asked[j]
            second = min(second, max(best, value))
            wanted = j if value < best else wanted
            best = min(best, value)
        # The bid. A row with only one edge has no second cheapest column.
        asked[wanted] += epsilon if second == np.inf else second - best + epsilon
        if owner[wanted] >= 0:
            queue[(head + length) % n] = owner[wanted]
            length += 1
        owner[wanted] = i
    return False
