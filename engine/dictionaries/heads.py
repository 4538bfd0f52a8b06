"""A comparison of the decoders of one crosscoder to its heads, or of a cross-layer transcoder to several layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from saematch.errors import MatchError
from saematch.matching.frames import import_pandas
from saematch.numeric.rounding import Floats
from saematch.sae.autoencoder import SAE
from saematch.sae.spaces import check_spaces


@dataclass(frozen=True, repr=False)
class HeadComparison:
    """The decoder rows of each feature in several heads.

    Attributes:
        names: the names of the heads.
        norms: `(F, heads)` the norm of the decoder row of each feature in each head.
        shares: `(F, heads)` the norm in a head, divided by the sum of the norms in all heads: of two heads, the
            relative decoder norm of model diffing (Lindsey et al., "Sparse Crosscoders", 2024). It is 1 / heads for a
            feature that all heads share equally, and 1 for a feature of one head alone. NaN if all rows are 0.
        cosines: `(F,)` the cosine of the two rows of each feature, for two heads; None for more. NaN if a row is 0.
    """

    names: tuple[str, ...]
    norms: Floats
    shares: Floats
    cosines: Floats | None

    def __repr__(self) -> str:
        return f"HeadComparison({len(self.norms)} features, heads {', '.join(self.names)})"

    def to_pandas(self) -> Any:
        """Return a table of pandas with a row for each feature.

        Raises:
            MatchError: if pandas is not installed.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> from saematch.dictionaries import compare_heads
            >>> heads = {name: sm.SAE(torch.eye(2), torch.zeros(2), s * torch.eye(2), torch.zeros(2)) for name, s in
            ...     [("base", 1.0), ("chat", 3.0)]}
            >>> compare_heads(heads).to_pandas()
                     norm_base  norm_chat  share_base  share_chat  cosine
            feature
            0              1.0        3.0        0.25        0.75     1.0
            1              1.0        3.0        0.25        0.75     1.0
        """
        columns = {
            f"{what}_{name}": values[:, head]
            for what, values in (("norm", self.norms), ("share", self.shares))
            for head, name in enumerate(self.names)
        }
        if self.cosines is not None:
            columns["cosine"] = self.cosines
        pandas = import_pandas()
        return pandas.DataFrame(columns, index=pandas.RangeIndex(len(self.norms), name="feature"))


def compare_heads(heads: Mapping[str, SAE]) -> HeadComparison:
    """Compare the decoder rows of the same features in several heads.

    Args:
        heads: name -> SAE, such as the heads of a crosscoder, or the decoders of one layer of a cross-layer transcoder
            to several layers. Feature i of one SAE is feature i of all.

    Raises:
        MatchError: for fewer than two SAEs, for SAEs of different shapes, and for decoders in different spaces.

    Examples:
        >>> import torch
        >>> import saematch as sm
        >>> from saematch.dictionaries import compare_heads
        >>> base = sm.SAE(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2))
        >>> chat = sm.SAE(torch.eye(2), torch.zeros(2), torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.zeros(2))
        >>> found = compare_heads({"base": base, "chat": chat})
        >>> found
        HeadComparison(2 features, heads base, chat)
        >>> found.shares
        array([[0.25, 0.75],
               [1.  , 0.  ]])
        >>> found.cosines
        array([ 1., nan])
    """
    if not isinstance(heads, Mapping) or len(heads) < 2 or not all(isinstance(sae, SAE) for sae in heads.values()):
        raise MatchError("heads must be a mapping of names to SAEs, at least two of them")
    saes = list(heads.values())
    for a, b in combinations(saes, 2):
        if (a.F, a.d) != (b.F, b.d):
            shapes = f"{a.source} has {(a.F, a.d)} and {b.source} {(b.F, b.d)}"
            raise MatchError(f"the heads of one crosscoder have one number of features and one width; {shapes}")
        check_spaces(a, b, ["decoder"], advice="")
    rows = [sae.W_dec.detach().cpu().double().numpy() for sae in saes]
    norms = np.stack([np.linalg.norm(each, axis=1) for each in rows], axis=1)
    with np.errstate(invalid="ignore"):
        shares = norms / norms.sum(axis=1, keepdims=True)
        cosines = None if len(rows) > 2 else (rows[0] * rows[1]).sum(axis=1) / norms.prod(axis=1)
    return HeadComparison(tuple(map(str, heads)), norms, shares, cosines)
