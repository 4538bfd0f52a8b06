"""What a run is worth: measurements of weights, activations, a model's loss and meaning, with their uncertainty."""

from saematch.analysis.tables import Table
from saematch.evaluation.activations import StoredActivations
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.explanations import read_explanations
from saematch.evaluation.figures import draw_all
from saematch.evaluation.meaning import TokenOverlap, read_grades
from saematch.evaluation.model import LanguageModel, Texts
from saematch.evaluation.study import Evaluation, evaluate

__all__ = [
    "EndpointJudge", "Evaluation", "LanguageModel", "StoredActivations", "Table", "Texts", "TokenOverlap", "draw_all",
    "evaluate", "read_explanations", "read_grades",
]  # fmt: skip
