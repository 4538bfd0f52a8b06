"""The contents of the page of a flow: the groups of residual features by the sites of their predecessors."""

from __future__ import annotations

from typing import Any

from saematch.analysis.flow import GROUPS, NONE, find_predecessors
from saematch.analysis.persistence import LEAST_COSINES
from saematch.errors import MatchError
from saematch.runs.chain import Chain
from saematch.runs.plan import pair_name


def describe_flow(chain: Chain, nearest: bool) -> dict[str, Any] | None:
    """Return the predecessors of a flow as JSON content; None for a run that is none, or without cosines.

    Args:
        chain: the run.
        nearest: whether to find the nearest features, with passes over all pairs of features.

    Returns:
        The layers of the residual stream, the groups of features, their shares as lists by layer, for groups that occur
        and by kind of predecessor and least cosine, and the names of the pairs that lead from a site to the stream.
    """
    try:
        flow = find_predecessors(chain, nearest=nearest)
    except MatchError:
        return None
    groups = [*GROUPS[1:], NONE]
    shares = []
    for least in LEAST_COSINES:
        table = flow.at(least).groups
        for by in flow.layers[0].ways:
            for group in groups:
                rows = table.where(by=by, group=group)
                if any(row["features"] for row in rows):
                    found = [row["share"] for row in rows]
                    shares.append({"by": by, "least": least, "group": group, "shares": found})
    pairs = [pair_name(pair) for one in flow.layers for pair in one.pairs.values()]
    return {"layers": [one.layer for one in flow.layers], "groups": groups, "shares": shares, "pairs": pairs}
