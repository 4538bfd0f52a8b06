"""The names that options and answers may have, as types: for type checkers, and for the checks of arguments.

`names(Method)` lists the names of a type, so that every list of names exists once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal, get_args

Activation = Literal["jumprelu", "relu", "topk"]
Part = Literal["encoder", "bias", "decoder"]
Metric = Literal["squared_distance", "cosine", "absolute_cosine"]
ActivityMetric = Literal["correlation", "jaccard", "activation_cosine"]
FoldName = Literal["threshold", "decoder_norm", "none"]
SaeFormat = Literal["saelens", "gemma_scope"]

Method = Literal["optimal", "nearest", "mutual_nearest", "greedy"]
BackendName = Literal["auto", "torch", "triton"]
PrecisionName = Literal["auto", "int8", "float32"]
Status = Literal["optimal", "time_limit", "round_limit", "suboptimal", "many_to_one", "incomplete", "unproved"]
Limit = Literal["time_limit", "round_limit"]

PairsName = Literal["adjacent", "all", "same", "flow"]
SiteName = Literal["residual", "attention", "mlp"]
Stage = Literal["start", "reading", "pass", "done", "failed"]
TableFormat = Literal["csv", "parquet", "json", "graphml"]

Hook = Literal["resid_post", "resid_pre"]
StandInKind = Literal["sae_of_target", "sae_of_source", "dropped", "carried"]
Score = Literal["conditional", "jaccard", "cosine"]
ReplacedBy = Literal["partner", "nearest", "random"]
Effect = Literal["falls", "change", "strongest"]
VerdictStatus = Literal["graded", "unparsed", "unanswered"]


class Side(IntEnum):
    """The side of a pair that an SAE is on: its features are matched (source), or are the partners (target)."""

    SOURCE = 0
    TARGET = 1


def names(options: Any) -> tuple[str, ...]:
    """Return the names of one of these types, in the order in which they are written.

    >>> names(FoldName)
    ('threshold', 'decoder_norm', 'none')
    """
    return get_args(options)
