"""Candidates, sparse optimum, prices and their proof: from the costs of all pairs to a certified permutation."""

from saematch.assignment.baselines import BASELINES
from saematch.assignment.column_generation import Certificate, Round, Solution, solve
from saematch.assignment.margins import Margins

__all__ = ["BASELINES", "Certificate", "Margins", "Round", "Solution", "solve"]
