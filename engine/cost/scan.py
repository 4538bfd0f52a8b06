"""What one pass over all pairs found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saematch.cost.rounding import Floats, Indices


@dataclass(frozen=True)
class Scan:
    """The `k` cheapest partners of every row looked at and, among those rows, of every column; -1 where unused.

    `rows (R,)` were looked at, ascending; `row_partners (R, k)` and `column_partners (F_B, k)` are cheapest first,
    columns list only what is below the ceiling. `floors (R, k)` are proved lower bounds for M_ij - v_j: entry n holds
    for every pair of the row that is not among the first n of its list. `column_floors (F_B, k)` are the same of
    columns for M_ij - u_i - v_j, among the rows looked at. `below (R,)` counts the pairs of a row's list that may be
    below the ceiling; there can be more if all are.
    """

    rows: Indices
    row_partners: Indices
    column_partners: Indices
    floors: Floats
    column_floors: Floats
    below: Indices

    def pairs(self, least: int, most: int) -> tuple[Indices, Indices, Floats]:
        """Pairs as rows and columns, some twice, and a bound for all other pairs of each row looked at.

        Of each row's list the first `least`, and up to `most` while they may be below the ceiling; of each column's the
        first `most`.
        """
        depth = np.clip(self.below, least, most)
        by_row, place = np.nonzero((np.arange(most) < depth[:, None]) & (self.row_partners[:, :most] >= 0))
        by_column, other = np.nonzero(self.column_partners[:, :most] >= 0)
        return (
            np.concatenate([self.rows[by_row], self.column_partners[by_column, other]]),
            np.concatenate([self.row_partners[by_row, place], by_column]),
            self.floors[np.arange(len(self.rows)), np.minimum(depth, self.floors.shape[1] - 1)],
        )
