"""What one pass over all pairs found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saematch.numeric.rounding import Floats, Indices


@dataclass(frozen=True)
class Scan:
    """The `k` cheapest partners of every row looked at and, among those rows, of every column; -1 where unused.

    `rows (R,)` were looked at, ascending; `row_partners (R, k)` and `column_partners (F_B, k)` are cheapest first,
    columns list only what may be below the ceiling. `floors (R, k)` are proved lower bounds for M_ij - v_j: entry n
    holds for every pair of the row that is not among the first n of its list. `column_floors (F_B, k)` are the same of
    columns for M_ij - u_i - v_j, among the rows looked at.
    """

    rows: Indices
    row_partners: Indices
    column_partners: Indices
    floors: Floats
    column_floors: Floats

    def pairs(self) -> tuple[Indices, Indices]:
        """All listed pairs as rows and columns, some twice."""
        by_row, place = np.nonzero(self.row_partners >= 0)
        by_column, other = np.nonzero(self.column_partners >= 0)
        return (
            np.concatenate([self.rows[by_row], self.column_partners[by_column, other]]),
            np.concatenate([self.row_partners[by_row, place], by_column]),
        )
