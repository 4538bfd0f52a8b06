"""From the costs of all pairs to a certified permutation: candidates, the sparse optimum, prices and their proof."""

from saematch.assignment.baselines import BASELINES
from saematch.assignment.certificate import TOLERANCE, Certificate, Solution
from saematch.assignment.column_generation import Round, solve
from saematch.assignment.margins import MarginSearch

__all__ = ["BASELINES", "TOLERANCE", "Certificate", "MarginSearch", "Round", "Solution", "solve"]
