"""Smooth minima of every row and column."""
