"""Everything that imports triton: passes over all pairs on a GPU, one folder an operation: reference, kernel, launch.

A launcher takes `Costs`, made by `products` (rows, multiplied again in every pass) or `stored` (a matrix), checks what
it is given, chooses tiles from one table, and raises `MatchError` for what cannot run. Nothing is tuned at import.
"""

from saematch.kernels.candidates.launch import candidates
from saematch.kernels.candidates.reference import Lists
from saematch.kernels.costs import Costs, is_interpreted, products, stored
from saematch.kernels.exact_pairs.launch import exact_pairs, exact_products
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.pairwise_cost.launch import pairwise_cost
from saematch.kernels.precision import PRECISIONS, Precision, precision_named, split
from saematch.kernels.reduced_minima.launch import reduced_minima
from saematch.kernels.reduced_minima.reference import Minima
from saematch.kernels.soft_minima.launch import soft_minima
from saematch.kernels.tiles import Tile

__all__ = [
    "PRECISIONS", "Costs", "Lists", "Minima", "Precision", "Tile", "TooManyPairsError", "candidates", "exact_pairs",
    "exact_products", "is_interpreted", "pairs_below", "pairwise_cost", "precision_named", "products",
    "reduced_minima", "soft_minima", "split", "stored",
]  # fmt: skip
