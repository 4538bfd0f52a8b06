"""The sites that the features of a residual stream come from: predecessors of all features, and groups of features.

The residual stream after a layer is the sum of that before the layer and of the outputs of attention and MLP. A feature
whose decoder row has a large cosine with that of a feature of one of these sites was there before, or was written by
that sublayer; a feature without such a predecessor is new (Feature Flow, arXiv 2502.03032).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from saematch.analysis.predecessors import flow_pairs, nearest_of, partners_of
from saematch.analysis.tables import Chunk, Row, Schema, Table, write_columns
from saematch.numeric.numbers import checked_number
from saematch.numeric.rounding import Floats, Indices
from saematch.options import SiteName
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sources.names import SITES
from saematch.storage.folders import LocalFolder
from saematch.storage.jsonfile import finite_or_none

By = Literal["nearest", "partner"]
LEAST = 0.7  # the decoder cosine from which on a feature of a site counts as a predecessor
NONE = "none"
# By code: the sum of 2^i over the sites that have a predecessor.
GROUPS = tuple(
    "+".join(site for at, site in enumerate(SITES) if code >> at & 1) or NONE for code in range(2 ** len(SITES))
)
_ABOUT_SITE = {
    "partner": "number of the feature of {} that the feature is matched with, one to one; -1 without a partner",
    "cosine": "cosine of the decoder rows of the feature and that partner",
    "nearest": "number of the feature of {} whose decoder row has the largest cosine with that of the feature; -1 if "
    "it is not known",
    "nearest_cosine": "that cosine",
}
_OF_SITE = {"residual": "the residual stream before the layer", "attention": "its attention", "mlp": "its MLP"}
FLOW = Schema(
    "flow",
    "predecessors of every feature of the residual stream, by site",
    {
        "layer": "number of the layer after which the residual stream is read",
        "feature": "number of the feature",
        **{f"{site}_{name}": about.format(_OF_SITE[site]) for site in SITES for name, about in _ABOUT_SITE.items()},
        "partner_group": "sites in which the partner has at least the least cosine, or none",
        "nearest_group": "sites in which the nearest feature has at least the least cosine, or none",
        "label": "label of the feature: what the feature fires on",
    },
)
FLOW_GROUPS = Schema(
    "flow_groups",
    "features of the residual stream by the sites in which they have a predecessor",
    {
        "layer": "number of the layer after which the residual stream is read",
        "by": "partner: predecessors are partners, one to one; nearest: those with the largest cosine, many to one",
        "least": "least cosine of the decoder rows at which a feature counts as a predecessor",
        "group": "the sites that have a predecessor, or none",
        "features": "number of features in the group",
        "share": "the same as a share of the features of the layer",
        "sites": "the sites that the layer was matched with; no other site can have a predecessor",
    },
)


@dataclass(frozen=True)
class LayerFlow:
    """The predecessors of the features of the residual stream after one layer.

    Attributes:
        layer: the number of the layer.
        number: the number of its SAE in the run.
        features: the number of its features, F.
        pairs: site -> the pair of SAEs of the run, for each site that the layer was matched with.
        partner: site -> feature that each feature is matched with `(F,)`; -1 without a partner.
        cosine: site -> cosine of the decoder rows of the feature and its partner `(F,)`; NaN without a partner.
        nearest: site -> feature with the largest cosine `(F,)`; empty if they were not asked for.
        nearest_cosine: site -> that cosine `(F,)`.
    """

    layer: int
    number: int
    features: int
    pairs: dict[SiteName, Pair]
    partner: dict[SiteName, Indices]
    cosine: dict[SiteName, Floats]
    nearest: dict[SiteName, Indices]
    nearest_cosine: dict[SiteName, Floats]

    @property
    def ways(self) -> tuple[By, ...]:
        """The kinds of predecessors that are known: "nearest", if they were asked for, and "partner"."""
        return ("nearest", "partner") if self.nearest else ("partner",)

    def groups(self, least: float = LEAST, by: By = "nearest") -> Indices:
        """Return the group of each feature, as its place in `GROUPS` `(F,)`."""
        cosines, codes = self.cosine if by == "partner" else self.nearest_cosine, np.zeros(self.features, np.int64)
        for at, site in enumerate(SITES):
            if site in cosines:
                codes += (np.nan_to_num(cosines[site], nan=-np.inf) >= least) << at
        return codes


@dataclass(frozen=True, repr=False)
class Flow:
    """The predecessors of the features of a residual stream, layer by layer, as `find_predecessors` returns them.

    Attributes:
        chain: the run.
        layers: the layers that have a predecessor, in ascending order.
        least: the least cosine at which a feature counts as a predecessor.
        groups: the features of each layer by group, one row each; the columns are those of `FLOW_GROUPS`.
    """

    chain: Chain
    layers: tuple[LayerFlow, ...]
    least: float
    groups: Table

    def __repr__(self) -> str:
        return f"Flow(layers {', '.join(str(one.layer) for one in self.layers)}, least={self.least:g})"

    def at(self, least: float) -> Flow:
        """Return the same predecessors, grouped at another least cosine.

        Raises:
            MatchError: if `least` is not a number from -1 to 1.

        Examples:
            >>> import saematch as sm
            >>> from saematch.analysis.flow import find_predecessors
            >>> flow = find_predecessors(sm.match_layers({"residual": "sample?layer=8-9"}, pairs="flow"))
            >>> [(row["group"], row["features"]) for row in flow.at(0.9).groups.where(by="partner") if row["features"]]
            [('none', 1015), ('residual', 9)]
        """
        least = checked_number(least, -1, 1, f"least is {least!r:.40}; give a cosine from -1 to 1")
        rows = [row for one in self.layers for by in one.ways for row in _counts(one, by, least)]
        return Flow(self.chain, self.layers, least, Table(FLOW_GROUPS, rows))

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `flow.csv`, one row for each feature, and `flow_groups.csv`; with pyarrow, also as `.parquet`.

        Raises:
            MatchError: if the folder cannot be written.
        """
        where = LocalFolder(folder)
        self.groups.write(where)
        whole = {"layer", "feature", *(f"{site}_{name}" for site in SITES for name in ("partner", "nearest"))}
        write_columns(where, FLOW, self._chunks, whole=whole, text={"partner_group", "nearest_group", "label"})

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the columns of `FLOW` for one layer after the other."""
        for one in self.layers:
            labels, numbers = self.chain.labels(one.number), range(one.features)
            chunk: dict[str, list[Any]] = {"layer": [one.layer] * one.features, "feature": list(numbers)}
            for site in SITES:
                for name in _ABOUT_SITE:
                    values = getattr(one, name).get(site)
                    default = -1 if name in ("partner", "nearest") else None
                    known = [default] * one.features if values is None else values.tolist()
                    chunk[f"{site}_{name}"] = [finite_or_none(value) for value in known]
            chunk["partner_group"] = [GROUPS[code] for code in one.groups(self.least, "partner")]
            chunk["nearest_group"] = [
                GROUPS[code] if one.nearest else None for code in one.groups(self.least, "nearest")
            ]
            yield chunk | {"label": [labels.get(feature) for feature in numbers]}


def find_predecessors(
    chain: Chain, least: float = LEAST, *, nearest: bool = True, progress: Callable[[str], None] = lambda _: None
) -> Flow:
    """Find the predecessors of every feature of the residual stream, and group features by the sites that have one.

    A predecessor is a feature of the residual stream before the layer, of its attention or of its MLP whose decoder row
    has a cosine of at least `least` with that of the feature. It is the partner of the feature in the one-to-one
    matching of the run, or the nearest feature, which several features may share (Feature Flow, arXiv 2502.03032).

    Args:
        chain: a run of `match_layers(..., pairs="flow")`.
        least: the least cosine of the decoder rows, from -1 to 1.
        nearest: whether to find the nearest features, too, which takes the SAEs and a pass over all pairs of features.
        progress: called with the name of each pair of SAEs before it is read.

    Raises:
        MatchError: if the run has no finished pair of a flow, `least` is not such a number, or the SAEs of the run are
            needed and cannot be read.

    Examples:
        >>> import saematch as sm
        >>> from saematch.analysis.flow import find_predecessors
        >>> sites = {"residual": "sample?layer=8-9", "mlp": {9: sm.load("sample?layer=12")}}
        >>> flow = find_predecessors(sm.match_layers(sites, pairs="flow"), least=0.7)
        >>> for row in flow.groups.where(by="nearest"):
        ...     if row["features"]:
        ...         print(row["layer"], row["group"], row["features"])
        9 none 891
        9 residual 60
        9 mlp 23
        9 residual+mlp 50
    """
    empty = Flow(chain, (), LEAST, Table(FLOW_GROUPS)).at(least)  # refuses what is no cosine before any work
    layers, read = [], lru_cache(maxsize=2)(chain.sae)  # successive pairs share an SAE
    for (layer, number), pairs in flow_pairs(chain).items():
        one = LayerFlow(layer, number, chain.shape(next(iter(pairs.values())))[1], pairs, {}, {}, {}, {})
        for site, pair in pairs.items():
            progress(chain.names.titles(pair))
            one.partner[site], one.cosine[site] = partners_of(chain, pair)
            if nearest:
                one.nearest[site], one.nearest_cosine[site] = nearest_of(read(pair[0]), read(pair[1]))
        layers.append(one)
    return replace(empty, layers=tuple(layers)).at(least)


def _counts(one: LayerFlow, by: By, least: float) -> list[Row]:
    """Return the rows of `FLOW_GROUPS` for a layer."""
    counts = np.bincount(one.groups(least, by), minlength=len(GROUPS)).tolist()
    sites = "+".join(one.pairs)
    return [
        FLOW_GROUPS.row(
            layer=one.layer, by=by, least=least, group=group, features=count, share=count / one.features, sites=sites
        )
        for group, count in zip(GROUPS, counts, strict=True)
    ]
