"""Candidates, sparse optimum, prices and their proof: from the costs of all pairs to a certified permutation."""

from saematch.assignment.solve import Certificate, Round, Solution, solve

__all__ = ["Certificate", "Round", "Solution", "solve"]
