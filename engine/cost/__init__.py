"""The costs of all pairs, as an object that answers questions in passes over tiles.

A pass computes every pair from int8 or float32 numbers and *chooses* some pairs. All claims about these pairs are
computed again in float64, and the object states bounds for the errors of both. Costs have a reduced form,

    C_ij = p_i + q_j + M_ij / scale,

with p and q such that neither a common offset nor the size of the numbers costs precision. In a matching of all rows
and all columns the sum of p and q is constant, so optimality is a statement about M alone. A proof in terms of M keeps
one row of very large norm from hiding the differences of all other rows.
"""

from saematch.cost.base import DENSE, Cost
from saematch.cost.codes import CodesCost, pair_costs
from saematch.cost.distances import DistanceCost, squared_distances
from saematch.cost.matrix import MatrixCost
from saematch.cost.mixed import MixedCost, mixed_costs
from saematch.cost.scan import Scan
from saematch.cost.unmatched import Unmatched, UnmatchedCost, checked_max_cost

__all__ = [
    "DENSE", "CodesCost", "Cost", "DistanceCost", "MatrixCost", "MixedCost", "Scan", "Unmatched", "UnmatchedCost",
    "checked_max_cost", "mixed_costs", "pair_costs", "squared_distances",
]  # fmt: skip
