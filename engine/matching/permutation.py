"""The check of a permutation of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saematch.errors import MatchError
from saematch.numeric.rounding import Indices

if TYPE_CHECKING:
    from torch import Tensor


def check_permutation(perm: Any, source_features: int, target_features: int) -> Tensor:
    """Return a caller's permutation as int64 `(F_A,)` on the CPU; -1 stands for an unmatched feature.

    Raises `MatchError` if it does not map each source feature to a target feature of its own.
    """
    import torch

    from saematch.numeric.arrays import dense_array

    array = dense_array(perm, "perm", "a list of indices")
    return torch.from_numpy(check_indices(array, source_features, target_features))


def check_indices(
    array: NDArray[Any], source_features: int, target_features: int, many_to_one: bool = False
) -> Indices:
    """Return the array of a permutation in int64.

    Raises `MatchError` if it does not map source features to target features, or, unless `many_to_one`, if it maps two
    source features to the same target feature.
    """
    if array.shape != (source_features,):
        raise MatchError(f"perm has shape {array.shape}, expected one target per source feature, ({source_features},)")
    if array.dtype.kind not in "iu":
        raise MatchError(f"perm holds {array.dtype}, expected integers")
    outside = np.nonzero((array < -1) | (array >= target_features))[0]
    if len(outside):
        i = outside[0]
        raise MatchError(f"perm[{i}] is {array[i]}, outside -1 to {target_features - 1}: perm is not a permutation")
    array = array.astype(np.int64)
    targets, first = np.unique(array, return_index=True)
    if not many_to_one and len(targets[targets >= 0]) < (array >= 0).sum():
        i = np.setdiff1d(np.nonzero(array >= 0)[0], first)[0]
        raise MatchError(f"perm[{i}] is {array[i]}, which is taken already: perm is not a permutation")
    return array
