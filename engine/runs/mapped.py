"""The maps of a run: its sources are written in the basis of its targets, if they are of two models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saematch.errors import MatchError
from saematch.options import ActivityMetric, names
from saematch.sae.maps import PROCRUSTES, Map, MapLike
from saematch.sources import Layers


def in_other_basis(
    sources: Layers, map: MapLike | Mapping[Any, MapLike], two_sets: bool, metric: str | None
) -> tuple[Layers, dict[str, Any]]:
    """Return sources in the basis of the targets, and layer or name -> the record of the map of each of them.

    Raises:
        MatchError: for a run of one set of SAEs, a map that is still to be fitted, and a metric that needs none.
    """
    if isinstance(map, str) and map == PROCRUSTES:
        raise MatchError(
            "a run takes maps that were fitted before, so that it can be resumed and proved again: write one with "
            "'saematch map', or with saematch.activations.procrustes(…).save(FILE), and give the FILE as map=, or one "
            "for each layer, like 'maps/{layer}.safetensors'"
        )
    if not two_sets:
        raise MatchError("a map leads from one set of SAEs to the basis of another one: give the other one as against=")
    if metric in names(ActivityMetric):
        raise MatchError(
            f"metric {metric!r} compares what features do on the same tokens, which needs no map: leave out map="
        )
    records = dict[int, Any]()  # by the object that is given, which all layers may share
    found = {}
    for key, given in sources.maps_of(map).items():
        if id(given) not in records:
            records[id(given)] = Map.of(given).record()
        found[str(key)] = records[id(given)]
    return sources.mapped(map), found
