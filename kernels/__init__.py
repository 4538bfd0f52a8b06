"""Passes over all pairs in Triton kernels, on a GPU.

`pairwise_cost` writes the costs of all pairs to memory, block by block, and `candidates` lists the cheapest pairs of
every row and every column. Both take `Costs`: made by `products` from rows, which are multiplied again in every pass,
or by `stored` from a matrix. `exact_products` computes listed pairs in float64, from the rows themselves.

Each operation is a folder: `reference.py` specifies it, `kernel.py` has the Triton code, and `launch.py` checks the
arguments, chooses a tile shape from one table, and raises `MatchError` for what cannot run. Nothing is tuned at import.
Only this package imports triton.
"""

from saematch.kernels.candidates.launch import candidates
from saematch.kernels.candidates.reference import CandidateLists
from saematch.kernels.costs import Costs, is_interpreted, products, stored
from saematch.kernels.exact_products.launch import exact_products
from saematch.kernels.pairwise_cost.launch import pairwise_cost
from saematch.kernels.precision import PRECISIONS, Precision, precision_named, split
from saematch.kernels.tiles import TileShape

__all__ = [
    "PRECISIONS", "CandidateLists", "Costs", "Precision", "TileShape", "candidates", "exact_products", "is_interpreted",
    "pairwise_cost", "precision_named", "products", "split", "stored",
]  # fmt: skip
