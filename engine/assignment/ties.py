"""Which of several equal answers is given: identical rows are matched in ascending order of their indices."""

from __future__ import annotations

import numpy as np

from saematch.cost import Indices


def in_order(permutation: Indices, row_group: Indices, column_group: Indices) -> Indices:
    """The representative, among the permutations that differ by exchanging identical rows, that every run returns.

    Which group goes to which how often is what a permutation decides. Here the rows of a group take their columns in
    the order of the columns' groups, and the columns of a group then take their rows in ascending order.
    """
    every = np.arange(len(permutation))
    ordered = np.empty_like(permutation)
    by_group = np.lexsort((every, row_group))
    ordered[by_group] = permutation[np.lexsort((permutation, column_group[permutation], row_group))]
    inverse = np.empty_like(permutation)
    inverse[np.lexsort((every, column_group))] = np.argsort(ordered)[np.lexsort((np.argsort(ordered), column_group))]
    return np.argsort(inverse)
