"""The specification of the pass."""

from torch import Tensor


def int8_products(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor) -> Tensor:
    """Return the sum over k of left_ik right_jk, times right_scale_j, times left_scale_i, `(F_A, F_B)`.

    The sum is exact, and rounded once to float32. Each of the two float32 products rounds once.
    """
    sums = left.cpu().long() @ right.cpu().long().T
    return sums.to(left.device).float() * right_scale * left_scale[:, None]
