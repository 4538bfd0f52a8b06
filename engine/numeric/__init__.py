"""Arithmetic for all other packages: checked arrays, compiled loops, threads, and bounds for rounding errors."""
