"""What it costs to stay without a partner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saematch.numeric.rounding import UNIT_64, Floats


@dataclass(frozen=True)
class Free:
    """What it costs, in the reduced units of M, to leave a row `(F_A,)` or a column `(F_B,)` without a partner.

    Infinite for those that must have one. The errors bound the rounding of the finite ones. `each` is what a row, and a
    column, pays in units of the cost. Where only one side may stay free, it is known how many of it do, and what all of
    them have in common is left out, whose size would cost precision: `price_shift` is what prices lack for that.
    """

    each: tuple[float, float]
    price_shift: float
    rows: Floats
    columns: Floats
    row_error: Floats
    column_error: Floats

    @property
    def nobody(self) -> bool:
        """Whether every row and column must have a partner."""
        return not (np.isfinite(self.rows).any() or np.isfinite(self.columns).any())

    def price_error(self, prices: Floats) -> Floats:
        """How far M_ij - v_j can be off because of v_j.

        A price that is as good as what its column pays to stay free stands for that value itself, exactly: then an
        unmatched column adds nothing to the error, however large its norm.
        """
        return 16 * UNIT_64 * np.abs(prices) + np.where(self.at_most(prices), 2 * self.column_error, 0.0)

    def at_most(self, prices: Floats) -> NDArray[np.bool_]:
        """Which prices are as high as they may be, within rounding."""
        return prices >= self.columns - self.column_error
