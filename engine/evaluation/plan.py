"""The plan of an evaluation: what is measured, and about how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saematch.activations.stored import ActivationSource
from saematch.evaluation.ablation import ABLATED
from saematch.evaluation.causes import causes_left_out, most_passes
from saematch.evaluation.methods import EVALUATED
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.schedule import Schedule

_PASS = 1.5  # the guess of a forward pass from the middle block on, for 1,000 tokens
_LOSS_PASSES = 20  # of the stand-ins, about


@dataclass(frozen=True)
class Plan:
    """The measurements of an evaluation.

    Attributes:
        pairs: the number of pairs of layers.
        far: the number of pairs of far layers.
        baselines: the names of the baselines.
        source: the activations; None without activations.
        causal_pairs: the most pairs of features that substitution replaces.
        has_texts: whether meaning is measured.
    """

    pairs: int
    far: int
    baselines: Sequence[str]
    source: ActivationSource | None
    causal_pairs: int
    has_texts: bool

    @property
    def has_causes(self) -> bool:
        """Whether substitution and ablation are measured."""
        return self.source is not None and causes_left_out(self.source, self.causal_pairs) is None

    @property
    def _passes(self) -> int:
        """The most forward passes over half of the tokens that substitution of one pair of layers takes."""
        return most_passes([EVALUATED, *self.baselines])

    def schedule(self) -> Schedule:
        """Return the schedule of the measurements."""
        pairs, has_source = self.pairs, self.source is not None
        model = self.source if isinstance(self.source, LanguageModel) else None
        counts = {
            "baseline": len(self.baselines),
            "weights": pairs,
            "far run": 1 if self.far else 0,
            "distance": self.far,
            "norms": 1 if has_source else 0,
            "codes": pairs if has_source else 0,
            "held out": pairs if has_source else 0,
            "loss": pairs if model else 0,
            "substitution": pairs if self.has_causes else 0,
            "ablation": pairs if self.has_causes else 0,
            "meaning": pairs if self.has_texts else 0,
        }
        # Seconds, from measurements of SAEs with 1,024 features.
        per_token = 0.0 if self.source is None else len(self.source.documents) / 1000
        one_pass = _PASS * per_token
        guesses = {
            "baseline": 0.3 * pairs, "weights": 2.0, "far run": 0.3 * self.far, "distance": 0.5,
            "norms": 0.2 * per_token, "codes": 4.0 * per_token, "held out": 2.0 * per_token,
            "loss": _LOSS_PASSES * one_pass, "substitution": self._passes / 2 * one_pass,
            "ablation": 20.0 * min(per_token, 5.0), "meaning": 0.5,
        }  # fmt: skip
        # How long the model takes is known, since it has read the first batch.
        scale = model.pass_seconds / one_pass if model else 0.0
        known = {kind: scale * guesses[kind] for kind in ("loss", "substitution", "ablation") if counts[kind]}
        return Schedule(counts, guesses, known)

    def cost(self) -> str:
        """Describe what the evaluation takes, without the time."""
        schedule = self.schedule()
        pairs = "1 pair" if self.pairs == 1 else f"{self.pairs:,} pairs"
        cost = f"{schedule.total:,} measurements of {pairs} of layers"
        if not self.has_causes:
            return cost
        assert self.source is not None
        return (
            f"{cost}; in the language model, for each pair: substitution, at most {self._passes} forward passes over "
            f"half of {len(self.source.documents):,} tokens, and ablation of {ABLATED} features"
        )
