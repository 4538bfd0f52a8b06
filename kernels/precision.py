"""How float32 rows become operands of a product, and how far that product can be from the truth.

A row is split into P parts that the arithmetic of the product represents exactly: each part is the rounding of what
the parts before it leave of the row. Parts are numbered from 0, and the products of two parts are summed if their
numbers add up to less than P. These are 1, 3 or 6 products. The parts are stored side by side, so that the sum is one
ordinary product of longer rows. Rows are split once for all passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saematch.errors import MatchError

ALIGNED = 64  # columns of an operand come in multiples of this: every block of K divides it


@dataclass(frozen=True)
class Precision:
    """How float32 rows are multiplied: in `parts` parts of `bits` significant bits each, held in tensors of `dtype`.

    Examples:
        >>> from saematch import kernels
        >>> kernels.PRECISIONS["bf16x6"].error(4_609) < kernels.PRECISIONS["bf16"].error(4_609)
        True
    """

    name: str
    parts: int
    bits: int
    dtype: torch.dtype

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The parts of the left and the right row that are multiplied; small products first, so that none is lost."""
        pairs = [(a, b) for a in range(self.parts) for b in range(self.parts) if a + b < self.parts]
        return sorted(pairs, key=lambda pair: (-sum(pair), pair))

    @property
    def is_proved(self) -> bool:
        """Whether `error` is a theorem about the arithmetic (`ieee`) rather than a model of tensor cores."""
        return self.bits == 24

    @property
    def dot(self) -> str:
        """Triton's name for the arithmetic of the product."""
        return "ieee" if self.is_proved else "tf32"

    def error(self, width: int) -> float:
        """Return a bound on |product - <x, y>| / (|x| |y|) for float32 rows of `width` columns.

        The numbers of the rows must be 0 or between 2^-100 and 2^100 in size. The bound is inf if there are too many
        columns for any bound.

        - `ieee`: every operation rounds by the IEEE standard, so that the error is at most gamma(width + 8) in units
          of 2^-24, in any order of summation; 8 roundings are to spare, for the sum with a price.
        - Splitting, with u = 2^-bits: P parts leave at most u^P of each row. The P - 1 omitted products whose numbers
          add up to P are at most u^P each. The sum of both is (P + 1) u^P (1 + 4 u). Part a of a row is at most
          (1 + u) u^a of the row.
        - Summing in float32, small products first: the products of parts a and b are u^(a + b) of the whole. They pass
          through as many additions as there are columns in them, in all products after them, and in the blocks at
          their ends. Tensor cores truncate while they sum. Twice the unit, 2^-23, for blocks in the order of their
          columns is a model of this truncation and is not proved; `bench/gpu.py` tests the model on the GPU at hand.
        """
        if self.is_proved:
            return _gamma((width + 8) * 2.0**-24)
        unit: float = 2.0**-self.bits
        sums = [sum(pair) for pair in self.pairs]
        behind = {size: width * sum(other <= size for other in sums) + 2 * ALIGNED + 8 for size in sums}
        summed = math.fsum(_gamma(behind[size] * 2.0**-23) * unit**size for size in sums)
        return (self.parts + 1) * unit**self.parts * (1 + 4 * unit) + summed * (1 + unit) ** 2

    def round(self, values: Tensor) -> Tensor:
        """Round float32 values to the significant bits of a part, to nearest even."""
        if self.dtype == torch.bfloat16:
            return values.to(torch.bfloat16).float()
        dropped = 24 - self.bits
        if dropped == 0:
            return values
        bits = values.view(torch.int32)
        last = (bits >> dropped) & 1
        rounded = ((bits + ((1 << (dropped - 1)) - 1) + last) & -(1 << dropped)).view(torch.float32)
        return torch.where(values.isfinite(), rounded, values)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("ieee", 1, 24, torch.float32),
        Precision("tf32x3", 2, 11, torch.float32),
        Precision("bf16x6", 3, 8, torch.bfloat16),
        Precision("bf16x3", 2, 8, torch.bfloat16),
        Precision("tf32", 1, 11, torch.float32),
        Precision("bf16", 1, 8, torch.bfloat16),
    )
}


def _gamma(terms: float) -> float:
    return terms / (1 - terms) if terms < 1 else math.inf


def precision_named(name: str) -> Precision:
    """Return the precision of this name. Raises `MatchError` for an unknown name.

    Examples:
        >>> from saematch import kernels
        >>> kernels.precision_named("ieee").is_proved
        True
    """
    if name not in PRECISIONS:
        raise MatchError(f"precision {name!r} is not known; choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def split(rows: Tensor, precision: Precision, side: int) -> Tensor:
    """Return the operand of float32 `rows (F, K)` as the left (`side` 0) or right (1) factor of a product.

    The operand is `(F, pairs * K)`, padded with columns of zeros to a multiple of 64 columns.

    Examples:
        >>> import torch
        >>> from saematch import kernels
        >>> kernels.split(torch.ones(2, 100), kernels.precision_named("bf16x3"), 0).shape
        torch.Size([2, 320])
    """
    rows, width = rows.detach(), rows.shape[1]
    length = -(-width * len(precision.pairs) // ALIGNED) * ALIGNED
    operand = torch.zeros((len(rows), length), dtype=precision.dtype, device=rows.device)
    left = rows
    for part in range(precision.parts):
        value = precision.round(left)
        for place, pair in enumerate(precision.pairs):
            if pair[side] == part:
                operand[:, place * width : (place + 1) * width] = value
        left = left - value
    return operand
