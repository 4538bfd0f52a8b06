"""Substitution and ablation of one pair of layers: what they need, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from saematch.activations.selection import TokenSelection
from saematch.activations.stored import ActivationSource
from saematch.analysis.tables import Part, Row, fingerprint
from saematch.evaluation import ablation, substitution
from saematch.evaluation.methods import MethodPermutation
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.rankings import BY_FIRST_HALF, halves, is_ranked, match_by_first_half, ranked_pairs
from saematch.matching.result import Matching
from saematch.runs.chain import Chain
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

FEWEST_DOCUMENTS = 4  # so that the second half, which is measured, has two documents


def causes_left_out(source: ActivationSource, causal_pairs: int) -> str | None:
    """Return the reason why neither substitution nor ablation is measured; None if they are."""
    if not isinstance(source, LanguageModel):
        return "no language model was given"
    if causal_pairs == 0:
        return "no pairs are to be replaced (causal_pairs=)"
    if int(source.documents.max()) + 1 < FEWEST_DOCUMENTS:
        return f"the texts have fewer than {FEWEST_DOCUMENTS} documents"
    return None


def most_passes(methods: Iterable[str]) -> int:
    """Return the most forward passes over half of the tokens that substitution takes for runs by some methods."""
    return substitution.passes_of(sum(map(is_ranked, methods)) + len(BY_FIRST_HALF))


class Causes:
    """The measurements of substitution and ablation of one pair of layers.

    Args:
        selection: the tokens of a language model.
        layers: the pair of layers.
        a: the SAE of the first layer.
        b: the SAE of the second layer.
        chains: name of the method -> its run; the evaluated run is the first.
    """

    def __init__(self, selection: TokenSelection, layers: Pair, a: SAE, b: SAE, chains: Mapping[str, Chain]) -> None:
        assert isinstance(selection.source, LanguageModel)
        self._model, self._layers, self._a, self._b = selection.source, layers, a, b
        self._fitted, self._measured = halves(self._model, selection)
        self._rankings = ranked_pairs({name: chain[layers] for name, chain in chains.items() if layers in chain})

    @property
    def passes(self) -> int:
        """The most forward passes over half of the tokens that substitution takes."""
        return most_passes(ranking.method for ranking in self._rankings)

    @property
    def blocks(self) -> int:
        """The number of blocks that run for each ablation; 0 or less if the first SAE reads no earlier block."""
        return self._model.blocks_between(self._layers)

    @property
    def has_pairs(self) -> bool:
        """Whether every method has matched at least one pair."""
        return all(len(ranking.targets) for ranking in self._rankings)

    def record(self) -> dict[str, str]:
        """Return what identifies the order of the pairs, as JSON."""
        return {ranking.method: fingerprint([ranking.sources, ranking.targets]) for ranking in self._rankings}

    def substitution(self, most: int, unfinished: Part | None = None) -> dict[str, list[Row]]:
        """Measure substitution, see `measure_substitution`."""
        rankings = [*self._rankings, *ranked_pairs(self._by_half)]
        return substitution.measure_substitution(
            self._fitted, self._measured, self._layers, self._a, self._b, rankings, most, unfinished
        )

    def ablation(self, permutations: Sequence[MethodPermutation]) -> dict[str, list[Row]]:
        """Measure ablation for some permutations and for those of the first half, see `measure_ablation`."""
        by_half = [MethodPermutation(name, 0, matching.perm.numpy()) for name, matching in self._by_half.items()]
        return ablation.measure_ablation(
            self._fitted, self._measured, self._layers, self._a, self._b, [*permutations, *by_half]
        )

    @cached_property
    def _by_half(self) -> dict[str, Matching]:
        return match_by_first_half(self._fitted, self._layers, self._a, self._b)
