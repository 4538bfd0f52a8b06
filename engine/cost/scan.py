"""The result of one pass over all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saematch.numeric.rounding import Floats, Indices


@dataclass(frozen=True)
class Scan:
    """The `k` cheapest partners of every row and every column of a pass, among the rows and columns of the pass.

    Attributes:
        rows: the rows of the pass, ascending, `(R,)`.
        columns: the columns of the pass, ascending, `(C,)`.
        row_partners: columns, cheapest first, `(R, k)`; -1 where a list is not full.
        column_partners: rows, cheapest first, `(C, k)`; -1 where a list is not full. Columns list only pairs that may
            be below the ceiling of the pass; without a ceiling, k is 0 for them.
        floors: lower bounds for M_ij - v_j, `(R, k)`. Entry n of a row holds for every pair of the row and the columns
            of the pass that is not among the first n of its list.
        column_floors: lower bounds for M_ij - u_i - v_j, `(C, k)`, in the same way for columns.
    """

    rows: Indices
    columns: Indices
    row_partners: Indices
    column_partners: Indices
    floors: Floats
    column_floors: Floats

    def row_pairs(self) -> tuple[Indices, Indices]:
        """Return the pairs that rows list, as rows and columns."""
        return _listed(self.rows, self.row_partners)

    def pairs(self) -> tuple[Indices, Indices]:
        """Return all listed pairs as rows and columns; some pairs are listed twice."""
        rows, columns = self.row_pairs()
        of_columns, of_rows = _listed(self.columns, self.column_partners)
        return np.concatenate([rows, of_rows]), np.concatenate([columns, of_columns])


def _listed(features: Indices, partners: Indices) -> tuple[Indices, Indices]:
    """Return the pairs of the lists of some features: each feature as often as it lists a partner, and the partners."""
    full = partners >= 0
    return np.repeat(features, np.count_nonzero(full, axis=1)), partners[full]
