"""Matching one pair of SAEs: the problem, its solver, and the answer with its proof."""
