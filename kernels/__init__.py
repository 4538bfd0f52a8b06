"""Passes over all pairs in Triton kernels, on a GPU.

`int8_products` and `pairwise_cost` write products of rows to memory: of int8 rows, whose integer sums are exact, and of
float32 rows. `Int8Products` and `Float32Products` are the products of all pairs, made block by block, of which
`candidates` lists the cheapest pairs of every row and every column. `exact_products` computes listed pairs in float64,
from the rows themselves.

Each operation is a folder: `reference.py` specifies it, `kernel.py` has the Triton code, and `launch.py` checks the
arguments, chooses a tile shape from one table, and raises `MatchError` for what cannot run. Nothing is tuned at import.
Only this package imports triton.
"""

from saematch.kernels.arguments import is_interpreted
from saematch.kernels.candidates.launch import candidates
from saematch.kernels.candidates.reference import CandidateLists
from saematch.kernels.exact_products.launch import exact_products
from saematch.kernels.exact_products.stored import StoredRows
from saematch.kernels.int8_products.launch import int8_products
from saematch.kernels.pairwise_cost.launch import pairwise_cost
from saematch.kernels.products import Float32Products, Int8Products, Products
from saematch.kernels.tiles import TileShape

__all__ = [
    "CandidateLists", "Float32Products", "Int8Products", "Products", "StoredRows", "TileShape", "candidates",
    "exact_products", "int8_products", "is_interpreted", "pairwise_cost",
]  # fmt: skip
