"""Candidates, sparse optimum, prices and their proof: from the costs of all pairs to a certified permutation."""

from saematch.assignment.column_generation import Certificate, Round, Solution, solve

__all__ = ["Certificate", "Round", "Solution", "solve"]
