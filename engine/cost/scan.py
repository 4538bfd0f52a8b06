"""The result of one pass over all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saematch.numeric.rounding import Floats, Indices


@dataclass(frozen=True)
class Scan:
    """The `k` cheapest partners of every row of the pass and, among these rows, of every column.

    Attributes:
        rows: the rows of the pass, ascending, `(R,)`.
        row_partners: columns, cheapest first, `(R, k)`; -1 where a list is not full.
        column_partners: rows, cheapest first, `(F_B, k)`; -1 where a list is not full. Columns list only pairs that may
            be below the ceiling of the pass.
        floors: lower bounds for M_ij - v_j, `(R, k)`. Entry n of a row holds for every pair of the row that is not
            among the first n of its list.
        column_floors: lower bounds for M_ij - u_i - v_j, `(F_B, k)`, in the same way for columns, among the rows of the
            pass.
    """

    rows: Indices
    row_partners: Indices
    column_partners: Indices
    floors: Floats
    column_floors: Floats

    def pairs(self) -> tuple[Indices, Indices]:
        """Return all listed pairs as rows and columns; some pairs are listed twice."""
        by_row, row_place = np.nonzero(self.row_partners >= 0)
        by_column, column_place = np.nonzero(self.column_partners >= 0)
        return (
            np.concatenate([self.rows[by_row], self.column_partners[by_column, column_place]]),
            np.concatenate([self.row_partners[by_row, row_place], by_column]),
        )
