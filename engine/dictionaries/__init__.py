"""How far several SAEs agree, by their weights: seeds, training steps, widths or layers, with a proof."""

from saematch.dictionaries.api import consistency
from saematch.dictionaries.figures import draw_figures
from saematch.dictionaries.heads import HeadComparison, compare_heads
from saematch.dictionaries.result import Consistency, NullModel, PairConsistency
from saematch.dictionaries.study import ConsistencyProgress

__all__ = [
    "Consistency", "ConsistencyProgress", "HeadComparison", "NullModel", "PairConsistency", "compare_heads",
    "consistency", "draw_figures",
]  # fmt: skip
