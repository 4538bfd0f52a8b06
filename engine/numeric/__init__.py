"""Arithmetic below everything else: checked arrays, compiled loops, threads, and what rounding can do."""
