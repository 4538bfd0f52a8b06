"""Evaluation of a run: measurements of weights, activations, a language model's loss and meaning, with intervals."""

from saematch.activations.stored import StoredActivations
from saematch.analysis.tables import Table
from saematch.evaluation.api import Evaluation, evaluate
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.explanations import read_explanations
from saematch.evaluation.figures import draw_all
from saematch.evaluation.meaning import TokenOverlap, read_grades
from saematch.evaluation.model import LanguageModel
from saematch.evaluation.texts import Texts

__all__ = [
    "EndpointJudge", "Evaluation", "LanguageModel", "StoredActivations", "Table", "Texts", "TokenOverlap", "draw_all",
    "evaluate", "read_explanations", "read_grades",
]  # fmt: skip
