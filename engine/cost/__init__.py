"""The costs of all pairs as an object that answers questions, in passes over tiles.

A pass looks at every pair in float32 and *chooses* some; what is claimed about them is computed again in float64, and
the object states how far either value can be from the truth. Costs are handled in reduced form,

    C_ij = p_i + q_j + M_ij / scale,

with p and q chosen such that neither a common offset nor the size of the numbers costs precision. In a complete
one-to-one matching p and q are constants, so optimality is a statement about M alone; proving it there keeps one giant
row from drowning the others.
"""

from saematch.cost.base import Cost
from saematch.cost.distances import DistanceCost, squared_distances
from saematch.cost.matrix import MatrixCost
from saematch.cost.passes import BLOCK_BYTES
from saematch.cost.scan import Scan
from saematch.cost.unmatched import Unmatched, UnmatchedCost, checked_max_cost
from saematch.numeric.rounding import UNIT_64, Floats, Indices, Rows, at_least, at_most, exact_sum, gamma

__all__ = [
    "BLOCK_BYTES", "UNIT_64", "Cost", "DistanceCost", "Floats", "Indices", "MatrixCost", "Rows", "Scan",
    "Unmatched", "UnmatchedCost", "at_least", "at_most", "checked_max_cost", "exact_sum", "gamma", "squared_distances",
]  # fmt: skip
