"""Costs of all pairs, stored."""
