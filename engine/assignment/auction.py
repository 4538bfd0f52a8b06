"""Good prices for a sparse assignment problem: a forward auction with falling stakes."""

from __future__ import annotations

from typing import Any

import numpy as np

from saematch.numeric.compiled import compiled
from saematch.numeric.rounding import Floats, Indices

FIRST_STAKE, LAST_STAKE, FALL = 64.0, 2e-5, 5.0  # in standard deviations of the costs
_MOST_BIDS = 16  # a row and a stake, on average


def auction(starts: Indices, columns: Indices, costs: Floats, prices: Floats, off: float = np.inf) -> Floats:
    """Prices under which a complete matching is within LAST_STAKE standard deviations of the optimum a row.

    `prices` are up to `off` away from such ones, as far as is known. Stakes of that order to start with make it fast:
    small ones end in price wars. The prices are good, not exact; whoever needs the optimum solves on reduced costs
    afterwards, which then takes a fraction of the time.
    Source: Bertsekas, *The auction algorithm: a distributed relaxation method for the assignment problem* (1988).
    """
    asked = -prices
    deviation = float(costs.std())
    stake = min(FIRST_STAKE * deviation, off / 4)
    while deviation > 0 and stake >= LAST_STAKE * deviation:
        if not _bid(starts, columns, costs, asked, stake, _MOST_BIDS * len(prices)):
            break
        stake /= FALL
    return -asked + np.median(asked + prices)  # bids only rise: what all prices have in common means nothing


@compiled
def _bid(starts: Any, columns: Any, costs: Any, asked: Any, stake: float, most_bids: int) -> bool:
    """Rows without a column bid for the one that suits them best, up to what makes the second best as good."""
    n = len(asked)
    owner = np.full(n, -1)
    queue = np.arange(n)
    head, length = 0, n
    for _ in range(most_bids):
        if length == 0:
            return True
        i = queue[head]
        head, length = (head + 1) % n, length - 1
        best, second, wanted = np.inf, np.inf, -1
        for e in range(starts[i], starts[i + 1]):
            value = costs[e] + asked[columns[e]]
            if value < best:
                best, second, wanted = value, best, columns[e]
            elif value < second:
                second = value
        asked[wanted] += stake if second == np.inf else second - best + stake
        if owner[wanted] >= 0:
            queue[(head + length) % n] = owner[wanted]
            length += 1
        owner[wanted] = i
    return False
